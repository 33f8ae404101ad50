// Steps of a transformer alone, as the engine makes them, with random texts: what `bench` and `profile` measure.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/graph_cache.h"
#include "pipeline/engine/precision.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/tool/bench.h"
#include "pipeline/tool/options.h"

namespace fresco {

// INVALID_ARGUMENT, naming the option, for what cannot be measured.
absl::Status CheckBenchOptions(const ModelOptions& model, const BenchOptions& options);

// `options` with its sides set. Errors: of the model's files.
absl::StatusOr<BenchOptions> WithSides(const ModelOptions& model, BenchOptions options);

// A transformer in one precision and the images that it advances.
class TransformerSteps {
 public:
  // Until a GPU has recorded its graph, so that what is measured are replays, and the graph is in the peak of memory.
  static constexpr int kWarmUpSteps = GraphLimits().uses_to_record();

  // The model's transformer, or a preset's with random weights; for kWarmUpSteps, BenchOptions::steps and recorded.
  // Says on stderr what there is to say of the choice of kernels.
  static absl::StatusOr<std::unique_ptr<TransformerSteps>> Load(const ModelOptions& model, const BenchOptions& options,
                                                                const at::Device& device, Precision precision);

  // One step of all images; returns when it is done, how long it took in seconds.
  absl::StatusOr<double> Time();
  absl::Status WarmUp();

  double load_seconds() const { return load_seconds_; }  // or of making random weights
  int64_t weight_bytes() const { return transformer_.weight_bytes(); }

 private:
  TransformerSteps(Mmdit transformer, double load_seconds, const BenchOptions& options);

  const Mmdit transformer_;
  const double load_seconds_;
  const std::vector<std::unique_ptr<DiffusionJob>> owned_;
  std::vector<DiffusionJob*> jobs_;
  Denoiser denoiser_;
};

}  // namespace fresco
