#include "pipeline/engine/forward_graphs.h"

#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>

#include <map>
#include <utility>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/scope_log.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/precision/kernel_choice.h"

namespace fresco {
namespace {

using Elements = std::map<std::string, int64_t, std::less<>>;

// Of one forward: `after` less `before`.
Elements Difference(const Elements& before, Elements after) {
  for (const auto& [layer, elements] : before) after[layer] -= elements;
  return after;
}

Elements ElementsOf(const SaturationCount* saturation) {
  return saturation == nullptr ? Elements() : saturation->Elements();
}

// `times` may be negative.
void AddElements(SaturationCount* saturation, const Elements& elements, int64_t times) {
  for (const auto& [layer, count] : elements)
    if (count != 0) saturation->Add(layer, {.elements = times * count});
}

// A graph holds the kernels that it was recorded with: those of pinned ones are graphs of their own.
std::string KeyOf(const std::vector<at::Tensor>& latents, const at::Tensor& text) {
  std::string key = StrCat(text.size(1), " ", c10::toString(text.scalar_type()));
  if (PinnedKernels::OnThisThread()) key += " pinned";
  for (const at::Tensor& size : latents) key += StrCat(" ", size.size(0), "x", size.size(2), "x", size.size(3));
  return key;
}

// What would see a graph's work as one piece, or not at all.
bool SomebodyLooks() {
  return at::hasCallbacks() || ScopeLog::Current() != nullptr;
}

}  // namespace

struct ForwardGraphs::Recorded {
  std::vector<at::Tensor> latents;
  at::Tensor text;
  Mmdit::Modulations modulations;
  std::vector<at::Tensor> velocities;
  std::vector<at::Tensor> positions;  // which the work reads where they are
  Elements elements;                  // that its layers count, and count no more when they are replayed
  std::unique_ptr<DeviceGraph> graph;

  void Fill(const std::vector<at::Tensor>& new_latents, const at::Tensor& new_text,
            const Mmdit::Modulations& new_modulations) {
    for (size_t i = 0; i < latents.size(); ++i) latents[i].copy_(new_latents[i], /*non_blocking=*/true);
    text.copy_(new_text, /*non_blocking=*/true);
    modulations.blocks.copy_(new_modulations.blocks, /*non_blocking=*/true);
    modulations.norm_out.copy_(new_modulations.norm_out, /*non_blocking=*/true);
  }
};

std::shared_ptr<ForwardGraphs> ForwardGraphs::OnGpu(const Mmdit& transformer, int64_t bytes,
                                                    std::shared_ptr<SaturationCount> saturation) {
  const at::Device& device = transformer.placement().device;
  if (!device.is_cuda() || bytes <= 0) return nullptr;
  absl::StatusOr<std::unique_ptr<GraphMaker>> maker = MakeCudaGraphs(device.index());
  if (!maker.ok()) return nullptr;
  Options options{*std::move(maker), {.bytes = bytes}, std::move(saturation), [](const std::string& why) {
                    TORCH_WARN("CUDA graphs: a forward is enqueued launch by launch, since it could not be recorded: ",
                               why);
                  }};
  return std::make_shared<ForwardGraphs>(transformer, std::move(options));
}

ForwardGraphs::ForwardGraphs(const Mmdit& transformer, Options options)
    : transformer_(transformer),
      saturation_(std::move(options.saturation)),
      maker_(std::move(options.maker)),
      cache_(options.limits, std::move(options.warn)) {}

ForwardGraphs::~ForwardGraphs() = default;

// What the work takes and the inputs and outputs that stay.
int64_t ForwardGraphs::BytesOf(const std::vector<at::Tensor>& latents, const at::Tensor& text) const {
  Mmdit::ForwardShape shape{0, latents.front().size(2), latents.front().size(3), text.size(1)};
  int64_t bytes = static_cast<int64_t>(text.nbytes()) + text.size(0) * transformer_.modulation_bytes();
  for (const at::Tensor& size : latents) {
    shape.samples += size.size(0);
    bytes += 2 * static_cast<int64_t>(size.nbytes());
  }
  return bytes + transformer_.ForwardBytes(shape, /*threads=*/1);
}

std::unique_ptr<ForwardGraphs::Recorded> ForwardGraphs::Record(const std::vector<at::Tensor>& latents,
                                                               const at::Tensor& text,
                                                               const Mmdit::Modulations& modulations) {
  const MemoryScope memory("graphs", MemoryKind::kActivations);
  auto recorded = std::make_unique<Recorded>();
  for (const at::Tensor& size : latents) {
    recorded->latents.push_back(size.clone());
    recorded->velocities.push_back(at::empty_like(size));
  }
  recorded->text = text.clone();
  recorded->modulations = {modulations.blocks.clone(), modulations.norm_out.clone()};
  recorded->graph = maker_->Capture([this, into = recorded.get()] {
    const Elements before = ElementsOf(saturation_.get());
    const std::vector<at::Tensor> velocities = transformer_.Forward(into->latents, into->text, into->modulations);
    for (size_t i = 0; i < velocities.size(); ++i) into->velocities[i].copy_(velocities[i]);
    into->elements = Difference(before, ElementsOf(saturation_.get()));
  });
  recorded->positions = transformer_.Positions(latents);
  if (saturation_ != nullptr) AddElements(saturation_.get(), recorded->elements, -1);  // of what was only recorded
  return recorded;
}

std::vector<at::Tensor> ForwardGraphs::Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                               const Mmdit::Modulations& modulations) {
  if (SomebodyLooks()) return transformer_.Forward(latents, text, modulations);
  {
    const MutexLock lock(&mutex_);
    Recorded* const recorded =
        cache_.Use(KeyOf(latents, text), BytesOf(latents, text), [&] { return Record(latents, text, modulations); });
    if (recorded != nullptr) {
      recorded->Fill(latents, text, modulations);
      recorded->graph->Replay();
      if (saturation_ != nullptr) AddElements(saturation_.get(), recorded->elements, 1);
      std::vector<at::Tensor> velocities;  // which the next replay leaves as they are
      for (const at::Tensor& size : recorded->velocities) velocities.push_back(size.clone());
      return velocities;
    }
  }
  return transformer_.Forward(latents, text, modulations);
}

bool ForwardGraphs::Drop() {
  const MutexLock lock(&mutex_);
  return cache_.Clear();
}

int64_t ForwardGraphs::bytes() const {
  const MutexLock lock(&mutex_);
  return cache_.bytes();
}

}  // namespace fresco
