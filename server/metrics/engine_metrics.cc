#include "server/metrics/engine_metrics.h"

#include <algorithm>
#include <map>
#include <string>

namespace fresco {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

// Label values in the order of the family's label names.
using Series = std::map<std::vector<std::string>, double>;

MetricFamily Family(const std::string& name, const std::string& help, MetricType type,
                    const std::vector<std::string>& labels, const Series& series) {
  MetricFamily family{name, help, type, {}};
  for (const auto& [values, value] : series) {
    prometheus::ClientMetric metric;
    for (size_t i = 0; i < labels.size(); ++i) metric.label.push_back({labels[i], values[i]});
    metric.gauge.value = value;
    metric.counter.value = value;
    family.metric.push_back(metric);
  }
  return family;
}

struct AllSeries {
  Series memory, held, weights, hits, misses, cached, nonfinite, quantized, saturated, guarded, models;
  Series loads, loaded_bytes, load_seconds, graphs;
};

void AddCounts(const std::string& model, const EngineStats& stats, AllSeries* all) {
  all->hits[{model}] += static_cast<double>(stats.prompt_cache_hits);
  all->misses[{model}] += static_cast<double>(stats.prompt_cache_misses);
  all->nonfinite[{model}] += static_cast<double>(stats.nonfinite_outputs);
  all->quantized[{model}] += static_cast<double>(stats.quantized_activations);
  all->saturated[{model}] += static_cast<double>(stats.saturated_activations);
  all->guarded[{model}] += static_cast<double>(stats.guarded_activations);
  for (const EngineStats::Residency& component : stats.residency) {
    all->loads[{model, component.component}] += static_cast<double>(component.loads);
    all->loaded_bytes[{model, component.component}] += static_cast<double>(component.loaded_bytes);
    all->load_seconds[{model, component.component}] += component.load_seconds;
  }
}

bool IsAway(const EngineStats& stats, const std::string& name) {
  return std::any_of(stats.residency.begin(), stats.residency.end(), [&](const EngineStats::Residency& component) {
    return component.component == name && !component.there;
  });
}

void AddReplica(const Engine& engine, AllSeries* all) {
  const ModelInfo& info = engine.info();
  const EngineStats stats = engine.stats();
  all->memory[{info.device, "weights"}] += static_cast<double>(stats.weight_bytes);
  // These two are the process's on that device, and the same from each of its engines.
  for (const auto& [kind, bytes] :
       {std::pair("allocated", stats.allocated_bytes), std::pair("peak", stats.peak_bytes)}) {
    double& value = all->memory[{info.device, kind}];
    value = std::max(value, static_cast<double>(bytes));
  }
  for (const MemoryHeld& held : stats.held) {
    const std::string kind(MemoryKindName(held.holder.kind));
    all->held[{info.device, info.name, held.holder.component, kind}] = static_cast<double>(held.bytes);
  }
  for (const auto& [work, bytes] :
       {std::pair("steps", stats.step_graph_bytes), std::pair("decodes", stats.decode_graph_bytes)})
    all->graphs[{info.device, info.name, work}] = static_cast<double>(bytes);
  for (const ModelInfo::Component& component : info.components) {
    const int64_t bytes = IsAway(stats, component.name) ? 0 : component.weight_bytes;
    all->weights[{info.name, component.name, component.precision}] += static_cast<double>(bytes);
  }
  AddCounts(info.name, stats, all);
  all->cached[{info.name}] += static_cast<double>(stats.prompt_cache_bytes);
  all->models[{info.name, info.device, info.precision_asked, info.precision}] = 1;
}

}  // namespace

void EngineMetrics::Add(const std::shared_ptr<const Engine>& engine) {
  MutexLock lock(&mutex_);
  std::erase_if(engines_, [](const auto& known) { return known.expired(); });
  engines_.push_back(engine);
}

// Without asking its engines, which might not answer: what they have counted is not known any more.
void EngineMetrics::RemoveDevice(const std::string& device) {
  std::vector<std::shared_ptr<const Engine>> kept;  // let go of without the lock
  MutexLock lock(&mutex_);
  std::erase_if(engines_, [&](const auto& known) {
    kept.push_back(known.lock());
    return kept.back() == nullptr || kept.back()->info().device == device;
  });
}

void EngineMetrics::Count(const EngineStats& stats, EngineStats* sum) {
  sum->prompt_cache_hits += stats.prompt_cache_hits;
  sum->prompt_cache_misses += stats.prompt_cache_misses;
  sum->nonfinite_outputs += stats.nonfinite_outputs;
  sum->quantized_activations += stats.quantized_activations;
  sum->saturated_activations += stats.saturated_activations;
  sum->guarded_activations += stats.guarded_activations;
  for (const EngineStats::Residency& component : stats.residency) {
    const auto found = std::find_if(sum->residency.begin(), sum->residency.end(),
                                    [&](const auto& known) { return known.component == component.component; });
    EngineStats::Residency& own = found != sum->residency.end() ? *found : sum->residency.emplace_back();
    own.component = component.component;
    own.loads += component.loads;
    own.loaded_bytes += component.loaded_bytes;
    own.load_seconds += component.load_seconds;
  }
}

void EngineMetrics::Remove(const Engine& engine) {
  const EngineStats stats = engine.stats();
  std::vector<std::shared_ptr<const Engine>> kept;  // let go of without the lock
  MutexLock lock(&mutex_);
  Count(stats, &gone_[engine.info().name]);
  std::erase_if(engines_, [&](const auto& known) {
    kept.push_back(known.lock());
    return kept.back().get() == &engine;
  });
}

std::vector<MetricFamily> EngineMetrics::Collect() const {
  std::vector<std::shared_ptr<const Engine>> engines;
  AllSeries all;
  {
    MutexLock lock(&mutex_);
    for (const auto& engine : engines_) engines.push_back(engine.lock());
    for (const auto& [model, stats] : gone_) AddCounts(model, stats, &all);
  }
  for (const auto& engine : engines) {
    if (engine != nullptr) AddReplica(*engine, &all);
  }
  return {
      Family("fresco_device_memory_bytes",
             "Memory on a device: its models' weights, all that is allocated now, and the most that has been.",
             MetricType::Gauge, {"device", "kind"}, all.memory),
      Family("fresco_component_memory_bytes",
             "Of the memory that is allocated on a device, what each component has now.", MetricType::Gauge,
             {"device", "model", "component", "kind"}, all.held),
      Family("fresco_graph_bytes",
             "What a model's CUDA graphs keep of a device for what they compute, beside what is allocated there.",
             MetricType::Gauge, {"device", "model", "work"}, all.graphs),
      Family("fresco_weights_bytes", "Weights by component and the type they are stored in, over all replicas.",
             MetricType::Gauge, {"model", "component", "precision"}, all.weights),
      Family("fresco_prompt_cache_hits_total", "Prompts whose encoding was in the cache.", MetricType::Counter,
             {"model"}, all.hits),
      Family("fresco_prompt_cache_misses_total", "Prompts that had to be encoded.", MetricType::Counter, {"model"},
             all.misses),
      Family("fresco_prompt_cache_bytes", "Encoded prompts that are kept now.", MetricType::Gauge, {"model"},
             all.cached),
      Family("fresco_nonfinite_outputs_total", "Images that failed because a result was NaN or infinite.",
             MetricType::Counter, {"model"}, all.nonfinite),
      Family("fresco_quantized_activations_total", "Activations that were brought to FP8 or int8.", MetricType::Counter,
             {"model"}, all.quantized),
      Family("fresco_saturated_activations_total", "Activations that were clamped to what FP8 or int8 can hold.",
             MetricType::Counter, {"model"}, all.saturated),
      Family("fresco_guarded_activations_total", "Activations that the overflow guard has kept from being clamped.",
             MetricType::Counter, {"model"}, all.guarded),
      Family("fresco_component_loads_total", "Times that a component was loaded because it was needed (memory.budget).",
             MetricType::Counter, {"model", "component"}, all.loads),
      Family("fresco_component_loaded_bytes_total", "Bytes of weights that were moved to the device by that.",
             MetricType::Counter, {"model", "component"}, all.loaded_bytes),
      Family("fresco_component_load_seconds_total", "Seconds that it took.", MetricType::Counter,
             {"model", "component"}, all.load_seconds),
      Family("fresco_model_info", "1 for each loaded replica; the precision that was asked for and the one it has.",
             MetricType::Gauge, {"model", "device", "precision_asked", "precision"}, all.models),
  };
}

}  // namespace fresco
