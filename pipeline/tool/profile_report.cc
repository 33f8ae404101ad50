#include "pipeline/tool/profile_report.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "pipeline/base/printable.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/memory_history_report.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMilli = 1e3, kPercent = 100;

void PrintStage(const ProfiledStage& stage, int top, const MeasuredLimits& limits) {
  const StageTimes& times = stage.times;
  std::printf(
      "\n%s: %.3f ms (%d recorded); its rows add up to %.1f %% of the %.3f ms without the profiler, which adds %.1f %% "
      "to a call (median)\n",
      times.name.c_str(), times.seconds * kMilli, times.calls, kPercent * stage.sum_by_plain(),
      stage.plain_seconds * kMilli, kPercent * stage.overhead);
  PrintLayers(times, top, limits);
}

Json ToJson(const ProfiledStage& stage, const MeasuredLimits& limits) {
  const StageTimes& times = stage.times;
  Json json = {{"name", times.name},
               {"calls", times.calls},
               {"seconds", times.seconds},
               {"plain_seconds", stage.plain_seconds},
               {"overhead", stage.overhead},
               {"layer_seconds", times.layer_seconds()},
               {"outside_seconds", times.outside_seconds},
               {"idle_seconds", times.idle_seconds},
               {"lost_share", times.lost_seconds() / times.seconds},
               {"sum_seconds", stage.sum_seconds()},
               {"sum_by_plain", stage.sum_by_plain()}};
  json.update(LayersJson(times, limits));
  return json;
}

}  // namespace

void PrintProfile(const ProfileReport& report, int top) {
  std::printf("%s, %s on %s: %dx%d, batch %d, guidance %g\n", PrintableName(report.model).c_str(),
              report.precision.c_str(), report.device.c_str(), report.width, report.height, report.batch,
              static_cast<double>(report.guidance));
  PrintLimits(report.limits);
  for (const ProfiledStage& stage : report.stages) PrintStage(stage, top, report.limits);
  PrintMemory(report.memory, report.device);
  if (!report.trace.empty())
    std::printf("\n%s: the trace, for Perfetto (ui.perfetto.dev) or chrome://tracing\n", report.trace.c_str());
}

void PrintProfileAsJson(const ProfileReport& report) {
  Json json = {{"model", report.model},      {"device", report.device}, {"precision", report.precision},
               {"width", report.width},      {"height", report.height}, {"batch", report.batch},
               {"guidance", report.guidance}};
  json.update(LimitsJson(report.limits));
  json["trace"] = report.trace.empty() ? Json() : Json(report.trace);
  json["stages"] = Json::array();
  for (const ProfiledStage& stage : report.stages) json["stages"].push_back(ToJson(stage, report.limits));
  json["memory"] = MemoryJson(report.memory, report.device);
  PrintJson(json);
}

}  // namespace fresco
