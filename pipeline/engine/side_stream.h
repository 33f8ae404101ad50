// A stream of a GPU beside the one that a device's compute thread uses, so that what is enqueued on the one does not
// wait for the other.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <optional>

#include "pipeline/engine/stream_lease.h"

namespace fresco {

// Of one GPU, or of a CPU, where it is nothing. Used by one thread at a time.
class SideStream {
 public:
  explicit SideStream(const at::Device& device) : device_(device) {}

  // While it lives, what the calling thread does on the device is enqueued there; when it ends, that is done, so that
  // all that was read may be freed or written by anybody. May throw libtorch's exceptions when it is made.
  class Scope {
   public:
    explicit Scope(SideStream* stream);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const std::optional<c10::Stream> own_;
    std::optional<c10::Stream> before_;  // that was the thread's
  };

  // What a side stream has made will be read in the calling thread's current stream: once nobody has it any more, its
  // memory is not given away before that stream has come so far.
  static void UseInCurrentStream(const at::Tensor& tensor);

 private:
  std::optional<c10::Stream> Taken();  // nothing on a CPU

  const at::Device device_;
  std::optional<StreamLease> stream_;  // taken at its first use
};

}  // namespace fresco
