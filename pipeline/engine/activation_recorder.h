// What InspectActivations does at a model's layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/engine/inspection.h"
#include "pipeline/models/layers.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// Of the model that is inspected: counts what its layers are given and give. Not thread-safe.
class ActivationRecorder final : public LinearProbe {
 public:
  // `steps`: of each layer that is met. `keep`: for a reference that comes after.
  ActivationRecorder(size_t steps, bool keep) : steps_(steps), keep_(keep) {}

  // Of this step, until Rest.
  void Record(size_t step);
  void Rest() { step_.reset(); }
  // Layers of that name are handed on too.
  void HandOn(std::string layer, std::function<void(size_t step, const at::Tensor& value)> take);

  at::Tensor Visit(const Linear& linear, const at::Tensor& x) override;
  void Stage(std::string_view name, const at::Tensor& value);
  // What is clamped and kept from the one to the other, of layers by their names, is the step's: others compute with
  // the model's linears in between (NoiseRecorder).
  void StartSaturation(const SaturationCount& counted);
  void AddSaturation(const SaturationCount& counted);

  std::vector<InspectedLayer> TakeLayers();

  // For the reference: of what was recorded last. A layer that is not known: null, undefined.
  InspectedStep* StepOf(std::string_view layer);
  const Linear* LinearOf(std::string_view layer) const;
  // The type of what it is given.
  at::ScalarType TypeOf(std::string_view layer) const;
  // A stage's results of the last step, one after the other (the autoencoder has several where it computes in tiles).
  at::Tensor TakeStage(std::string_view name);

 private:
  struct Known {
    size_t layer = 0;              // in layers_
    std::optional<Linear> linear;  // without its tap
    at::ScalarType type = at::kFloat;
    std::deque<at::Tensor> values;  // of a stage, of the last step; where `keep`
  };
  Known& Meet(const std::string& name, InspectedLayer::Kind kind);
  void Count(Known* known, const at::Tensor& value);

  const size_t steps_;
  const bool keep_;
  std::optional<size_t> step_;  // nothing: at rest
  size_t last_step_ = 0;
  std::string handed_;
  std::function<void(size_t, const at::Tensor&)> take_;
  std::vector<InspectedLayer> layers_;
  std::map<std::string, Known, std::less<>> known_;
  std::map<std::string, SaturationCount::Activations, std::less<>> before_;  // the step
};

// Of the reference, whose steps come after the inspected model's: how far that is from it. Not thread-safe.
class NoiseRecorder final : public LinearProbe {
 public:
  // `inspected` outlives it.
  explicit NoiseRecorder(ActivationRecorder* inspected) : inspected_(*inspected) {}

  void Record() { on_ = true; }
  void Rest() { on_ = false; }

  at::Tensor Visit(const Linear& linear, const at::Tensor& x) override;
  void Stage(std::string_view name, const at::Tensor& value);

 private:
  ActivationRecorder& inspected_;
  bool on_ = false;
};

// The channels of a layer's value as maps over the picture, of the last of its samples: [B, N, C] with N = height *
// width tokens, or [B, C, h, w] of any size. Nothing for one that has no places in the picture.
std::optional<FeatureMaps> MapsOf(const at::Tensor& value, int64_t height, int64_t width, size_t channels);

}  // namespace fresco
