#include "pipeline/engine/layer_times.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
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

// Between two of a call's runs, by their places; -1, and as many as there are: its begin and its end.
struct Gap {
  std::ptrdiff_t after = 0, before = 0;
  double seconds = 0;
};

// One call of a stage.
struct Call {
  const RecordedScope* stage = nullptr;
  bool on_device = false;
  std::vector<Run> runs;  // by their begin, apart from each other
  double seconds = 0, outside = 0, idle = 0;
  std::vector<double> run_seconds;
  std::vector<Gap> gaps;

  std::string NameOf(std::ptrdiff_t run) const {
    return run < 0 || run >= std::ssize(runs) ? "" : runs[static_cast<size_t>(run)].name;
  }
};

double SecondsBetween(int64_t begin_ns, int64_t end_ns) {
  return static_cast<double>(end_ns - begin_ns) * kNanosecond;
}

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
    if (IsStage(*scope) && !in_stage) calls_.emplace_back().stage = scope;
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
  call->seconds = SecondsBetween(call->stage->begin_ns, call->stage->end_ns);
  call->outside = call->seconds;
  int64_t reached = call->stage->begin_ns;
  const auto pass = [&](std::ptrdiff_t place, int64_t until) {
    if (until > reached) call->gaps.push_back({place - 1, place, SecondsBetween(reached, until)});
  };
  for (const Run& run : call->runs) {
    pass(std::ssize(call->run_seconds), run.scope->begin_ns);
    call->run_seconds.push_back(SecondsBetween(run.scope->begin_ns, run.scope->end_ns));
    call->outside -= call->run_seconds.back();
    reached = run.scope->end_ns;
  }
  pass(std::ssize(call->runs), call->stage->end_ns);
}

// A kernel of a call, and how many of its runs had begun when it was launched.
struct OwnKernel {
  int64_t begin_ns = 0, end_ns = 0;
  std::ptrdiff_t begun = 0;
  bool in_run = false;  // the last of these

  double seconds() const { return SecondsBetween(begin_ns, end_ns); }
  std::ptrdiff_t run_before() const { return begun - 1; }
  std::ptrdiff_t run_after() const { return in_run ? begun - 1 : begun; }
};

// By their begin.
std::vector<OwnKernel> KernelsOf(const Call& call, const std::vector<RecordedKernel>& kernels) {
  std::vector<OwnKernel> own;
  for (const RecordedKernel& kernel : kernels) {
    if (kernel.launch_ns < call.stage->begin_ns || kernel.launch_ns > call.stage->end_ns) continue;
    const auto after = std::upper_bound(call.runs.begin(), call.runs.end(), kernel.launch_ns,
                                        [](int64_t time, const Run& run) { return time < run.scope->begin_ns; });
    const bool in_run = after != call.runs.begin() && kernel.launch_ns <= std::prev(after)->scope->end_ns;
    own.push_back({kernel.begin_ns, kernel.end_ns, after - call.runs.begin(), in_run});
  }
  std::stable_sort(own.begin(), own.end(),
                   [](const OwnKernel& a, const OwnKernel& b) { return a.begin_ns < b.begin_ns; });
  return own;
}

// A kernel is the layer's in whose scope it was launched. Where streams overlap, layers' times add up to more than the
// device's, and it was never idle.
void TakeKernelTimes(const std::vector<RecordedKernel>& kernels, Call* call) {
  call->on_device = true;
  call->run_seconds.assign(call->runs.size(), 0);
  double busy = 0;
  const std::vector<OwnKernel> own = KernelsOf(*call, kernels);
  const OwnKernel* last = nullptr;  // to end
  for (const OwnKernel& kernel : own) {
    busy += kernel.seconds();
    (kernel.in_run ? call->run_seconds[static_cast<size_t>(kernel.begun - 1)] : call->outside) += kernel.seconds();
    if (last != nullptr && kernel.begin_ns > last->end_ns)
      call->gaps.push_back({last->run_before(), kernel.run_after(), SecondsBetween(last->end_ns, kernel.begin_ns)});
    if (last == nullptr || kernel.end_ns > last->end_ns) last = &kernel;
  }
  const double span = own.empty() ? 0 : SecondsBetween(own.front().begin_ns, last->end_ns);
  call->seconds = std::max(span, busy);
  call->idle = std::max(0.0, span - busy);
}

// Calls of one stage, the half of them in the middle by their time.
std::vector<const Call*> Typical(std::vector<const Call*> calls) {
  std::stable_sort(calls.begin(), calls.end(), [](const Call* a, const Call* b) { return a->seconds < b->seconds; });
  const size_t cut = calls.size() / 4;
  return {calls.begin() + static_cast<std::ptrdiff_t>(cut), calls.end() - static_cast<std::ptrdiff_t>(cut)};
}

// Those between the same two layers as one, each of a mean call.
std::vector<LayerGap> MeanGaps(const std::vector<const Call*>& calls) {
  std::map<std::pair<std::string, std::string>, LayerGap> sums;
  for (const Call* call : calls) {
    for (const Gap& gap : call->gaps) {
      LayerGap sum = {call->NameOf(gap.after), call->NameOf(gap.before), 0, 0};
      LayerGap& known = sums.try_emplace({sum.after, sum.before}, std::move(sum)).first->second;
      known.seconds += gap.seconds;
      ++known.count;
    }
  }
  const auto count = std::ssize(calls);
  std::vector<LayerGap> gaps;
  for (auto& [layers, sum] : sums) {
    sum.seconds /= static_cast<double>(count);
    sum.count = (sum.count + count - 1) / count;
    gaps.push_back(std::move(sum));
  }
  std::stable_sort(gaps.begin(), gaps.end(),
                   [](const LayerGap& a, const LayerGap& b) { return a.seconds > b.seconds; });
  return gaps;
}

// `calls`: at least one.
StageTimes MeanOf(const std::vector<const Call*>& calls) {
  StageTimes stage;
  stage.name = calls.front()->stage->name;
  stage.on_device = calls.front()->on_device;
  stage.gaps = MeanGaps(calls);
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
