// What a step has found out about its results: whether they are finite, and how much saturated on their way. On a GPU
// that comes to the host behind the step's work, and nobody waits for it before it is looked at.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstddef>
#include <memory>
#include <optional>

#include "pipeline/precision/saturation.h"

namespace fresco {

// Looked at from any thread, after it has been made.
class StepCheck {
 public:
  // nonfinite: [images] kFloat, 0 where an image's latents are finite. Enqueues their way to the host, and that of
  // `saturation`'s counters on the device (null: nobody's), on the current stream.
  StepCheck(const at::Tensor& nonfinite, std::shared_ptr<SaturationCount> saturation);

  // Whether the image's latents are finite. Waits until the step that made them is done. Throws libtorch's exceptions.
  bool Finite(size_t image) const;

 private:
  const std::shared_ptr<SaturationCount> saturation_;
  const at::Tensor nonfinite_;        // on the host
  const at::Tensor counters_;         // likewise; undefined: there are none
  std::optional<c10::Event> copied_;  // nothing on a CPU
};

}  // namespace fresco
