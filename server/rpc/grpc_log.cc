#include "server/rpc/grpc_log.h"

#include <grpc/support/log.h>

#include <string_view>

#include "pipeline/base/strings.h"
#include "server/rpc/excerpt.h"

namespace fresco {
namespace {

// Of a line's text, which can hold a header of many kilobytes.
constexpr size_t kMaxText = 1000;

// gRPC takes a bare function, so that who it is for has to be found by it. Never destroyed: gRPC's threads may outlive
// everything else.
struct Target {
  Mutex mutex;
  GrpcLog* log FRESCO_GUARDED_BY(mutex) = nullptr;
};
Target& TheTarget() {
  static Target* const target = new Target;
  return *target;
}

LogLevel LevelOf(gpr_log_severity severity) {
  if (severity == GPR_LOG_SEVERITY_ERROR) return LogLevel::kError;
  return severity == GPR_LOG_SEVERITY_INFO ? LogLevel::kInfo : LogLevel::kDebug;
}

void Take(gpr_log_func_args* line) {
  const std::string_view path = line->file;
  const std::string source = StrCat(path.substr(path.rfind('/') + 1), ":", line->line);
  Target& target = TheTarget();
  MutexLock lock(&target.mutex);
  if (target.log != nullptr) target.log->Write(LevelOf(line->severity), source, line->message);
}

}  // namespace

GrpcLog::GrpcLog(const Logger* logger, const Clock* clock) : logger_(logger), clock_(clock) {
  {
    Target& target = TheTarget();
    MutexLock lock(&target.mutex);
    target.log = this;
  }
  gpr_set_log_function(Take);
}

GrpcLog::~GrpcLog() {
  gpr_set_log_function(nullptr);  // its own again
  {
    Target& target = TheTarget();
    MutexLock lock(&target.mutex);
    target.log = nullptr;
  }
  MutexLock lock(&mutex_);
  TellLeftOut();
}

void GrpcLog::Write(LogLevel level, const std::string& source, const std::string& text) {
  MutexLock lock(&mutex_);
  const absl::Time now = clock_->Now();
  if (now >= second_ + absl::Seconds(1)) {
    TellLeftOut();
    second_ = now;
    written_ = 0;
  }
  if (written_ == kLinesPerSecond) {
    ++left_out_;
    return;
  }
  ++written_;
  logger_->Log(level, "grpc", {{"source", source}, {"text", Excerpt(text, kMaxText)}});
}

void GrpcLog::TellLeftOut() {
  if (left_out_ > 0) logger_->Log(LogLevel::kWarning, "grpc_lines_left_out", {{"count", left_out_}});
  left_out_ = 0;
}

}  // namespace fresco
