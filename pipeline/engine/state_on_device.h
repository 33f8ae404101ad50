// What a job has on a device, on another: jobs that are parked, kept or taken up again.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <memory>

#include "pipeline/engine/diffusion_job.h"

namespace fresco {

// Thread-safe; may throw libtorch's exceptions.

// Itself where it is there already, or null.
std::shared_ptr<const PromptEmbedding> OnDevice(const std::shared_ptr<const PromptEmbedding>& embedding,
                                                const at::Device& device);

// With latents in `dtype`, and without what belongs to the device that it comes from (Denoiser::Begin) and what is
// still to be looked at: whoever moves a state has looked (Denoiser::Settle).
DiffusionState StateOnDevice(const DiffusionState& state, const at::Device& device, at::ScalarType dtype);

}  // namespace fresco
