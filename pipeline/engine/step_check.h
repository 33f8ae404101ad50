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
  // When the current stream of a device comes to what is enqueued next; nothing on a CPU.
  static std::optional<c10::Event> Begin(const at::Device& device);

  // nonfinite: [images] kFloat, 0 where an image's latents are finite. Enqueues their way to the host, and that of
  // `saturation`'s counters on the device (null: nobody's), on the current stream. `begun`: Begin's, before the step.
  StepCheck(const at::Tensor& nonfinite, std::shared_ptr<SaturationCount> saturation,
            std::optional<c10::Event> begun = std::nullopt);

  // Whether the image's latents are finite. Waits until the step that made them is done. Throws libtorch's exceptions.
  bool Finite(size_t image) const;

  // What the device has taken from `begun` on, for which this waits; nothing without it. Throws libtorch's exceptions.
  std::optional<double> Seconds() const;

 private:
  const std::shared_ptr<SaturationCount> saturation_;
  const at::Tensor nonfinite_;  // on the host
  const at::Tensor counters_;   // likewise; undefined: there are none
  const std::optional<c10::Event> begun_;
  std::optional<c10::Event> copied_;  // nothing on a CPU
};

}  // namespace fresco
