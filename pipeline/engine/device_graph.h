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

// On a device that several streams share.
enum class GraphPriority {
  kOfItsStream,  // as all that is enqueued where the graph is
  kFirst,        // before what others have enqueued
};

// Of one device. Not thread-safe.
class GraphMaker {
 public:
  virtual ~GraphMaker() = default;
  // Calls `work` twice in a stream of its own: once to have all that is made at a first use, once to record it, when
  // nothing is computed. It must wait for no device, and leave what it computes in tensors that were there before. What
  // libraries need to multiply is shared by all graphs of a maker: none is enqueued while another is on its way in
  // another stream. Throws libtorch's exceptions, and what `work` throws; then nothing is left of it, and the calling
  // thread's device is as it was. Other threads may compute, allocate and wait for streams meanwhile.
  virtual std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) = 0;
};

}  // namespace fresco
