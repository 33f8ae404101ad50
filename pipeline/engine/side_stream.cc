#include "pipeline/engine/side_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace fresco {

std::optional<c10::Stream> SideStream::Taken() {
  if (device_.is_cpu()) return std::nullopt;
  // Not of high priority: the steps are what others wait for.
  if (!stream_.has_value()) stream_.emplace(device_, /*high_priority=*/false);
  return stream_->stream();
}

SideStream::Scope::Scope(SideStream* stream) : own_(stream->Taken()) {
  if (own_.has_value()) before_ = c10::impl::VirtualGuardImpl(own_->device_type()).exchangeStream(*own_);
}

void SideStream::UseInCurrentStream(const at::Tensor& tensor) {
  const at::Device device = tensor.device();
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.recordDataPtrOnStream(tensor.storage().data_ptr(), guard.getStream(device));
}

SideStream::Scope::~Scope() {
  if (!own_.has_value()) return;
  const c10::impl::VirtualGuardImpl guard(own_->device_type());
  try {
    guard.synchronizeStream(*own_);
  } catch (...) {  // the call that failed has said so, or the next one will
  }
  try {
    guard.exchangeStream(*before_);
  } catch (...) {
  }
}

}  // namespace fresco
