// Takes TCP connections for gRPC, and goes on when that fails. gRPC's own listener (1.51, its issue 20418) ends for
// good at the first accept() that fails, be it that file descriptors have run out for a moment or that a caller has
// left early: the server would run, say that it is well, and hear nobody.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace fresco {

// Start and Stop from one thread.
class Listener {
 public:
  // Listens on every address of host:port (port 0: any free one, the same for all), where host is a name, an IPv4
  // address or an IPv6 address in brackets; [::] is all of IPv4 too. Who connects waits for Start. UNAVAILABLE, naming
  // the address and the reason, if it cannot be had. `unacknowledged`: a connection whose other end acknowledges
  // nothing that is sent to it for so long is broken off (TCP_USER_TIMEOUT).
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const std::string& address, absl::Duration unacknowledged);
  // Stops.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }

  // Gives each connection, a socket that does not block, to `take`, which owns it from then on. `on_trouble` hears an
  // error when connections cannot be taken, and OK when they can again; those who connect meanwhile wait. Both are
  // called on a thread of the listener's.
  using Take = std::function<void(int socket)>;
  using OnTrouble = std::function<void(const absl::Status&)>;
  void Start(Take take, OnTrouble on_trouble);
  // Refuses further connections. When it returns, neither function is running or will be called.
  void Stop();

 private:
  explicit Listener(absl::Duration unacknowledged);

  absl::Status BindAll(const std::string& address);
  void Run();
  bool AcceptAll(int socket);
  void Tell(int error);
  void CloseSockets();

  const absl::Duration unacknowledged_;
  std::vector<int> sockets_;
  int port_ = 0;
  int stop_ = -1;  // an eventfd: end the thread
  Take take_;
  OnTrouble on_trouble_;
  int trouble_ = 0;  // the thread's; the error that on_trouble_ has heard of
  std::thread thread_;
};

}  // namespace fresco
