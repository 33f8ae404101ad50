// What passes through a model while it draws, layer by layer and step by step, and where a precision loses it.
// Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/precision/input_statistics.h"

namespace fresco {

// Two results that should be equal: sums of squares.
struct Fidelity {
  double signal = 0;  // of the reference's
  double noise = 0;   // of the difference

  void Add(const Fidelity& other) { signal += other.signal, noise += other.noise; }
  bool known() const { return signal > 0 || noise > 0; }
  // Signal to noise, in dB; infinite where they are equal, NaN where one of them was not finite.
  double decibels() const;
};

// Of a layer, at one step, of all pictures and both samples of a guided one.
struct InspectedStep {
  InputStatistics values;   // NaN counts as 0 there
  int64_t nan = 0;          // elements
  int64_t infinite = 0;     // elements
  int64_t beyond_e4m3 = 0;  // elements of a larger magnitude than 448, which E4M3 without a scale does not have
  // Of the values that were quantised: beyond what the scale leaves, and clamped, or kept by the guard.
  int64_t saturated = 0, guarded = 0;
  Fidelity own;      // what the layer alone makes of the reference's input
  Fidelity through;  // with all that lies before it (a linear: nothing)

  void Add(const InspectedStep& other);
};

struct InspectedLayer {
  enum class Kind {
    kLinear,  // values are what it is given
    kStage,   // values are what it results in
    kOther,   // that counts what it clamps (a convolution of the VAE in FP8); nothing else is known of it
  };
  // Diffusers' name below its component, of linears that are computed as one the first's
  // ("transformer.transformer_blocks.3.attn.to_q"); a stage's as EngineObservers has it.
  std::string name;
  Kind kind = Kind::kLinear;
  std::vector<std::string> others;   // the linears that are computed with it, named alike
  std::string scheme;                // SchemeName, of a linear; "mixed" where its parts differ
  std::vector<InspectedStep> steps;  // one for each step, then one for the decoding

  InspectedStep all() const;
};

// Channels of a layer as pictures, of the first picture at one step (of a guided one: the prompt's sample).
struct FeatureMaps {
  std::string layer;
  size_t step = 0;                       // as InspectedLayer::steps
  int64_t all_channels = 0;              // that there are
  int height = 0, width = 0;             // of a map
  std::vector<int> channels;             // those with the largest magnitudes, the largest first
  std::vector<float> absmax;             // of each
  std::vector<std::vector<float>> maps;  // of each, [height * width]
};

struct InspectionOptions {
  LoadOptions load;
  std::string against;  // a precision that it is held against, on the same device; empty: none
  // What is drawn, given the model. With `against` it is drawn as that would: both are given the same latents at each
  // step, so that a step's noise is its own.
  std::function<std::vector<ImageSpec>(const ModelInfo&)> specs;
  std::string features;  // a layer whose FeatureMaps are wanted; empty: none
  size_t feature_channels = 64;
  std::function<void(const FeatureMaps&)> on_features;
  // `done` of `total` steps; may be empty.
  std::function<void(int64_t done, int64_t total)> on_progress;
};

struct Inspection {
  ModelInfo model, reference;  // reference: empty where there is none
  std::vector<ImageSpec> specs;
  std::vector<InspectedLayer> layers;  // in the order of computation, kOther last
};

// LoadEngine's and the engine's errors. INVALID_ARGUMENT for features of a layer that the model has not, or that has no
// places in the picture. A picture that fails for its values (DATA_LOSS) ends there, and what was seen of it is told.
absl::StatusOr<Inspection> InspectActivations(const InspectionOptions& options);

// The worst first: quantised linears by the signal to noise ratio of their own, all steps together.
std::vector<const InspectedLayer*> ByOwnNoise(const Inspection& inspection);

// In the order of computation the first linear whose own ratio lies kFall dB below the median of all that are
// quantised; null where there is none.
inline constexpr double kFall = 10;  // dB
const InspectedLayer* FirstToFall(const Inspection& inspection);

}  // namespace fresco
