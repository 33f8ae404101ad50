// Who was turned away, for the audit. Strangers can ask as often as they like, and must not fill a disk by it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/log/logger.h"

namespace fresco {

struct Denial {
  std::string method, code, message;
  std::string peer;  // as gRPC names it, with its port
};

// Writes lines `denied`, with `count`: the first of an address, code and message at once, and while more of the same
// come, one a second for all of them. The counts add up to all denials. Thread-safe.
class DenialLog {
 public:
  // So many addresses, codes and messages are told apart at a time; what comes beyond them is one, "(others)".
  static constexpr size_t kMaxKinds = 100;

  // Both outlive it.
  DenialLog(const Logger* audit, Clock* clock);
  // Stops.
  ~DenialLog();
  DenialLog(const DenialLog&) = delete;
  DenialLog& operator=(const DenialLog&) = delete;

  void Add(const Denial& denial);
  // Writes what has not been written. Nothing is added any more.
  void Stop();

 private:
  using Kind = std::tuple<std::string, std::string, std::string>;  // address, code, message
  // Of a kind, since its last line.
  struct Held {
    absl::Time since;
    int64_t count = 0;
    Denial last;  // "(several)" where they differ; the peers, but for their ports
  };
  struct Line {
    Denial denial;
    int64_t count = 0;
  };

  void Run();
  // Waits for it; nothing: it is over.
  std::optional<std::vector<Line>> AwaitLines();
  absl::Time NextDue() const FRESCO_REQUIRES(mutex_);
  std::vector<Line> TakeLines(absl::Time now) FRESCO_REQUIRES(mutex_);
  void Write(const Line& line) const;

  const Logger* const audit_;
  Clock* const clock_;
  Mutex mutex_;
  CondVar changed_;
  std::map<Kind, Held> held_ FRESCO_GUARDED_BY(mutex_);
  bool stop_ FRESCO_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace fresco
