// DeviceGraph for CUDA, by libtorch's own graphs: a library that is loaded after libtorch_cuda.so (cuda_runtime.h), so
// that programs stay linked to libtorch_cpu alone.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <exception>
#include <memory>

#include "pipeline/engine/device_graph.h"

namespace fresco {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Memory of one graph: blocks that its stream takes from the caching allocator while it is opened, and its work on the
// GPU from then on. Others get them when the pool is gone.
class GraphPool {
 public:
  explicit GraphPool(c10::DeviceIndex device) : device_(device), id_(at::cuda::graph_pool_handle()) {
    allocator::createOrIncrefPool(device_, id_);
  }
  ~GraphPool() {
    try {
      allocator::releasePool(device_, id_);
    } catch (...) {  // the device has failed, and the next call says so
    }
  }
  GraphPool(const GraphPool&) = delete;
  GraphPool& operator=(const GraphPool&) = delete;

  at::cuda::MempoolId_t id() const { return id_; }

  // Calls `work`, which is computed, with memory from the pool.
  void Run(const c10::cuda::CUDAStream& stream, const std::function<void()>& work) {
    allocator::beginAllocateToPool(device_, id_, [own = stream.stream()](cudaStream_t asked) { return asked == own; });
    std::exception_ptr failed;
    try {
      work();
      stream.synchronize();
    } catch (...) {
      failed = std::current_exception();
    }
    allocator::endAllocateToPool(device_, id_);
    allocator::releasePool(device_, id_);  // of the beginning, which counts as another user
    if (failed) std::rethrow_exception(failed);
  }

  // After a capture that began and could not be ended: what CUDAGraph would have done at its end and as it goes.
  void Abandon() noexcept {
    try {
      allocator::endAllocateToPool(device_, id_);
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(id_);
      allocator::releasePool(device_, id_);
      at::getHostAllocator(at::kCUDA)->release_pool(id_);
    } catch (...) {  // as above
    }
  }

 private:
  const c10::DeviceIndex device_;
  const at::cuda::MempoolId_t id_;
};

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(c10::DeviceIndex device, const c10::cuda::CUDAStream& stream, const std::function<void()>& work)
      : device_(device), pool_(device) {
    pool_.Run(stream, work);
    // Of this thread: others may allocate, copy and wait on the device meanwhile.
    graph_.capture_begin(pool_.id(), cudaStreamCaptureModeThreadLocal);
    std::exception_ptr failed;
    try {
      work();
    } catch (...) {
      failed = std::current_exception();
    }
    End(&failed);
    if (failed) std::rethrow_exception(failed);
  }

  // A replay may be on its way, in another stream than the one whose memory this is.
  ~CudaGraph() override {
    try {
      const c10::cuda::CUDAGuard guard(device_);
      c10::cuda::device_synchronize();
    } catch (...) {  // as in GraphPool
    }
  }

  void Replay() override { graph_.replay(); }

 private:
  // The stream records until it is told to stop, whatever has failed.
  void End(std::exception_ptr* failed) {
    try {
      graph_.capture_end();
    } catch (...) {
      if (*failed == nullptr) *failed = std::current_exception();
      pool_.Abandon();
    }
  }

  const c10::DeviceIndex device_;
  GraphPool pool_;  // goes after the graph
  at::cuda::CUDAGraph graph_;
};

class CudaGraphMaker final : public GraphMaker {
 public:
  // The stream is one of libtorch's own, and the same for all graphs: libraries keep what they multiply with for each.
  // From the pool that nobody else here takes streams from: what others enqueued in it would be recorded too.
  explicit CudaGraphMaker(c10::DeviceIndex device)
      : device_(device), stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device)) {}

  std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) override {
    c10::cuda::getCurrentCUDAStream(device_).synchronize();  // what the work reads is there
    const c10::cuda::CUDAStreamGuard guard(stream_);
    return std::make_unique<CudaGraph>(device_, stream_, work);
  }

 private:
  const c10::DeviceIndex device_;
  const c10::cuda::CUDAStream stream_;
};

}  // namespace
}  // namespace fresco

// The caller's; throws libtorch's exceptions.
extern "C" __attribute__((visibility("default"))) fresco::GraphMaker* fresco_cuda_graph_maker(int device) {
  return new fresco::CudaGraphMaker(static_cast<c10::DeviceIndex>(device));
}
