// What a model will hold of its device's memory, told before anything is loaded: from its configurations, its precision
// and what is to be drawn. Torch-free.
//
// Counted are the bytes of tensors, as MemoryUseOf counts them (on a CPU also weights that stay in their mapped files).
// What a GPU's driver keeps for itself (the context, code) is not, nor what graphs keep (LoadOptions::cuda_graphs): it
// is a part of what is left over, and goes where memory runs out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/engine/load.h"

namespace fresco {

// What is drawn at a time.
struct MemoryLoad {
  int width = 1024;                // pixels
  int height = 1024;               // pixels
  int batch = 1;                   // images that are advanced together, each with a text of its own
  bool guided = true;              // with a negative text, and two rows in each forward
  int max_sequence_length = 256;   // T5 tokens of a text
  int steps = 28;                  // of an image
  int64_t cached_texts_bytes = 0;  // that the cache of embeddings holds besides
};

struct ComponentMemory {
  std::string name;          // as ModelInfo::Component
  std::string precision;     // of its weights
  int64_t weight_bytes = 0;  // while it is on the device
  bool kept = true;          // false: loaded when it is needed (LoadOptions::memory)
  bool streamed = false;     // then block by block: it is never there as a whole
  int64_t needed_bytes() const { return streamed ? streamed_bytes : weight_bytes; }  // while it is used
  int64_t streamed_bytes = 0;                                                        // where it can be streamed
};

// The most that is held at once while something is done. "load": when the transformer comes, the last.
struct StageMemory {
  std::string name;              // "load", "text_encoder", "text_encoder_2", "text_encoder_3", "step", "decode"
  int64_t weight_bytes = 0;      // of the components that are there
  int64_t state_bytes = 0;       // of the images and of what their steps keep: latents, texts' embeddings
  int64_t activation_bytes = 0;  // at the most

  int64_t total_bytes() const { return weight_bytes + state_bytes + activation_bytes; }
};

struct MemoryPlan {
  std::vector<ComponentMemory> components;  // the transformer first
  std::vector<StageMemory> stages;          // in the order in which an image comes by them

  // The stage that holds the most; `stages` is never empty.
  const StageMemory& peak() const;
  int64_t weight_bytes() const;  // of all components
  // That of the stage; null: there is none of that name.
  const StageMemory* Find(std::string_view stage) const;
};

// A model's shape, precision and options, for as many predictions as are wanted. Immutable; thread-safe.
class MemoryPlanner {
 public:
  // Reads configurations and, of a single file, its header; no weights. Errors: LoadEngine's, as far as they come from
  // there. `device` need not be there: "cuda:N" is planned for as a GPU that computes FP8.
  static absl::StatusOr<MemoryPlanner> Open(const LoadOptions& options);
  // A published model without its files: sd3.5-medium, sd3.5-large or sd3.5-large-turbo with their text encoders and
  // VAE; path and base are not read. INVALID_ARGUMENT for another name.
  static absl::StatusOr<MemoryPlanner> ForPreset(std::string_view preset, const LoadOptions& options);

  // Everything stays on the device.
  MemoryPlan Plan(const MemoryLoad& load) const;
  // As many components as it takes are away while they are not needed, T5 first, then the other encoders, then the VAE,
  // and T5 is streamed where even alone it is too large, so that no stage holds more than `budget` bytes; where that is
  // not enough, all of it.
  MemoryPlan PlanWithin(int64_t budget, const MemoryLoad& load) const;

  // Activations alone, at the most: of encoding `texts` at once by a component, of a step of rows of equal sizes, and
  // of decoding one picture. What Plan counts for them.
  int64_t EncodeBytes(std::string_view encoder, int texts, int max_sequence_length) const;
  int64_t StepBytes(const MemoryLoad& load) const;
  int64_t DecodeBytes(int width, int height) const;

  // The model's own defaults, and one image.
  MemoryLoad default_load() const;
  const std::string& precision() const;  // as ModelInfo::precision
  int size_multiple() const;             // pixels, and
  int max_size() const;                  // as ModelInfo's

 private:
  struct Model;
  // `ahead`: bytes that modulations of steps to come may take on a GPU.
  MemoryPlan PlanWithout(const std::vector<std::string_view>& away, bool streamed, int64_t ahead,
                         const MemoryLoad& load) const;
  explicit MemoryPlanner(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
  std::shared_ptr<const Model> model_;
};

// The least that a model needs to draw one picture of its default size.
struct MemoryNeed {
  int64_t kept_bytes = 0;     // as long as it is loaded: the transformer
  int64_t working_bytes = 0;  // beyond that, at the most, of one stage after the other
};
MemoryNeed LeastNeed(const MemoryPlanner& planner);
// Of MemoryPlanner::Open's.
absl::StatusOr<MemoryNeed> LeastMemoryNeed(const LoadOptions& options);

}  // namespace fresco
