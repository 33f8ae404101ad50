// Work of a device that is recorded once and enqueued as a whole from then on: what a GPU is told in thousands of
// launches is one. Torch-free; libfresco_cuda_graph.so has the one for CUDA.
#pragma once

#include <functional>
#include <memory>

namespace fresco {

// Keeps the memory that its work has taken. Not thread-safe.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  // Enqueues the work in the calling thread's current stream: it reads and writes what it has read and written when it
  // was recorded. Throws libtorch's exceptions.
  virtual void Replay() = 0;
};

// Of one device. Not thread-safe.
class GraphMaker {
 public:
  virtual ~GraphMaker() = default;
  // Calls `work` twice in a stream of its own: once to have all that is made at a first use, once to record it, when
  // nothing is computed. It must wait for no device, and leave what it computes in tensors that were there before.
  // Throws libtorch's exceptions, and what `work` throws; then nothing is left of it.
  virtual std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) = 0;
};

}  // namespace fresco
