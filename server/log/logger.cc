#include "server/log/logger.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>

#include "absl/time/time.h"
#include "pipeline/base/strings.h"
#include "server/log/line_writer.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warning", "error"};
constexpr std::array<std::string_view, 4> kLevelTexts = {"DEBUG", "INFO ", "WARN ", "ERROR"};
constexpr std::array<spdlog::level::level_enum, 4> kLevels = {spdlog::level::debug, spdlog::level::info,
                                                              spdlog::level::warn, spdlog::level::err};

Json ToJson(const LogValue& value) {
  if (const double* number = std::get_if<double>(&value)) {
    // Milliseconds of a second, or per mille of anything else, are as fine as a log needs.
    return std::round(*number * 1e4) / 1e4;
  }
  return std::visit([](const auto& held) { return Json(held); }, value);
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool IsBareWord(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return c > ' ' && c < 127 && c != '"' && c != '='; });
}

std::string TextLine(std::string_view time, LogLevel level, std::string_view event, const LogFields& fields) {
  std::string line = StrCat(time, " ", kLevelTexts[static_cast<size_t>(level)], " ", event);
  for (const auto& [name, value] : fields) {
    const std::string* text = std::get_if<std::string>(&value);
    line += StrCat(" ", name, "=", text != nullptr && IsBareWord(*text) ? *text : Dump(ToJson(value)));
  }
  return line;
}

std::string JsonLine(std::string_view time, LogLevel level, std::string_view event, const LogFields& fields) {
  Json line = {{"time", time}, {"level", kLevelNames[static_cast<size_t>(level)]}, {"event", event}};
  for (const auto& [name, value] : fields) line[std::string(name)] = ToJson(value);
  return Dump(line);
}

class FunctionSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FunctionSink(std::function<void(std::string_view)> write) : write_(std::move(write)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    write_({message.payload.data(), message.payload.size()});
  }
  void flush_() override {}

 private:
  const std::function<void(std::string_view)> write_;
};

// Onto a file that may fail: what is lost is counted, and said once there is room again.
class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // `notice` makes the line that says how many were lost.
  FileSink(int fd, std::function<void()> on_lost, std::function<std::string(int64_t)> notice)
      : writer_(fd), on_lost_(std::move(on_lost)), notice_(std::move(notice)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (lost_ > 0 && writer_.Write(notice_(lost_))) lost_ = 0;
    if (lost_ == 0 && writer_.Write({message.payload.data(), message.payload.size()})) return;
    ++lost_;
    if (on_lost_) on_lost_();
  }
  void flush_() override {}

 private:
  LineWriter writer_;
  const std::function<void()> on_lost_;
  const std::function<std::string(int64_t)> notice_;
  int64_t lost_ = 0;  // and not said yet
};

}  // namespace

class Logger::Impl {
 public:
  // `on_error`: a line could not even be made.
  Impl(const LogConfig& config, spdlog::sink_ptr sink, const std::function<void()>& on_error)
      : logger("fresco", std::move(sink)) {
    // Else spdlog would write to standard error itself.
    logger.set_error_handler([on_error](const std::string&) {
      if (on_error) on_error();
    });
    logger.set_pattern("%v");
    logger.set_level(kLevels[static_cast<size_t>(config.level)]);
  }
  spdlog::logger logger;
};

Logger::Logger(const LogConfig& config, const Clock* clock, std::function<void()> on_lost, int fd)
    : config_(config),
      clock_(clock),
      impl_(std::make_unique<Impl>(
          config,
          std::make_shared<FileSink>(fd, on_lost,
                                     [this](int64_t lost) {
                                       return Line(LogLevel::kWarning, "log_lines_lost", {{"count", lost}});
                                     }),
          on_lost)) {}

Logger::Logger(const LogConfig& config, const Clock* clock, std::function<void(std::string_view)> write)
    : config_(config),
      clock_(clock),
      impl_(std::make_unique<Impl>(config, std::make_shared<FunctionSink>(std::move(write)), std::function<void()>())) {
}

Logger::~Logger() = default;

std::string Logger::Line(LogLevel level, std::string_view event, const LogFields& fields) const {
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", clock_->WallTime(), absl::UTCTimeZone());
  return config_.format == LogFormat::kJson ? JsonLine(time, level, event, fields)
                                            : TextLine(time, level, event, fields);
}

void Logger::Log(LogLevel level, std::string_view event, const LogFields& fields) const {
  if (level < config_.level) return;
  impl_->logger.log(kLevels[static_cast<size_t>(level)], "{}", Line(level, event, fields));
}

}  // namespace fresco
