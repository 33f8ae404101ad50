// What gRPC itself has to say, as lines of the log. Left alone it prints them to standard error as they are, and what
// strangers send is in them: a header with a line feed in it would be a line of its own, which looks like one of ours.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/log/logger.h"

namespace fresco {

// Takes gRPC's lines as long as it lives; one at a time, since gRPC has one place for that in a process. Thread-safe.
class GrpcLog {
 public:
  // Of each second so many lines are written; then `grpc_lines_left_out` says how many were not. Strangers cause them.
  static constexpr int64_t kLinesPerSecond = 10;

  // Both outlive it.
  GrpcLog(const Logger* logger, const Clock* clock);
  ~GrpcLog();
  GrpcLog(const GrpcLog&) = delete;
  GrpcLog& operator=(const GrpcLog&) = delete;

  // A line of gRPC's. `source` is the file and line of its own.
  void Write(LogLevel level, const std::string& source, const std::string& text);

 private:
  void TellLeftOut() FRESCO_REQUIRES(mutex_);

  const Logger* const logger_;
  const Clock* const clock_;
  Mutex mutex_;
  absl::Time second_ FRESCO_GUARDED_BY(mutex_) = absl::InfinitePast();  // when it began
  int64_t written_ FRESCO_GUARDED_BY(mutex_) = 0;                       // in it
  int64_t left_out_ FRESCO_GUARDED_BY(mutex_) = 0;                      // and not told yet
};

}  // namespace fresco
