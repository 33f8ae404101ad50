// Makes an Engine from a checkpoint. Torch-free.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"
#include "pipeline/models/autoencoder_options.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

struct EngineObservers;  // observers.h, which knows tensors
class MemoryBudget;      // memory_budget.h

struct LoadOptions {
  std::string name;                // what ModelInfo::name says
  std::string path;                // diffusers folder, or single .safetensors file
  std::string base;                // optional diffusers folder for what `path` lacks; empty: none
  std::string device = "cpu";      // "cpu", "cuda:N"
  std::string precision = "auto";  // fp32 | bf16 | fp16 | fp8 | fp8-weight-only | int8 | auto
  VaeOptions vae;
  // Of a quantised precision: schemes of layers, noise correction. Empty: `path`/calibration.json where it is there.
  std::string calibration;
  bool static_scales = false;            // inputs are quantised with the calibration's scales, not one for each token
  bool overflow_guard = true;            // then: a token that goes beyond its scale has its own instead
  std::optional<bool> noise_correction;  // of images that do not say; absent: where the calibration has it
  int threads = 0;                       // CPU threads for computing; 0: as many as the machine has
  int64_t prompt_cache_bytes = 256 << 20;
  // Of precision fp8: what its attentions multiply. Absent: the folder's own (fresco.yaml), else high.
  std::optional<AttentionScheme> attention;
  // What is to be different from the precision's own table and from the folder's (fresco.yaml); later ones win. A
  // pattern that matches no linear of the transformer or T5 is INVALID_ARGUMENT.
  std::vector<LayerTable::Rule> layers;
  // What the device's models may hold together: text encoders and VAE are then there while they are needed, and go when
  // their room is. Null: everything stays. RESOURCE_EXHAUSTED where not even one picture of the default size can be
  // drawn within it, with what could be.
  std::shared_ptr<MemoryBudget> memory;
  // On a GPU: which kernels multiply and attend is measured as the model is loaded, but for what this folder has from
  // earlier measurements (empty: none are kept). Or not at all: kernels are then the same on all machines of a type.
  bool measure_kernels = true;
  std::string kernel_choices;
  // On a GPU forwards, and small decodes, of shapes that come again are recorded and enqueued as one (forward_graphs.h,
  // decode_graphs.h), where the device has room for it. Not beside `observers`; within `memory` forwards alone, and
  // graphs go when their room is needed.
  bool cuda_graphs = true;
  std::shared_ptr<const EngineObservers> observers;  // null: nobody looks on
};

// Reads, checks and warms up. Errors name the file and the tensor or key: NOT_FOUND for a missing file,
// INVALID_ARGUMENT for one that is not what it should be, UNIMPLEMENTED for a type or precision that this build cannot
// compute. Thread-safe, also beside engines that compute on the same device; Engine::WarmUp is then due on the thread
// that will call the engine.
absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const LoadOptions& options);

// Bytes of the weights of a model's parts as its files have them; it opens the files and reads no weights. Errors as
// LoadEngine's.
absl::StatusOr<int64_t> StoredWeightBytes(const std::string& path, const std::string& base);

// "cpu" and every usable "cuda:N", best first.
std::vector<std::string> AvailableDevices();

}  // namespace fresco
