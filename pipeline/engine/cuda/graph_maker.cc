// DeviceGraph for CUDA, with memory from libtorch's allocator: a library that is loaded after libtorch_cuda.so
// (cuda_runtime.h), so that programs stay linked to libtorch_cpu alone.
//
// Not at::cuda::CUDAGraph: it keeps the state of random numbers, one for a device, of which one thread's recording
// makes another's replay throw, and its kernels always have the priority of the stream that they were recorded in.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <memory>

#include "pipeline/engine/device_graph.h"
#include "pipeline/engine/stream_lease.h"

namespace fresco {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Memory of one graph: blocks that its stream takes from the caching allocators while it is opened, and its work on the
// GPU from then on. Others get them when the pool is gone.
class GraphPool {
 public:
  explicit GraphPool(c10::DeviceIndex device) : device_(device), id_(at::cuda::graph_pool_handle()) {
    allocator::createOrIncrefPool(device_, id_);
  }
  ~GraphPool() {
    try {
      allocator::releasePool(device_, id_);
      if (has_host_pool_) Host().release_pool(id_);
    } catch (...) {  // the device has failed, and the next call says so
    }
  }
  GraphPool(const GraphPool&) = delete;
  GraphPool& operator=(const GraphPool&) = delete;

  // Calls `work`, which is computed, with memory of the GPU from the pool.
  void Run(const c10::cuda::CUDAStream& stream, const std::function<void()>& work) {
    const Opened opened(this, stream);
    try {
      work();
    } catch (...) {
      Wait(stream);  // what was enqueued before reads what is let go of next
      throw;
    }
    stream.synchronize();
  }

  // Likewise `work`, which is recorded, with pinned memory of the host too: what copies read has to stay.
  void Record(const c10::cuda::CUDAStream& stream, const std::function<void()>& work) {
    const Opened opened(this, stream);
    Host().begin_allocate_to_pool(id_, [own = stream.unwrap()](c10::Stream asked) { return asked == own; });
    has_host_pool_ = true;
    const OpenedHost opened_host(id_);
    work();
  }

 private:
  static void Wait(const c10::cuda::CUDAStream& stream) noexcept {
    try {
      stream.synchronize();
    } catch (...) {  // as above
    }
  }

  static at::HostAllocator& Host() { return *at::getHostAllocator(at::kCUDA); }

  class Opened {
   public:
    Opened(GraphPool* pool, const c10::cuda::CUDAStream& stream) : pool_(*pool) {
      allocator::beginAllocateToPool(pool_.device_, pool_.id_,
                                     [own = stream.stream()](cudaStream_t asked) { return asked == own; });
    }
    ~Opened() {
      try {
        allocator::endAllocateToPool(pool_.device_, pool_.id_);
        allocator::releasePool(pool_.device_, pool_.id_);  // of the beginning, which counts as another user
      } catch (...) {                                      // as above
      }
    }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

   private:
    const GraphPool& pool_;
  };

  class OpenedHost {
   public:
    explicit OpenedHost(at::cuda::MempoolId_t id) : id_(id) {}
    ~OpenedHost() {
      try {
        Host().end_allocate_to_pool(id_);
      } catch (...) {  // as above
      }
    }
    OpenedHost(const OpenedHost&) = delete;
    OpenedHost& operator=(const OpenedHost&) = delete;

   private:
    const at::cuda::MempoolId_t id_;
  };

  const c10::DeviceIndex device_;
  const at::cuda::MempoolId_t id_;
  bool has_host_pool_ = false;  // from its first beginning on
};

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { C10_CUDA_CHECK_WARN(cudaGraphDestroy(graph)); }
};
struct DestroyExecutable {
  void operator()(cudaGraphExec_t executable) const { C10_CUDA_CHECK_WARN(cudaGraphExecDestroy(executable)); }
};
using Graph = std::unique_ptr<CUgraph_st, DestroyGraph>;
using Executable = std::unique_ptr<CUgraphExec_st, DestroyExecutable>;

// What `work` enqueues in the stream, which is the current one.
Graph Recorded(const c10::cuda::CUDAStream& stream, const std::function<void()>& work) {
  // Of this thread: others may allocate and wait for their streams meanwhile.
  C10_CUDA_CHECK(cudaStreamBeginCapture(stream.stream(), cudaStreamCaptureModeThreadLocal));
  std::exception_ptr failed;
  try {
    work();
  } catch (...) {
    failed = std::current_exception();
  }
  // The stream records until it is told to stop, whatever has failed.
  cudaGraph_t raw = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.stream(), &raw);
  Graph graph(raw);
  if (failed != nullptr) {
    static_cast<void>(cudaGetLastError());  // of the recording's end: the next launch would be told of it
    std::rethrow_exception(failed);
  }
  C10_CUDA_CHECK(ended);
  return graph;
}

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(const c10::cuda::CUDAStream& stream, bool first, const std::function<void()>& work)
      : device_(stream.device_index()), pool_(device_) {
    pool_.Run(stream, work);
    Graph graph;
    pool_.Record(stream, [&] { graph = Recorded(stream, work); });
    cudaGraphExec_t executable = nullptr;
    C10_CUDA_CHECK(cudaGraphInstantiate(&executable, graph.get(), first ? cudaGraphInstantiateFlagUseNodePriority : 0));
    executable_.reset(executable);
  }

  // A replay may be on its way, in another stream than the one whose memory this is.
  ~CudaGraph() override {
    try {
      const c10::cuda::CUDAGuard guard(device_);
      c10::cuda::device_synchronize();
    } catch (...) {  // as in GraphPool
    }
  }

  void Replay() override {
    C10_CUDA_CHECK(cudaGraphLaunch(executable_.get(), c10::cuda::getCurrentCUDAStream(device_).stream()));
  }

 private:
  const c10::DeviceIndex device_;
  GraphPool pool_;  // goes after the graph
  Executable executable_;
};

class CudaGraphMaker final : public GraphMaker {
 public:
  // The stream is one of libtorch's own, and the same for all graphs: libraries keep what they multiply with for each.
  // Of high priority, as nobody else here takes streams: what others enqueued in it would be recorded too.
  CudaGraphMaker(c10::DeviceIndex device, bool first)
      : device_(device), first_(first), lease_(at::Device(at::kCUDA, device), /*high_priority=*/true) {}

  std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) override {
    c10::cuda::getCurrentCUDAStream(device_).synchronize();  // what the work reads is there
    const c10::cuda::CUDAStreamGuard guard(stream_);
    return std::make_unique<CudaGraph>(stream_, first_, work);
  }

 private:
  const c10::DeviceIndex device_;
  const bool first_;
  const StreamLease lease_;
  const c10::cuda::CUDAStream stream_{lease_.stream()};
};

}  // namespace
}  // namespace fresco

// The caller's; `first`: GraphPriority::kFirst. Throws libtorch's exceptions.
extern "C" __attribute__((visibility("default"))) fresco::GraphMaker* fresco_cuda_graph_maker(int device, bool first) {
  return new fresco::CudaGraphMaker(static_cast<c10::DeviceIndex>(device), first);
}
