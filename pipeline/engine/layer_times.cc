#include "pipeline/engine/layer_times.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr double kNanosecond = 1e-9;

// Names as diffusers, transformers and layer_scope's users have them; the first that fits.
struct KindOfName {
  std::string_view part;
  LayerKind kind;
};
constexpr std::array<KindOfName, 17> kKinds = {{
    {"norm1.linear", LayerKind::kModulation},
    {"norm_out.linear", LayerKind::kModulation},
    {"norm", LayerKind::kNorm},
    {"embed", LayerKind::kEmbedding},
    {"shared", LayerKind::kEmbedding},
    {"projection", LayerKind::kEmbedding},
    {"proj_out", LayerKind::kEmbedding},
    {"conv", LayerKind::kConvolution},
    {"ff.", LayerKind::kMlp},
    {"ff_context.", LayerKind::kMlp},
    {"mlp.", LayerKind::kMlp},
    {"DenseReluDense", LayerKind::kMlp},
    {"attn", LayerKind::kAttention},
    {"attention", LayerKind::kAttention},
    {"SelfAttention", LayerKind::kAttention},
    {"to_q", LayerKind::kAttention},
    {"to_out", LayerKind::kAttention},
}};

// By the layer's own name, or where that says nothing by its modules'.
LayerKind KindOf(std::string_view own, std::string_view whole) {
  for (const std::string_view name : {own, whole}) {
    for (const KindOfName& known : kKinds) {
      if (name.find(known.part) != std::string_view::npos) return known.kind;
    }
  }
  return LayerKind::kOther;
}

bool Within(const RecordedScope& inner, const RecordedScope& outer) {
  return inner.begin_ns >= outer.begin_ns && inner.end_ns <= outer.end_ns;
}

// A run of a layer.
struct Run {
  const RecordedScope* scope;
  std::string name;
};

// One call of a stage.
struct Call {
  const RecordedScope* stage = nullptr;
  std::vector<Run> runs;  // by their begin, apart from each other
  double seconds = 0, outside = 0, idle = 0;
  std::vector<double> run_seconds;
};

// What lies in a stage, its modules' names put together.
class CallReader {
 public:
  std::vector<Call> Read(const Recording& recording) {
    std::vector<const RecordedScope*> scopes;
    for (const RecordedScope& scope : recording.scopes) scopes.push_back(&scope);
    // Of two that begin together the outer one first.
    std::stable_sort(scopes.begin(), scopes.end(), [](const RecordedScope* a, const RecordedScope* b) {
      return std::pair(a->begin_ns, -a->end_ns) < std::pair(b->begin_ns, -b->end_ns);
    });
    for (const RecordedScope* scope : scopes) Take(scope);
    return std::move(calls_);
  }

 private:
  void Take(const RecordedScope* scope) {
    while (!open_.empty() && !Within(*scope, *open_.back())) open_.pop_back();
    const bool in_stage = std::any_of(open_.begin(), open_.end(), [](const RecordedScope* s) { return IsStage(*s); });
    const bool in_layer = !open_.empty() && open_.back()->level == RecordedScope::Level::kLayer;
    if (IsStage(*scope) && !in_stage) calls_.push_back({scope, {}, 0, 0, 0, {}});
    // A layer within a layer is a part of it.
    if (scope->level == RecordedScope::Level::kLayer && in_stage && !in_layer)
      calls_.back().runs.push_back({scope, NameOf(*scope)});
    if (!in_layer) open_.push_back(scope);
  }

  static bool IsStage(const RecordedScope& scope) { return scope.level == RecordedScope::Level::kStage; }

  std::string NameOf(const RecordedScope& layer) const {
    std::string name;
    for (const RecordedScope* scope : open_) {
      if (!IsStage(*scope)) name += StrCat(scope->name, ".");
    }
    return name + layer.name;
  }

  std::vector<const RecordedScope*> open_;
  std::vector<Call> calls_;
};

void TakeThreadTimes(Call* call) {
  call->seconds = static_cast<double>(call->stage->end_ns - call->stage->begin_ns) * kNanosecond;
  call->outside = call->seconds;
  for (const Run& run : call->runs) {
    call->run_seconds.push_back(static_cast<double>(run.scope->end_ns - run.scope->begin_ns) * kNanosecond);
    call->outside -= call->run_seconds.back();
  }
}

// A kernel is the layer's in whose scope it was launched. Where streams overlap, layers' times add up to more than the
// device's, and it was never idle.
void TakeKernelTimes(const std::vector<RecordedKernel>& kernels, Call* call) {
  call->run_seconds.assign(call->runs.size(), 0);
  int64_t first = 0, last = 0;
  bool any = false;
  double busy = 0;
  for (const RecordedKernel& kernel : kernels) {
    if (kernel.launch_ns < call->stage->begin_ns || kernel.launch_ns > call->stage->end_ns) continue;
    const double seconds = static_cast<double>(kernel.end_ns - kernel.begin_ns) * kNanosecond;
    first = any ? std::min(first, kernel.begin_ns) : kernel.begin_ns;
    last = any ? std::max(last, kernel.end_ns) : kernel.end_ns;
    any = true;
    busy += seconds;
    const auto after = std::upper_bound(call->runs.begin(), call->runs.end(), kernel.launch_ns,
                                        [](int64_t time, const Run& run) { return time < run.scope->begin_ns; });
    const bool in_layer = after != call->runs.begin() && kernel.launch_ns <= std::prev(after)->scope->end_ns;
    if (in_layer) {
      call->run_seconds[static_cast<size_t>(std::prev(after) - call->runs.begin())] += seconds;
    } else {
      call->outside += seconds;
    }
  }
  const double span = static_cast<double>(last - first) * kNanosecond;
  call->seconds = std::max(span, busy);
  call->idle = std::max(0.0, span - busy);
}

// Calls of one stage, the half of them in the middle by their time.
std::vector<const Call*> Typical(std::vector<const Call*> calls) {
  std::stable_sort(calls.begin(), calls.end(), [](const Call* a, const Call* b) { return a->seconds < b->seconds; });
  const size_t cut = calls.size() / 4;
  return {calls.begin() + static_cast<std::ptrdiff_t>(cut), calls.end() - static_cast<std::ptrdiff_t>(cut)};
}

// `calls`: at least one.
StageTimes MeanOf(const std::vector<const Call*>& calls) {
  StageTimes stage;
  stage.name = calls.front()->stage->name;
  std::map<std::pair<std::string, std::string>, size_t> places;  // by name and dtype
  const double share = 1.0 / static_cast<double>(calls.size());
  for (const Call* call : calls) {
    stage.seconds += call->seconds * share;
    stage.outside_seconds += call->outside * share;
    stage.idle_seconds += call->idle * share;
    for (size_t i = 0; i < call->runs.size(); ++i) {
      const auto& [scope, name] = call->runs[i];
      const auto [place, is_new] = places.emplace(std::pair(name, scope->dtype), stage.layers.size());
      if (is_new) stage.layers.push_back({name, scope->dtype, KindOf(scope->name, name), 0, 0, 0, 0});
      LayerTime& layer = stage.layers[place->second];
      layer.seconds += call->run_seconds[i] * share;
      ++layer.runs;
      layer.flops += scope->flops;
      layer.bytes += scope->bytes;
    }
  }
  const auto count = static_cast<int64_t>(calls.size());
  for (LayerTime& layer : stage.layers) {
    layer.runs = (layer.runs + count - 1) / count;
    layer.flops /= count;
    layer.bytes /= count;
  }
  return stage;
}

}  // namespace

std::string_view LayerKindName(LayerKind kind) {
  constexpr std::array<std::string_view, 7> kNames = {"attention",   "MLP",       "modulation", "norm",
                                                      "convolution", "embedding", "other"};
  return kNames[static_cast<size_t>(kind)];
}

double StageTimes::layer_seconds() const {
  double sum = 0;
  for (const LayerTime& layer : layers) sum += layer.seconds;
  return sum;
}

std::vector<StageTimes> AddUpLayers(absl::Span<const Recording> recordings) {
  std::vector<Call> calls;
  for (const Recording& recording : recordings) {
    for (Call& call : CallReader().Read(recording)) {
      if (recording.on_device) {
        TakeKernelTimes(recording.kernels, &call);
      } else {
        TakeThreadTimes(&call);
      }
      calls.push_back(std::move(call));
    }
  }
  std::vector<StageTimes> stages;
  std::set<std::string> seen;
  for (const Call& first : calls) {
    if (!seen.insert(first.stage->name).second) continue;
    std::vector<const Call*> own;
    for (const Call& call : calls) {
      if (call.stage->name == first.stage->name) own.push_back(&call);
    }
    stages.push_back(MeanOf(Typical(own)));
    stages.back().calls = static_cast<int>(own.size());
  }
  return stages;
}

std::vector<LayerTime> SumByKind(absl::Span<const LayerTime> layers) {
  std::vector<std::string> components;  // in their order
  std::map<std::pair<std::string, LayerKind>, LayerTime> sums;
  std::map<std::pair<std::string, LayerKind>, std::map<std::string, double>> dtypes;
  for (const LayerTime& layer : layers) {
    const std::string component(layer.component());
    if (std::find(components.begin(), components.end(), component) == components.end()) components.push_back(component);
    LayerTime& sum = sums[{component, layer.kind}];
    sum.name = component;
    sum.kind = layer.kind;
    sum.seconds += layer.seconds;
    sum.runs += layer.runs;
    sum.flops += layer.flops;
    sum.bytes += layer.bytes;
    dtypes[{component, layer.kind}][layer.dtype] += layer.seconds;
  }
  std::vector<LayerTime> result;
  for (auto& [key, sum] : sums) {
    const auto& own = dtypes[key];
    sum.dtype = std::max_element(own.begin(), own.end(), [](const auto& a, const auto& b) {
                  return a.second < b.second;
                })->first;
    result.push_back(std::move(sum));
  }
  const auto place = [&](const LayerTime& sum) { return std::find(components.begin(), components.end(), sum.name); };
  std::stable_sort(result.begin(), result.end(), [&](const LayerTime& a, const LayerTime& b) {
    return std::pair(place(a), -a.seconds) < std::pair(place(b), -b.seconds);
  });
  return result;
}

// One after the other: as values they take ten times the memory of their text.
absl::StatusOr<std::string> MergeTraces(absl::Span<const Recording> recordings) {
  using Json = nlohmann::ordered_json;
  if (recordings.empty()) return absl::InternalError("nothing was recorded");
  const auto text = [](const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); };
  Json header;
  std::string events;
  for (const Recording& recording : recordings) {
    Json trace = Json::parse(recording.trace, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (!trace.is_object() || !trace["traceEvents"].is_array())
      return absl::InternalError("the profiler has written something that is no trace");
    for (const Json& event : trace["traceEvents"]) events += (events.empty() ? "" : ",\n") + text(event);
    trace.erase("traceEvents");
    trace.erase("traceName");  // a path of the machine that it was written on
    if (header.is_null()) header = trace;
    // Events' times are microseconds since this.
    if (trace["baseTimeNanoseconds"] != header["baseTimeNanoseconds"])
      return absl::InternalError("the profiler's traces have different axes of time");
  }
  std::string merged = text(header);
  merged.pop_back();  // what closes it
  return StrCat(merged, header.empty() ? "" : ",", "\"traceEvents\":[\n", events, "\n]}\n");
}

}  // namespace fresco
