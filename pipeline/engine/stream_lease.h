// A stream of libtorch's pools that nobody else holds. libtorch keeps memory for each stream that it has used, for good
// (cuBLAS's workspace, some 32 MiB on a GPU), and hands out its 32 streams of a priority in turn: taken anew for every
// model that is loaded they would all come to hold some, and two models to share one. So who is done with one leaves it
// for the next. Of libtorch's headers alone (libfresco_cuda_graph.so has it too).
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <vector>

#include "pipeline/base/mutex.h"

namespace fresco {

// Of a GPU, not of a CPU. Thread-safe. Given back when it is destroyed: what was enqueued in it is done by then.
class StreamLease {
 public:
  // May throw libtorch's exceptions.
  StreamLease(const at::Device& device, bool high_priority)
      : left_(LeftOf(high_priority)), stream_(Take(&left_, device, high_priority)) {}
  ~StreamLease() {
    const MutexLock lock(&left_.mutex);
    left_.streams.push_back(stream_);
  }
  StreamLease(const StreamLease&) = delete;
  StreamLease& operator=(const StreamLease&) = delete;

  const c10::Stream& stream() const { return stream_; }

 private:
  // As libtorch's pools: of the process, and never destroyed.
  struct Left {
    Mutex mutex;
    std::vector<c10::Stream> streams FRESCO_GUARDED_BY(mutex);
  };
  static Left& LeftOf(bool high_priority) {
    static auto* const left = new Left[2];
    return left[high_priority ? 1 : 0];
  }

  static c10::Stream Take(Left* left, const at::Device& device, bool high_priority) {
    const c10::impl::VirtualGuardImpl guard(device.type());
    const at::Device own = device.has_index() ? device : guard.getDevice();
    const MutexLock lock(&left->mutex);
    const auto found = std::find_if(left->streams.begin(), left->streams.end(),
                                    [&](const c10::Stream& stream) { return stream.device() == own; });
    if (found == left->streams.end()) return guard.getStreamFromGlobalPool(own, high_priority);
    const c10::Stream stream = *found;
    left->streams.erase(found);
    return stream;
  }

  Left& left_;
  const c10::Stream stream_;
};

}  // namespace fresco
