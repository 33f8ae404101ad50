#include "pipeline/engine/step_check.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

#include "pipeline/models/transfer.h"
#include "pipeline/precision/device_counters.h"

namespace fresco {
namespace {

at::Tensor CountersOf(const SaturationCount* saturation) {
  const bool on_device = saturation != nullptr && saturation->device_counters() != nullptr;
  return on_device ? saturation->device_counters()->Read() : at::Tensor();
}

// Of the current stream, as far as it has been given work; one that tells the time.
c10::Event Mark(const at::Device& device) {
  c10::Event event(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  return event;
}

}  // namespace

std::optional<c10::Event> StepCheck::Begin(const at::Device& device) {
  if (device.is_cpu()) return std::nullopt;
  return Mark(device);
}

StepCheck::StepCheck(const at::Tensor& nonfinite, std::shared_ptr<SaturationCount> saturation,
                     std::optional<c10::Event> begun)
    : saturation_(std::move(saturation)),
      nonfinite_(Download(nonfinite)),
      counters_(Download(CountersOf(saturation_.get()))),
      begun_(std::move(begun)) {
  if (!nonfinite.is_cpu()) copied_.emplace(Mark(nonfinite.device()));
}

bool StepCheck::Finite(size_t image) const {
  if (copied_) copied_->synchronize();
  if (counters_.defined()) saturation_->device_counters()->Settle(counters_, saturation_.get());
  return nonfinite_.const_data_ptr<float>()[image] == 0;
}

std::optional<double> StepCheck::Seconds() const {
  if (!begun_.has_value() || !copied_.has_value()) return std::nullopt;
  copied_->synchronize();
  constexpr double kMilliseconds = 1e-3;
  return kMilliseconds * begun_->elapsedTime(*copied_);
}

}  // namespace fresco
