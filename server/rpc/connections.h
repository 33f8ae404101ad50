// The connections that are open, so that one that abuses the server can be ended: gRPC 1.51 has no defence against a
// caller that begins calls and resets them at once, for ever (CVE-2023-44487). Each is begun all the same, and what
// they take waits for its turn while the connection's reader takes in more of them: memory, and everybody's time.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe. Held by shared_ptr, since gRPC may let go of a call after the server has gone.
class Connections {
 public:
  // Calls that a connection's caller may give up, beyond those that it waits for and so many a second. Whoever leaves,
  // or gives all up because of a deadline, has far fewer; of a proxy whose callers do, others wait.
  static constexpr int kMaxGivenUp = 1000;
  static constexpr int kForgivenPerSecond = 100;

  // A connection was ended, whose caller gave up more. Called without a lock held.
  using OnEnded = std::function<void(const std::string& peer)>;

  // `max_per_peer`: connections from one address; 0: any number. `max_streams`: calls that HTTP/2 lets a connection
  // have open. The clock outlives the object.
  Connections(int max_per_peer, int max_streams, const Clock* clock, OnEnded on_ended);

  // A socket that is connected, before gRPC has it. False: its address has as many as it may.
  bool Add(int socket);

  // A call of the connection from `peer`, as gRPC says it, begins here, is over, and lets go of its memory. Ends the
  // connection when too many were given up. Where more have begun and are still there than can be open, the rest have
  // been given up, and wait for their end to be noticed: that is known long before they are over.
  void CallBegun(std::string_view peer);
  void CallOver(std::string_view peer, bool given_up);
  void CallGone(std::string_view peer);

 private:
  struct Connection {
    std::string peer;
    std::string address;  // its part without the port
    double given_up = 0;  // calls, at `since`, less those that are forgiven
    absl::Time since;
    int calls = 0;  // that have begun and are not gone
    bool ended = false;
  };
  using Open = std::map<int, Connection>;  // by socket

  void Forget(Open::iterator connection) FRESCO_REQUIRES(mutex_);
  bool HasRoom(const std::string& address) FRESCO_REQUIRES(mutex_);
  Connection* Find(std::string_view peer) FRESCO_REQUIRES(mutex_);
  bool IsTooMuch(const Connection& connection) const FRESCO_REQUIRES(mutex_);
  // Whether it has been ended by that.
  bool EndIfTooMuch(Connection* connection) FRESCO_REQUIRES(mutex_);

  const int max_per_peer_;
  const int max_streams_;
  const Clock* const clock_;
  const OnEnded on_ended_;
  Mutex mutex_;
  // gRPC closes sockets, and does not say so: what is here is open only while the socket's other end is its peer.
  Open open_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, int, std::less<>> by_peer_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, std::set<int>> by_address_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
