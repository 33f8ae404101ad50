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

}  // namespace

StepCheck::StepCheck(const at::Tensor& nonfinite, std::shared_ptr<SaturationCount> saturation)
    : saturation_(std::move(saturation)),
      nonfinite_(Download(nonfinite)),
      counters_(Download(CountersOf(saturation_.get()))) {
  if (nonfinite.is_cpu()) return;
  copied_.emplace(nonfinite.device().type());
  copied_->record(c10::impl::VirtualGuardImpl(nonfinite.device().type()).getStream(nonfinite.device()));
}

bool StepCheck::Finite(size_t image) const {
  if (copied_) copied_->synchronize();
  if (counters_.defined()) saturation_->device_counters()->Settle(counters_, saturation_.get());
  return nonfinite_.const_data_ptr<float>()[image] == 0;
}

}  // namespace fresco
