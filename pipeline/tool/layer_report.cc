#include "pipeline/tool/layer_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/profiler.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGiga = 1e9, kMiB = 1 << 20, kMilli = 1e3, kPercent = 100;
constexpr size_t kPrintedGaps = 5;

// A layer, or a kind of layers: their least times are sums over layers, which may be of several types.
struct Row {
  LayerTime layer;
  LeastTimes least;

  double PerSecond(int64_t work) const { return layer.seconds > 0 ? static_cast<double>(work) / layer.seconds : 0; }
  double ShareOf(double least_seconds) const { return layer.seconds > 0 ? least_seconds / layer.seconds : 0; }
};

std::vector<Row> RowsOf(const std::vector<LayerTime>& layers, const MeasuredLimits& limits) {
  std::vector<Row> rows;
  for (const LayerTime& layer : layers) rows.push_back({layer, LeastTimesOf(layer, limits)});
  return rows;
}

std::vector<Row> KindsOf(const std::vector<LayerTime>& layers, const MeasuredLimits& limits) {
  std::vector<Row> kinds;
  for (LayerTime& sum : SumByKind(layers)) {
    Row& kind = kinds.emplace_back(Row{std::move(sum), {}});
    for (const LayerTime& layer : layers) {
      if (layer.kind != kind.layer.kind || layer.component() != kind.layer.name) continue;
      const LeastTimes least = LeastTimesOf(layer, limits);
      kind.least.products += least.products;
      kind.least.memory += least.memory;
    }
  }
  return kinds;
}

// Nothing for what a layer has none of.
std::string Column(double value, const char* unit = "") {
  if (value <= 0) return "-";
  return absl::StrFormat(value < 0.1 ? "%.4f%s" : value < 10 ? "%.2f%s" : "%.1f%s", value, unit);
}

void PrintHead(const std::string& last) {
  std::printf("%10s %8s %9s %9s %8s %9s %8s %9s %8s  %-15s %s\n", "ms", "share", "GFLOP", "GFLOP/s", "of peak", "MiB",
              "GB/s", "of memory", "bound", "dtype", last.c_str());
}

void PrintRow(const std::string& name, const Row& row, double stage_seconds) {
  const LayerTime& layer = row.layer;
  const std::string bound(row.least.bound());
  std::printf("%10.3f %6.1f %% %9s %9s %8s %9s %8s %9s %8s  %-15s %s\n", layer.seconds * kMilli,
              kPercent * layer.seconds / stage_seconds, Column(static_cast<double>(layer.flops) / kGiga).c_str(),
              Column(row.PerSecond(layer.flops) / kGiga).c_str(),
              Column(kPercent * row.ShareOf(row.least.products), " %").c_str(),
              Column(static_cast<double>(layer.bytes) / kMiB).c_str(),
              Column(row.PerSecond(layer.bytes) / kGiga).c_str(),
              Column(kPercent * row.ShareOf(row.least.memory), " %").c_str(), bound.empty() ? "-" : bound.c_str(),
              layer.dtype.c_str(), name.c_str());
}

void PrintRest(const char* name, double seconds, double stage_seconds) {
  if (seconds <= 0) return;
  Row rest;
  rest.layer.seconds = seconds;
  PrintRow(name, rest, stage_seconds);
}

void PrintKinds(const StageTimes& times, const MeasuredLimits& limits) {
  PrintHead("kind");
  for (const Row& kind : KindsOf(times.layers, limits))
    PrintRow(StrCat(kind.layer.name, ", ", LayerKindName(kind.layer.kind)), kind, times.seconds);
  PrintRest("between layers", times.outside_seconds, times.seconds);
  PrintRest("the device waits", times.idle_seconds, times.seconds);
}

void PrintLongest(const StageTimes& times, int top, const MeasuredLimits& limits) {
  std::vector<LayerTime> layers = times.layers;
  if (top > 0) {
    std::stable_sort(layers.begin(), layers.end(),
                     [](const LayerTime& a, const LayerTime& b) { return a.seconds > b.seconds; });
    layers.resize(std::min(layers.size(), static_cast<size_t>(top)));
  }
  std::printf("\n");
  const bool all = layers.size() == times.layers.size();
  PrintHead(all ? "layer" : StrCat("the longest of ", times.layers.size(), " layers"));
  for (const Row& row : RowsOf(layers, limits)) PrintRow(row.layer.name, row, times.seconds);
}

std::string Place(const LayerGap& gap) {
  if (gap.after == gap.before) return StrCat("within ", gap.after);
  return StrCat(gap.after.empty() ? "the begin" : gap.after, " to ", gap.before.empty() ? "the end" : gap.before);
}

void PrintGaps(const StageTimes& times) {
  std::printf("\nlost to gaps: %.3f ms, %.1f %% of the call, in which %s\n", times.lost_seconds() * kMilli,
              kPercent * times.lost_seconds() / times.seconds,
              times.on_device ? "the device computes nothing" : "no layer is computed");
  if (times.gaps.empty()) return;
  std::printf("%10s %8s %9s  the longest\n", "ms", "share", "times");
  for (size_t i = 0; i < std::min(kPrintedGaps, times.gaps.size()); ++i) {
    const LayerGap& gap = times.gaps[i];
    std::printf("%10.3f %6.1f %% %9lld  %s\n", gap.seconds * kMilli, kPercent * gap.seconds / times.seconds,
                static_cast<long long>(gap.count), Place(gap).c_str());
  }
}

Json OrNull(double value) {
  return value > 0 ? Json(value) : Json();
}

Json ToJson(const Row& row, double stage_seconds) {
  const LayerTime& layer = row.layer;
  const std::string bound(row.least.bound());
  return {{"name", layer.name},
          {"kind", LayerKindName(layer.kind)},
          {"dtype", layer.dtype},
          {"seconds", layer.seconds},
          {"share", layer.seconds / stage_seconds},
          {"runs", layer.runs},
          {"flops", layer.flops},
          {"bytes", layer.bytes},
          {"flops_per_second", row.PerSecond(layer.flops)},
          {"bytes_per_second", row.PerSecond(layer.bytes)},
          {"of_peak", OrNull(row.ShareOf(row.least.products))},
          {"of_bandwidth", OrNull(row.ShareOf(row.least.memory))},
          {"bound", bound.empty() ? Json() : Json(bound)}};
}

Json ToJson(const LayerGap& gap, double stage_seconds) {
  return {{"after", gap.after.empty() ? Json() : Json(gap.after)},
          {"before", gap.before.empty() ? Json() : Json(gap.before)},
          {"seconds", gap.seconds},
          {"share", gap.seconds / stage_seconds},
          {"count", gap.count}};
}

}  // namespace

absl::StatusOr<MeasuredLimits> MeasureLimits(const std::string& device, absl::Span<const StageTimes> stages) {
  std::set<std::string> dtypes;
  for (const StageTimes& stage : stages) {
    for (const LayerTime& layer : stage.layers) {
      if (layer.flops > 0) dtypes.insert(layer.dtype);
    }
  }
  MeasuredLimits limits;
  FRESCO_ASSIGN_OR_RETURN(limits.peaks, MeasurePeaks(device, dtypes));
  FRESCO_ASSIGN_OR_RETURN(limits.bandwidth, MeasureBandwidth(device));
  return limits;
}

void PrintLimits(const MeasuredLimits& limits) {
  for (const auto& [dtype, rate] : limits.peaks) std::printf("peak of %s: %.1f GFLOP/s\n", dtype.c_str(), rate / kGiga);
  std::printf("memory: %.1f GB/s, read and written\n", limits.bandwidth / kGiga);
}

void PrintLayers(const StageTimes& times, int top, const MeasuredLimits& limits) {
  PrintKinds(times, limits);
  PrintLongest(times, top, limits);
  PrintGaps(times);
}

Json LimitsJson(const MeasuredLimits& limits) {
  Json json = {{"peak_flops_per_second", Json::object()}, {"bandwidth_bytes_per_second", limits.bandwidth}};
  for (const auto& [dtype, rate] : limits.peaks) json["peak_flops_per_second"][dtype] = rate;
  return json;
}

Json LayersJson(const StageTimes& times, const MeasuredLimits& limits) {
  Json json = {{"kinds", Json::array()}, {"layers", Json::array()}, {"gaps", Json::array()}};
  for (const Row& kind : KindsOf(times.layers, limits)) json["kinds"].push_back(ToJson(kind, times.seconds));
  for (const Row& row : RowsOf(times.layers, limits)) json["layers"].push_back(ToJson(row, times.seconds));
  for (const LayerGap& gap : times.gaps) json["gaps"].push_back(ToJson(gap, times.seconds));
  return json;
}

}  // namespace fresco
