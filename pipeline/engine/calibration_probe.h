// What calibration does at a model's linears.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "pipeline/engine/calibration_state.h"
#include "pipeline/models/layers.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/scheme.h"
#include "pipeline/precision/weight_rounding.h"

namespace fresco {

// A linear's weight as it was before it was packed.
at::Tensor PlainWeight(const Linear& linear);

// A linear, and what it has been given.
struct GatheredLinear {
  Linear linear;
  InputMoments moments;
};

// Does one thing at a time: nothing, counting inputs, gathering their moments, or quantising one linear. Not
// thread-safe.
class CalibrationProbe final : public LinearProbe {
 public:
  void Rest();
  // Adds what each linear is given to bucket `bucket` (below `buckets`) of its entry of `layers`, made where it is
  // missing. `layers` outlives the measuring.
  void Measure(std::vector<LayerStatistics>* layers, size_t bucket, size_t buckets);
  // Adds what those linears are given whose first names are in `layers` to `gathered`, under that name. `gathered`
  // outlives the gathering.
  void Gather(std::set<std::string> layers, std::map<std::string, GatheredLinear>* gathered);
  // Computes the linear whose first name is `layer` by `scheme` (not kHigh), its weight quantised when it comes first.
  void Quantise(const std::string& layer, LinearScheme scheme);
  // Gives that linear its inputs as the scheme would quantise them; its weight stays as it is.
  void QuantiseInputs(const std::string& layer, LinearScheme scheme);

  at::Tensor Visit(const Linear& linear, const at::Tensor& x) override;

 private:
  void Count(const LinearTap& tap, const at::Tensor& x);

  std::vector<LayerStatistics>* layers_ = nullptr;
  size_t bucket_ = 0, buckets_ = 0;
  std::map<std::string, size_t> entry_;  // in *layers_, by the first name

  std::set<std::string> wanted_;
  std::map<std::string, GatheredLinear>* gathered_ = nullptr;

  std::string quantised_;  // empty: none
  bool inputs_alone_ = false;
  LinearScheme scheme_ = LinearScheme::kHigh;
  std::unique_ptr<const QuantizedLinear> stand_in_;  // null before the first visit
};

}  // namespace fresco
