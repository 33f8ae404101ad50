// Log lines for people (text) or machines (JSON): an event's name and named fields, one line each.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "pipeline/base/clock.h"
#include "server/config/config.h"

namespace fresco {

using LogValue = std::variant<std::string, int64_t, uint64_t, double, bool>;
using LogFields = std::vector<std::pair<std::string_view, LogValue>>;

// Thread-safe.
class Logger {
 public:
  // Writes to standard error, or to `fd`, which stays open. `clock` outlives it. A line that cannot be written, because
  // the disk is full or nobody reads, is lost, and nobody waits for it for long (line_writer.h): `on_lost` (may be
  // empty) is called for each by the thread that logs, and must not log. The next that can be written comes after one
  // that says how many were lost: `log_lines_lost`.
  Logger(const LogConfig& config, const Clock* clock, std::function<void()> on_lost = {}, int fd = 2);
  // Gives each finished line, without its end, to `write`; calls are serialised.
  Logger(const LogConfig& config, const Clock* clock, std::function<void(std::string_view line)> write);
  ~Logger();

  // text: `2026-11-23T12:00:00.123Z INFO  request id=abc code=OK`; values with spaces are quoted as in JSON.
  // json: {"time":"…","level":"info","event":"request","id":"abc","code":"OK"}. Bytes that are not UTF-8 are replaced.
  void Log(LogLevel level, std::string_view event, const LogFields& fields) const;

  bool prompts() const { return config_.prompts; }  // whether prompts may be logged

 private:
  class Impl;

  std::string Line(LogLevel level, std::string_view event, const LogFields& fields) const;

  const LogConfig config_;
  const Clock* const clock_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace fresco
