#include "pipeline/engine/side_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace fresco {
namespace {

std::optional<c10::Stream> StreamOf(const at::Device& device) {
  if (device.is_cpu()) return std::nullopt;
  // Not from the pool of high priority: the steps are what others wait for.
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/false);
}

}  // namespace

SideStream::Scope::Scope(SideStream* stream)
    : own_(stream->stream_.has_value() ? stream->stream_ : stream->stream_ = StreamOf(stream->device_)) {
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
