// Adds a profiler's recordings up by layer. Torch-free and pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/engine/recording.h"

namespace fresco {

// What a layer is for.
enum class LayerKind { kAttention, kMlp, kModulation, kNorm, kConvolution, kEmbedding, kOther };
std::string_view LayerKindName(LayerKind kind);  // "attention", "MLP", "modulation", …

// Of a layer in one call of its stage (all of its runs there: an autoencoder's in every tile).
struct LayerTime {
  std::string name;   // with its modules: "transformer.transformer_blocks.3.attn.to_out.0"
  std::string dtype;  // what it multiplies, or is
  LayerKind kind = LayerKind::kOther;
  double seconds = 0;  // on a CPU its own thread's, on a GPU its kernels'
  int64_t runs = 0;
  int64_t flops = 0;  // of products; 0: it has none
  int64_t bytes = 0;  // of weights, inputs and outputs

  std::string_view component() const { return std::string_view(name).substr(0, name.find('.')); }
};

// What a stage loses between two of its layers: on a CPU the thread's time in neither, on a GPU time in which no kernel
// ran. Kernels that belong to no layer lie between the layers around them.
struct LayerGap {
  std::string after, before;  // the layers, the same for what is lost within one; empty: the call's begin or its end
  double seconds = 0;         // of a call, all of these gaps together
  int64_t count = 0;          // of a call

  bool operator==(const LayerGap&) const = default;
};

// A stage ("prepare", "step", "decode") as its typical calls were: the mean over the half of them in the middle, by
// their time. So what a call takes is the sum of its layers' seconds, outside_seconds and idle_seconds, exactly.
struct StageTimes {
  std::string name;
  int calls = 0;                  // that were recorded
  double seconds = 0;             // of a call: the thread's, or a GPU's from its first kernel to its last
  double outside_seconds = 0;     // between layers
  double idle_seconds = 0;        // of a GPU, which waits for the thread that feeds it
  bool on_device = false;         // the times are a GPU's
  std::vector<LayerTime> layers;  // in order of computation
  std::vector<LayerGap> gaps;     // the longest first; together lost_seconds, but where a GPU's streams overlap

  double layer_seconds() const;
  // Of a call: in no layer, or on a GPU without a kernel.
  double lost_seconds() const { return on_device ? idle_seconds : outside_seconds; }
};

// The stages of all recordings, in the order of their first calls. Calls of a stage need not have the same layers:
// those that a call does not have took no time in it.
std::vector<StageTimes> AddUpLayers(absl::Span<const Recording> recordings);

// Of layers of one component and kind: what they take together. In the order of the components' first layers, of one
// component the longest first. `name` is the component's; of several dtypes the one with the most time.
std::vector<LayerTime> SumByKind(absl::Span<const LayerTime> layers);

// Several recordings' traces as one, which has all their events on one axis of time. INTERNAL for what is no trace.
absl::StatusOr<std::string> MergeTraces(absl::Span<const Recording> recordings);

}  // namespace fresco
