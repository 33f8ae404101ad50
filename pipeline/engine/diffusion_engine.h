// The Engine over a Stable Diffusion 3 / 3.5 checkpoint, with libtorch. Made by LoadEngine.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/diffusion/prompt_encoder.h"
#include "pipeline/engine/byte_allowance.h"
#include "pipeline/engine/decode_graphs.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/forward_graphs.h"
#include "pipeline/engine/graph_calls.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/memory_advice.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/memory_plan.h"
#include "pipeline/engine/memory_reporting.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/side_stream.h"

namespace fresco {

// AdviseOnMemory of the engine's own options; empty: nobody advises.
using MemoryAdvisor = std::function<MemoryAdvice(const MemoryLoad& load, int64_t available)>;

class DiffusionEngine final : public Engine {
 public:
  // `mapped`: the weights that lie in their files. `corrector`: null where there is none; used by images that do not
  // say themselves where `correct_noise`. `stages`: EngineObservers'. `graphs`: of steps and of decodes; empty:
  // there are none.
  DiffusionEngine(ModelInfo info, ModelParts parts, std::vector<MappedBytes> mapped, int64_t prompt_cache_bytes,
                  std::shared_ptr<const NoiseCorrector> corrector = nullptr, bool correct_noise = true,
                  const Observer& stages = {}, MemoryAdvisor advisor = {}, const GraphCalls::Source& graphs = {});

  // What it frees is reported.
  ~DiffusionEngine() override { while_destroyed_.emplace(parts_.transformer.placement().device); }

  // Draws a small picture of nothing, so that the first request finds code and weights warm. Errors: a model that
  // cannot draw, or whose result is not finite.
  absl::Status WarmUp() override;

  const ModelInfo& info() const override { return info_; }
  EngineStats stats() const override;
  double LoadSeconds() const override;
  int64_t TakePeakBytes() override;
  DeviceMemory MemoryOfDevice() override;
  absl::Status Validate(const ImageSpec& spec) const override;
  std::string BatchKey(const ImageSpec& spec) const override;
  ImageLoad LoadOf(const ImageSpec& spec) const override;
  absl::Status ExplainMemory(const ImageSpec& spec) const override;
  std::vector<int> TextsToEncode(absl::Span<const ImageSpec* const> specs) const override;
  absl::StatusOr<std::unique_ptr<ImageJob>> Prepare(const ImageSpec& spec) override;
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                    TextCache cache) override;
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override;
  std::optional<uint64_t> LastStep() const override { return denoiser_.last_step(); }
  std::vector<StepTime> TakeStepTimes(bool wait) override;
  absl::StatusOr<Image> Preview(const ImageJob& job, int max_side) override;
  absl::StatusOr<Image> Finish(ImageJob& job) override;
  absl::StatusOr<Image> FinishBeside(ImageJob& job) override;
  absl::Status Park(ImageJob& job) override;
  absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& job) override;
  absl::Status Resume(ImageJob& job) override;

 private:
  using Embedding = PromptEncoder::Embedding;

  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareJobs(absl::Span<const ImageSpec* const> specs,
                                                                     TextCache cache);
  // One for each key, encoded in a stream of its own: on a GPU that does not wait for a step that is being computed.
  std::vector<absl::StatusOr<Embedding>> Embed(absl::Span<const PromptKey> keys, TextCache cache);
  // negative: null without guidance.
  std::unique_ptr<ImageJob> NewJob(ImageSpec spec, Embedding positive, Embedding negative);
  absl::Status DrawNothing();
  // Steps of the default picture, and decodes of it or of its preview, until they are enqueued as one.
  absl::Status RecordGraphs();
  // Calls `function` as Compute does; where a GPU's memory has run out, once more without graphs. While some thread
  // records one libtorch's allocator does not give back what it has cached, so that this may be enough by itself.
  template <typename Function>
  auto ComputeWithRoom(std::string_view doing, const Function& function);
  bool FreeWhatIsCached();  // whether the device has such
  // RESOURCE_EXHAUSTED: what has just failed for want of memory, of these images together.
  absl::Status Explain(const char* doing, absl::Span<const ImageSpec* const> specs) const;
  // Of these images; what the device holds besides is not theirs.
  void Advise(absl::Span<const ImageSpec* const> specs, ShortageReport* report) const;
  at::Tensor InitialLatents(const ImageSpec& spec) const;
  // latents: the transformer's, [1, C, h, w] in any type, of such an image.
  absl::StatusOr<Image> Decode(const at::Tensor& latents, const ImageSpec& spec);
  // pixels: the autoencoder's.
  absl::StatusOr<Image> Checked(const at::Tensor& pixels) const;
  // Until the claim goes: for a step of these, where the model has a budget.
  MemoryBudget::Claim RoomFor(absl::Span<DiffusionJob* const> jobs);

  const CacheRelease cache_release_;                // goes last
  std::optional<MemoryReporting> while_destroyed_;  // and this before it
  const ModelInfo info_;
  const ModelParts parts_;
  const std::vector<MappedBytes> mapped_;
  const int64_t weight_bytes_;
  const DeviceMemory device_at_load_;
  const bool has_corrector_;
  const bool correct_noise_;
  const Observer vae_stages_;
  const std::shared_ptr<ByteAllowance> modulations_ahead_;  // DenoiserOptions'
  const MemoryAdvisor advisor_;

  const int64_t graph_bytes_;                          // that graphs may keep; 0: there are to be none
  const std::shared_ptr<ForwardGraphs> step_graphs_;   // DenoiserOptions'
  const std::shared_ptr<DecodeGraphs> decode_graphs_;  // null: decodes are enqueued launch by launch
  PromptEncoder prompts_;
  std::atomic<int64_t> nonfinite_ = 0;
  std::atomic<int64_t> peak_bytes_ =
      0;  // what TakePeakBytes has taken at most; the device's own counter goes on from there

  SideStream side_stream_;  // of FinishBeside

  // Of the compute thread.
  SideStream text_stream_;
  Denoiser denoiser_;
  uint64_t next_job_ = 0;
};

}  // namespace fresco
