#include "pipeline/tool/profile_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/memory_history_report.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGiga = 1e9, kMiB = 1 << 20, kMilli = 1e3, kPercent = 100;

// What a layer does in its time.
struct Rates {
  double flops_per_second = 0, bytes_per_second = 0;
  double of_peak = 0;  // of the device's, in the layer's dtype; 0: not known
};

// How long the products would take at the device's peak; 0: that is not known.
double SecondsAtPeak(const LayerTime& layer, const std::map<std::string, double>& peaks) {
  const auto peak = peaks.find(layer.dtype);
  return peak == peaks.end() || peak->second <= 0 ? 0 : static_cast<double>(layer.flops) / peak->second;
}

Rates RatesOf(const LayerTime& layer, double seconds_at_peak) {
  if (layer.seconds <= 0) return {};
  return {static_cast<double>(layer.flops) / layer.seconds, static_cast<double>(layer.bytes) / layer.seconds,
          seconds_at_peak / layer.seconds};
}

// A kind's row, and its layers' time at their own peaks: they may be of several types.
struct Kind {
  LayerTime sum;
  double seconds_at_peak = 0;
};

std::vector<Kind> KindsOf(const StageTimes& times, const std::map<std::string, double>& peaks) {
  std::vector<Kind> kinds;
  for (LayerTime& sum : SumByKind(times.layers)) {
    Kind& kind = kinds.emplace_back(Kind{std::move(sum), 0});
    for (const LayerTime& layer : times.layers) {
      const bool own = layer.kind == kind.sum.kind && layer.component() == kind.sum.name;
      if (own) kind.seconds_at_peak += SecondsAtPeak(layer, peaks);
    }
  }
  return kinds;
}

// Nothing for what a layer has none of.
std::string Column(double value, const char* unit = "") {
  if (value <= 0) return "-";
  return absl::StrFormat(value < 0.1 ? "%.4f%s" : value < 10 ? "%.2f%s" : "%.1f%s", value, unit);
}

void PrintRow(const std::string& name, const LayerTime& layer, double stage_seconds, double seconds_at_peak) {
  const Rates rates = RatesOf(layer, seconds_at_peak);
  std::printf("%10.3f %6.1f %% %9s %9s %8s %9s %8s  %-15s %s\n", layer.seconds * kMilli,
              kPercent * layer.seconds / stage_seconds, Column(static_cast<double>(layer.flops) / kGiga).c_str(),
              Column(rates.flops_per_second / kGiga).c_str(), Column(kPercent * rates.of_peak, " %").c_str(),
              Column(static_cast<double>(layer.bytes) / kMiB).c_str(), Column(rates.bytes_per_second / kGiga).c_str(),
              layer.dtype.c_str(), name.c_str());
}

void PrintHead(const char* last) {
  std::printf("%10s %8s %9s %9s %8s %9s %8s  %-15s %s\n", "ms", "share", "GFLOP", "GFLOP/s", "of peak", "MiB", "GB/s",
              "dtype", last);
}

void PrintRest(const char* name, double seconds, double stage_seconds) {
  if (seconds <= 0) return;
  LayerTime rest;
  rest.seconds = seconds;
  PrintRow(name, rest, stage_seconds, 0);
}

void PrintKinds(const StageTimes& times, const std::map<std::string, double>& peaks) {
  PrintHead("kind");
  for (const auto& [sum, seconds_at_peak] : KindsOf(times, peaks))
    PrintRow(StrCat(sum.name, ", ", LayerKindName(sum.kind)), sum, times.seconds, seconds_at_peak);
  PrintRest("between layers", times.outside_seconds, times.seconds);
  PrintRest("the device waits", times.idle_seconds, times.seconds);
}

void PrintLayers(const StageTimes& times, int top, const std::map<std::string, double>& peaks) {
  std::vector<LayerTime> layers = times.layers;
  if (top > 0) {
    std::stable_sort(layers.begin(), layers.end(),
                     [](const LayerTime& a, const LayerTime& b) { return a.seconds > b.seconds; });
    layers.resize(std::min(layers.size(), static_cast<size_t>(top)));
  }
  std::printf("\n");
  PrintHead(layers.size() == times.layers.size() ? "layer"
                                                 : StrCat("the longest of ", times.layers.size(), " layers").c_str());
  for (const LayerTime& layer : layers) PrintRow(layer.name, layer, times.seconds, SecondsAtPeak(layer, peaks));
}

void PrintStage(const ProfiledStage& stage, int top, const std::map<std::string, double>& peaks) {
  const StageTimes& times = stage.times;
  std::printf(
      "\n%s: %.3f ms (%d recorded); its rows add up to %.1f %% of the %.3f ms without the profiler, which adds %.1f %% "
      "to a call (median)\n",
      times.name.c_str(), times.seconds * kMilli, times.calls, kPercent * stage.sum_by_plain(),
      stage.plain_seconds * kMilli, kPercent * stage.overhead);
  PrintKinds(times, peaks);
  PrintLayers(times, top, peaks);
}

Json ToJson(const LayerTime& layer, double stage_seconds, double seconds_at_peak) {
  const Rates rates = RatesOf(layer, seconds_at_peak);
  return {{"name", layer.name},
          {"kind", LayerKindName(layer.kind)},
          {"dtype", layer.dtype},
          {"seconds", layer.seconds},
          {"share", layer.seconds / stage_seconds},
          {"runs", layer.runs},
          {"flops", layer.flops},
          {"bytes", layer.bytes},
          {"flops_per_second", rates.flops_per_second},
          {"bytes_per_second", rates.bytes_per_second},
          {"of_peak", rates.of_peak > 0 ? Json(rates.of_peak) : Json()}};
}

Json ToJson(const ProfiledStage& stage, const std::map<std::string, double>& peaks) {
  const StageTimes& times = stage.times;
  Json json = {{"name", times.name},
               {"calls", times.calls},
               {"seconds", times.seconds},
               {"plain_seconds", stage.plain_seconds},
               {"overhead", stage.overhead},
               {"layer_seconds", times.layer_seconds()},
               {"outside_seconds", times.outside_seconds},
               {"idle_seconds", times.idle_seconds},
               {"sum_seconds", stage.sum_seconds()},
               {"sum_by_plain", stage.sum_by_plain()},
               {"kinds", Json::array()},
               {"layers", Json::array()}};
  for (const auto& [sum, seconds_at_peak] : KindsOf(times, peaks))
    json["kinds"].push_back(ToJson(sum, times.seconds, seconds_at_peak));
  for (const LayerTime& layer : times.layers)
    json["layers"].push_back(ToJson(layer, times.seconds, SecondsAtPeak(layer, peaks)));
  return json;
}

}  // namespace

void PrintProfile(const ProfileReport& report, int top) {
  std::printf("%s, %s on %s: %dx%d, batch %d, guidance %g\n", PrintableName(report.model).c_str(),
              report.precision.c_str(), report.device.c_str(), report.width, report.height, report.batch,
              static_cast<double>(report.guidance));
  for (const auto& [dtype, rate] : report.peaks) std::printf("peak of %s: %.1f GFLOP/s\n", dtype.c_str(), rate / kGiga);
  for (const ProfiledStage& stage : report.stages) PrintStage(stage, top, report.peaks);
  PrintMemory(report.memory, report.device);
  if (!report.trace.empty())
    std::printf("\n%s: the trace, for Perfetto (ui.perfetto.dev) or chrome://tracing\n", report.trace.c_str());
}

void PrintProfileAsJson(const ProfileReport& report) {
  Json json = {{"model", report.model},
               {"device", report.device},
               {"precision", report.precision},
               {"width", report.width},
               {"height", report.height},
               {"batch", report.batch},
               {"guidance", report.guidance},
               {"peak_flops_per_second", Json::object()},
               {"trace", report.trace.empty() ? Json() : Json(report.trace)},
               {"stages", Json::array()}};
  for (const auto& [dtype, rate] : report.peaks) json["peak_flops_per_second"][dtype] = rate;
  for (const ProfiledStage& stage : report.stages) json["stages"].push_back(ToJson(stage, report.peaks));
  json["memory"] = MemoryJson(report.memory, report.device);
  PrintJson(json);
}

}  // namespace fresco
