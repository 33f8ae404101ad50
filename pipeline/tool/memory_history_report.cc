#include "pipeline/tool/memory_history_report.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pipeline/base/format_bytes.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPercent = 100;

// Whoever has anything then, in the order of the holders.
Json Held(const MemoryHistory& history, const MemoryHistory::Moment& moment) {
  Json held = Json::array();
  for (size_t i = 0; i < history.holders.size(); ++i) {
    if (moment.bytes[i] == 0) continue;
    const MemoryHolder& holder = history.holders[i];
    held.push_back({{"component", holder.component.empty() ? "other" : holder.component},
                    {"kind", std::string(MemoryKindName(holder.kind))},
                    {"bytes", moment.bytes[i]}});
  }
  return held;
}

Json MomentJson(const MemoryHistory& history, const MemoryHistory::Moment& moment) {
  const absl::Time begin = history.stages.empty() ? moment.at : history.stages.front().begin;
  return {{"seconds", absl::ToDoubleSeconds(moment.at - begin)},
          {"bytes", moment.total_bytes()},
          {"held", Held(history, moment)}};
}

Json StageJson(const MemoryHistory& history, const MemoryHistory::Stage& stage) {
  Json json = {{"stage", stage.name}};
  json.update(MomentJson(history, stage.peak));
  return json;
}

// "vae activations 610 MiB, transformer weights 140 MiB, others 2.1 MiB": whoever has a hundredth of it.
std::string Names(const MemoryHistory& history, const MemoryHistory::Stage& stage) {
  std::vector<size_t> order;
  for (size_t i = 0; i < history.holders.size(); ++i) {
    if (stage.peak.bytes[i] > 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return stage.peak.bytes[a] > stage.peak.bytes[b]; });
  std::string names;
  int64_t others = 0;
  for (const size_t i : order) {
    const int64_t bytes = stage.peak.bytes[i];
    if (bytes < stage.peak.total_bytes() / 100) {
      others += bytes;
    } else {
      names += StrCat(names.empty() ? "" : ", ", NameOf(history.holders[i]), " ", FormatBytes(bytes));
    }
  }
  return others == 0 ? names : StrCat(names, ", others ", FormatBytes(others));
}

// Not by parsing all of it, which takes ten times its memory.
int64_t BaseTimeOf(std::string_view trace) {
  constexpr std::string_view kKey = "\"baseTimeNanoseconds\":";
  const size_t at = trace.find(kKey);
  if (at == std::string_view::npos) return 0;
  return std::strtoll(trace.data() + at + kKey.size(), nullptr, /*base=*/10);
}

}  // namespace

void PrintMemory(const MemoryHistory& history, const std::string& device) {
  const MemoryHistory::Stage* const peak = history.peak();
  if (peak == nullptr) return;
  const int64_t most = peak->peak.total_bytes();
  std::printf("\nmemory on %s: the peak is %s, in %s\n%12s %8s  %s\n", device.c_str(), FormatBytes(most).c_str(),
              peak->name.c_str(), "then", "share", "who");
  for (size_t i = 0; i < history.holders.size(); ++i) {
    const int64_t bytes = peak->peak.bytes[i];
    if (bytes == 0) continue;
    std::printf("%12s %6.1f %%  %s\n", FormatBytes(bytes).c_str(),
                kPercent * static_cast<double>(bytes) / static_cast<double>(most), NameOf(history.holders[i]).c_str());
  }
  for (const MemoryHistory::Stage& stage : history.stages) {
    if (&stage != peak)
      std::printf("%s: at most %s: %s\n", stage.name.c_str(), FormatBytes(stage.peak.total_bytes()).c_str(),
                  Names(history, stage).c_str());
  }
}

Json MemoryJson(const MemoryHistory& history, const std::string& device) {
  Json json = {{"device", device}, {"peak", nullptr}, {"stages", Json::array()}, {"timeline", Json::array()}};
  if (const MemoryHistory::Stage* const peak = history.peak(); peak != nullptr)
    json["peak"] = StageJson(history, *peak);
  for (const MemoryHistory::Stage& stage : history.stages) json["stages"].push_back(StageJson(history, stage));
  for (const MemoryHistory::Moment& moment : history.moments) json["timeline"].push_back(MomentJson(history, moment));
  return json;
}

std::string MemoryTrace(const MemoryHistory& history, const std::string& device, std::string_view like) {
  const int64_t base = BaseTimeOf(like);
  Json events = Json::array();
  for (const MemoryHistory::Moment& moment : history.moments) {
    Json held = Json::object();  // also of those that have nothing: a counter that is left out stays as it was
    for (size_t i = 0; i < history.holders.size(); ++i) held[NameOf(history.holders[i])] = moment.bytes[i];
    events.push_back({{"ph", "C"},
                      {"name", StrCat("memory of ", device)},
                      {"pid", 0},
                      {"tid", 0},
                      {"ts", absl::ToDoubleMicroseconds(moment.at - absl::FromUnixNanos(base))},
                      {"args", std::move(held)}});
  }
  Json trace = {{"traceEvents", std::move(events)}};
  if (base != 0) trace["baseTimeNanoseconds"] = base;
  return trace.dump();
}

}  // namespace fresco
