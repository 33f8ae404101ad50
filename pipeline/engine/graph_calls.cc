#include "pipeline/engine/graph_calls.h"

#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <utility>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/scope_log.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/memory.h"
#include "pipeline/precision/kernel_choice.h"

namespace fresco {
namespace {

using Elements = SaturationTally::Elements;

// `times` may be negative.
void AddElements(SaturationCount* saturation, const Elements& elements, int64_t times) {
  if (saturation == nullptr) return;
  for (const auto& [layer, count] : elements)
    if (count != 0) saturation->Add(layer, {.elements = times * count});
}

// What would see a graph's work as one piece, or not at all.
bool SomebodyLooks() {
  return at::hasCallbacks() || ScopeLog::Current() != nullptr;
}

c10::Stream CurrentStream(const at::Device& device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// Who comes first has it until the end.
class Turn {
 public:
  explicit Turn(std::atomic<bool>* taken) : taken_(*taken), ours_(!taken->exchange(true)) {}
  ~Turn() {
    if (ours_) taken_ = false;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool ours() const { return ours_; }

 private:
  std::atomic<bool>& taken_;
  const bool ours_;
};

void CopyAll(const std::vector<at::Tensor>& from, const std::vector<at::Tensor>& to) {
  for (size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i], /*non_blocking=*/true);
}

}  // namespace

struct GraphCalls::Recorded {
  Tensors inputs, results;
  Tensors read;
  Elements elements;                   // that its layers count, and count no more when they are replayed
  std::unique_ptr<DeviceGraph> graph;  // goes first, and waits for the device: streams may be using the tensors
};

std::optional<GraphCalls::Options> GraphCalls::OnGpu(const at::Device& device, GraphPriority priority, int64_t bytes,
                                                     std::shared_ptr<SaturationCount> saturation,
                                                     const std::string& what) {
  if (!device.is_cuda() || bytes <= 0) return std::nullopt;
  absl::StatusOr<std::unique_ptr<GraphMaker>> maker = MakeCudaGraphs(device.index(), priority);
  if (!maker.ok()) return std::nullopt;
  const auto warn = [what](const std::string& why) {
    TORCH_WARN("CUDA graphs: ", what, " is enqueued launch by launch, since it could not be recorded: ", why);
  };
  return Options{device, *std::move(maker), {.bytes = bytes}, std::move(saturation), warn, nullptr};
}

GraphCalls::GraphCalls(Options options)
    : device_(options.device),
      saturation_(std::move(options.saturation)),
      maker_(std::move(options.maker)),
      budget_(std::move(options.budget)),
      cache_(options.limits, std::move(options.warn)) {
  if (budget_ != nullptr) budget_->Add(this);
}

GraphCalls::~GraphCalls() {
  if (budget_ != nullptr) budget_->Remove(this);
}

MemoryBudget::Claim GraphCalls::MakeRoom(int64_t bytes) {
  if (budget_ == nullptr) return {};
  return budget_->MakeRoom(bytes, [device = device_] { return MemoryUseOf(device).allocated_bytes; });
}

std::unique_ptr<GraphCalls::Recorded> GraphCalls::Record(const Call& call) {
  const MemoryScope memory("graphs", MemoryKind::kActivations);
  auto recorded = std::make_unique<Recorded>();
  for (const at::Tensor& input : call.inputs) recorded->inputs.push_back(input.clone());
  recorded->results = call.results();
  recorded->graph = maker_->Capture([this, compute = call.compute, into = recorded.get()] {
    const SaturationTally tally(saturation_.get());
    CopyAll(compute(into->inputs), into->results);
    into->elements = tally.elements();
  });
  if (call.read) recorded->read = call.read();
  AddElements(saturation_.get(), recorded->elements, -1);  // of what was only recorded
  return recorded;
}

std::unique_ptr<GraphCalls::Recorded> GraphCalls::RecordIfRoom(const Call& call) {
  try {
    return Record(call);
  } catch (const c10::OutOfMemoryError&) {
    return nullptr;  // there may be room later
  }
}

// Within a stream one use comes after the other. Two streams' at once would write into each other's inputs, and share
// what libraries multiply with.
bool GraphCalls::IsFree() const {
  return device_.is_cpu() || !last_use_.has_value() || last_stream_ == CurrentStream(device_) || last_use_->query();
}

void GraphCalls::Mark() {
  if (device_.is_cpu()) return;
  if (!last_use_.has_value()) last_use_.emplace(device_.type());
  last_stream_ = CurrentStream(device_);
  last_use_->record(*last_stream_);
}

std::optional<GraphCalls::Tensors> GraphCalls::Run(const Call& call) {
  if (SomebodyLooks()) return std::nullopt;
  const Turn turn(&taken_);
  if (!turn.ours()) return std::nullopt;
  if (budget_ != nullptr) budget_->CountUse(this);
  // Until what it was for is counted as the graphs'.
  std::optional<MemoryBudget::Claim> room;
  const MutexLock lock(&mutex_);
  if (!IsFree()) return std::nullopt;
  // A graph holds the kernels that it was recorded with: those of pinned ones are graphs of their own.
  const std::string key = PinnedKernels::OnThisThread() ? StrCat(call.key, " pinned") : call.key;
  Recorded* const recorded = cache_.Use(key, call.bytes, [&](int64_t kept) {
    bytes_ = kept;
    room.emplace(MakeRoom(call.bytes));
    return RecordIfRoom(call);
  });
  bytes_ = cache_.bytes();
  if (recorded == nullptr) return std::nullopt;
  Tensors results;  // which the next replay leaves as they are
  for (const at::Tensor& result : recorded->results) results.push_back(at::empty_like(result));
  CopyAll(call.inputs, recorded->inputs);
  recorded->graph->Replay();
  AddElements(saturation_.get(), recorded->elements, 1);
  CopyAll(recorded->results, results);
  Mark();
  return results;
}

bool GraphCalls::Drop() {
  const MutexLock lock(&mutex_);
  bytes_ = 0;
  return cache_.Clear();
}

// Not for the thread that has them: that may be waiting for who asks.
bool GraphCalls::Evict() {
  const Turn turn(&taken_);
  if (!turn.ours()) return false;
  const CacheRelease release(device_);
  return Drop();
}

}  // namespace fresco
