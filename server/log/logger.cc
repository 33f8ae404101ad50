#include "server/log/logger.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>

#include "absl/time/time.h"
#include "pipeline/base/strings.h"

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

}  // namespace

class Logger::Impl {
 public:
  Impl(const LogConfig& config, spdlog::sink_ptr sink) : logger("fresco", std::move(sink)) {
    logger.set_pattern("%v");
    logger.set_level(kLevels[static_cast<size_t>(config.level)]);
  }
  spdlog::logger logger;
};

Logger::Logger(const LogConfig& config, const Clock* clock)
    : config_(config),
      clock_(clock),
      impl_(std::make_unique<Impl>(config, std::make_shared<spdlog::sinks::stderr_sink_mt>())) {}

Logger::Logger(const LogConfig& config, const Clock* clock, std::function<void(std::string_view)> write)
    : config_(config),
      clock_(clock),
      impl_(std::make_unique<Impl>(config, std::make_shared<FunctionSink>(std::move(write)))) {}

Logger::~Logger() = default;

void Logger::Log(LogLevel level, std::string_view event, const LogFields& fields) const {
  if (level < config_.level) return;
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", clock_->WallTime(), absl::UTCTimeZone());
  const std::string line =
      config_.format == LogFormat::kJson ? JsonLine(time, level, event, fields) : TextLine(time, level, event, fields);
  impl_->logger.log(kLevels[static_cast<size_t>(level)], "{}", line);
}

}  // namespace fresco
