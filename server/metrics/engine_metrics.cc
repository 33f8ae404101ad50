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
  Series memory, weights, hits, misses, cached, nonfinite, saturated, guarded, models;
};

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
  for (const ModelInfo::Component& component : info.components) {
    all->weights[{info.name, component.name, component.precision}] += static_cast<double>(component.weight_bytes);
  }
  all->hits[{info.name}] += static_cast<double>(stats.prompt_cache_hits);
  all->misses[{info.name}] += static_cast<double>(stats.prompt_cache_misses);
  all->cached[{info.name}] += static_cast<double>(stats.prompt_cache_bytes);
  all->nonfinite[{info.name}] += static_cast<double>(stats.nonfinite_outputs);
  all->saturated[{info.name}] += static_cast<double>(stats.saturated_activations);
  all->guarded[{info.name}] += static_cast<double>(stats.guarded_activations);
  all->models[{info.name, info.device, info.precision_asked, info.precision}] = 1;
}

}  // namespace

void EngineMetrics::Add(const Engine* engine) {
  MutexLock lock(&mutex_);
  engines_.push_back(engine);
}

void EngineMetrics::Remove(const std::string& device) {
  MutexLock lock(&mutex_);
  std::erase_if(engines_, [&](const Engine* engine) { return engine->info().device == device; });
}

std::vector<MetricFamily> EngineMetrics::Collect() const {
  std::vector<const Engine*> engines;
  {
    MutexLock lock(&mutex_);
    engines = engines_;
  }
  AllSeries all;
  for (const Engine* engine : engines) AddReplica(*engine, &all);
  return {
      Family("fresco_device_memory_bytes",
             "Memory on a device: its models' weights, all that is allocated now, and the most that has been.",
             MetricType::Gauge, {"device", "kind"}, all.memory),
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
      Family("fresco_saturated_activations_total", "Activations that were clamped to what FP8 or int8 can hold.",
             MetricType::Counter, {"model"}, all.saturated),
      Family("fresco_guarded_activations_total", "Activations that the overflow guard has kept from being clamped.",
             MetricType::Counter, {"model"}, all.guarded),
      Family("fresco_model_info", "1 for each loaded replica; the precision that was asked for and the one it has.",
             MetricType::Gauge, {"model", "device", "precision_asked", "precision"}, all.models),
  };
}

}  // namespace fresco
