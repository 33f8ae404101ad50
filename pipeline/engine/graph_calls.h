// Calls that compute on a device, by graphs: one for each kind of call that comes again.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/device_graph.h"
#include "pipeline/engine/graph_cache.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// Thread-safe: at any time one thread has the graphs, and others' calls go without.
class GraphCalls final : private Evictable {
 public:
  using Tensors = std::vector<at::Tensor>;

  struct Options {
    at::Device device = at::kCPU;  // that calls compute on
    std::unique_ptr<GraphMaker> maker;
    GraphLimits limits;
    std::shared_ptr<SaturationCount> saturation;       // that the calls' layers count in; null: nobody
    std::function<void(const std::string& why)> warn;  // GraphCache's
    // The device's: all graphs go when their room is needed, and none is made before there is room. Null: nobody asks.
    std::shared_ptr<MemoryBudget> budget;
  };
  // Graphs of at most `bytes` on `device`, which warn on stderr that `what` ("a forward") goes without; nothing on a
  // CPU, in a build without graphs, and for less than one byte. May throw libtorch's exceptions.
  static std::optional<Options> OnGpu(const at::Device& device, GraphPriority priority, int64_t bytes,
                                      std::shared_ptr<SaturationCount> saturation, const std::string& what);
  // Where graphs come from, as OnGpu. Empty: there are to be none.
  using Source = std::function<decltype(OnGpu)>;

  struct Call {
    std::string key;    // says by which graph: shapes, types
    int64_t bytes = 0;  // that its work takes on the device, with inputs and results
    Tensors inputs;     // all that differs from call to call of the key
    // Inputs → results, any number of them. Recorded, it is called with tensors of the graph's own, and may be kept.
    std::function<Tensors(const Tensors& inputs)> compute;
    std::function<Tensors()> results;         // new tensors, for what compute gives
    std::function<Tensors()> read = nullptr;  // what it reads besides, which must stay where it is; null: nothing
  };

  explicit GraphCalls(Options options);
  ~GraphCalls() override;
  GraphCalls(const GraphCalls&) = delete;
  GraphCalls& operator=(const GraphCalls&) = delete;

  // What call.compute gives, enqueued as one. Nothing: the caller is to compute it itself. That is where the key has no
  // graph (GraphCache), where something looks into the work (a profiler of the calling thread), while another thread
  // has the graphs, and while another stream's work by them is on its way. Throws libtorch's exceptions.
  std::optional<Tensors> Run(const Call& call) FRESCO_EXCLUDES(mutex_);

  // Lets go of all graphs and of their memory, for who needs it: whether there were any. They are made again when their
  // keys come again. Waits for the thread that has them.
  bool Drop() FRESCO_EXCLUDES(mutex_);

  int64_t bytes() const { return bytes_.load(); }  // that graphs keep, as their calls have said

  // For a call that Run has left to its caller, which is to take so many bytes: MemoryBudget's, or nothing without one.
  [[nodiscard]] MemoryBudget::Claim MakeRoom(int64_t bytes);

 private:
  struct Recorded;
  std::unique_ptr<Recorded> Record(const Call& call);
  std::unique_ptr<Recorded> RecordIfRoom(const Call& call);  // null: memory has run out
  // Whether the calling thread's stream may use the graphs; it does from Mark on.
  bool IsFree() const FRESCO_REQUIRES(mutex_);
  void Mark() FRESCO_REQUIRES(mutex_);

  int64_t evictable_bytes() const override { return taken_.load() ? 0 : bytes(); }
  bool Evict() override FRESCO_EXCLUDES(mutex_);
  int64_t uncounted_bytes() const override { return bytes(); }

  const at::Device device_;
  const std::shared_ptr<SaturationCount> saturation_;
  const std::unique_ptr<GraphMaker> maker_;
  std::atomic<int64_t> bytes_ = 0;
  std::atomic<bool> taken_ = false;  // by the thread that runs a call, or lets go of all
  const std::shared_ptr<MemoryBudget> budget_;

  Mutex mutex_;
  GraphCache<Recorded> cache_ FRESCO_GUARDED_BY(mutex_);
  // Where graphs were used last, and until when; nothing on a CPU.
  std::optional<c10::Stream> last_stream_ FRESCO_GUARDED_BY(mutex_);
  std::optional<c10::Event> last_use_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
