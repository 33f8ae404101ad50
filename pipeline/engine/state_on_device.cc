#include "pipeline/engine/state_on_device.h"

#include <utility>

#include "pipeline/base/memory_scope.h"

namespace fresco {

std::shared_ptr<const PromptEmbedding> OnDevice(const std::shared_ptr<const PromptEmbedding>& embedding,
                                                const at::Device& device) {
  if (embedding == nullptr || embedding->text.device() == device) return embedding;
  PromptEmbedding moved = *embedding;
  moved.text = moved.text.to(device);
  moved.pooled = moved.pooled.to(device);
  return std::make_shared<const PromptEmbedding>(std::move(moved));
}

DiffusionState StateOnDevice(const DiffusionState& state, const at::Device& device, at::ScalarType dtype) {
  const MemoryScope memory("images", MemoryKind::kState);
  DiffusionState moved = state;
  moved.positive = OnDevice(state.positive, device);
  moved.negative = OnDevice(state.negative, device);
  moved.latents = state.latents.to(device, dtype);
  if (state.velocity.defined()) moved.velocity = state.velocity.to(device);
  moved.conditions = nullptr;  // of the device
  moved.pending = {};
  return moved;
}

}  // namespace fresco
