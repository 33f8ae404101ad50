// Many Generate calls at once of one server, by gRPC's callback interface so that the client costs less than the
// server, each with a record of how it went.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "fresco/v1/image_generation.grpc.pb.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// How a call went.
struct CallRecord {
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
  std::string error;  // where it is not OK
  bool well_formed =
      false;             // OK, with one Completed, last, and its picture before it; or not OK and without a Completed
  absl::Duration total;  // from when it was due to its end
  absl::Duration late;   // from when it was due to when it was sent: the client's own, in `total` too
  absl::Duration queue, prepare, denoise, decode, encode;  // as the server has told
  int64_t bytes = 0;                                       // of its picture
};

struct TrafficOptions {
  std::string address;
  int connections = 4;  // calls take them in turn
  int steps = 4;
  int side = 16;  // pixels
};

// Thread-safe. All calls have ended before it goes.
class Traffic {
 public:
  // `clock` outlives it.
  Traffic(const TrafficOptions& options, const Clock* clock);
  ~Traffic();

  using Done = std::function<void(const CallRecord&)>;
  // Sends a request that was due at `due`, with a seed of its own; `opened` (may be empty) is called with its first
  // event, `done` once when it has ended, both on a thread of gRPC's.
  void Send(absl::Time due, std::function<void()> opened, Done done);

  // Returns when none is under way.
  void AwaitNone();
  int under_way() const;

 private:
  class Stream;

  void Ended();

  const Clock* const clock_;
  std::vector<std::unique_ptr<v1::ImageGeneration::Stub>> stubs_;
  v1::GenerateRequest request_;  // but for its seed
  mutable Mutex mutex_;
  CondVar ended_;
  uint64_t sent_ FRESCO_GUARDED_BY(mutex_) = 0;
  int under_way_ FRESCO_GUARDED_BY(mutex_) = 0;
};

// Records of a run, in the order in which the calls ended. `each` (may be empty) is called with their count after each.
using Records = std::vector<CallRecord>;
using Each = std::function<void(size_t ended)>;

// Closed loop: as one ends the next is sent, `in_flight` of them, `count` in all.
Records RunClosedLoop(Traffic* traffic, const Clock* clock, int in_flight, size_t count);

// Open loop: `count` arrivals of a Poisson process of `rate` per second, whatever the server makes of them. `seed`
// decides when they are due.
Records RunOpenLoop(Traffic* traffic, const Clock* clock, double rate, size_t count, uint64_t seed, const Each& each);

// `share` (0 to 1) of `durations` are not longer; zero where there are none.
absl::Duration Quantile(std::vector<absl::Duration> durations, double share);

}  // namespace fresco
