#include "pipeline/engine/diffusion_engine.h"

#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <utility>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/finite.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/image_conversion.h"
#include "pipeline/engine/memory_reporting.h"
#include "pipeline/engine/memory_shortage.h"
#include "pipeline/engine/prompts.h"
#include "pipeline/engine/residency.h"
#include "pipeline/engine/spec_check.h"
#include "pipeline/engine/state_on_device.h"
#include "pipeline/engine/step_check.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/models/transfer.h"
#include "pipeline/precision/kernel_choice.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

constexpr int kWarmUpPatches = 4;        // a side
constexpr int kWarmUpPreviewSide = 512;  // pixels: a server's, where nothing else is asked for
constexpr int64_t kClipTokens = 77;

// A caller that breaks the interface's contract has lost track of its jobs: nothing it draws could be trusted.
[[noreturn]] void Die(const char* broken) {
  std::fprintf(stderr, "fresco: DiffusionEngine: %s\n", broken);
  std::abort();
}

// Every call into libtorch: no autograd, the engine's device, exceptions turned into statuses, and memory counted for
// the model.
template <typename Function>
auto Compute(const at::Device& device, const ModelInfo& info, std::string_view doing, Function&& function) {
  const MemoryModelScope model(info.name);
  TakeMemoryShortage();  // of a call before this one
  return CatchTorch(doing, [&] {
    const c10::InferenceMode inference;
    const c10::OptionalDeviceGuard guard(device);
    const MemoryReporting reporting(device);
    return std::forward<Function>(function)();
  });
}

DiffusionJob& Own(ImageJob* job) {
  auto* const own = dynamic_cast<DiffusionJob*>(job);
  if (own == nullptr) Die("a job of another engine");
  return *own;
}

std::vector<DiffusionJob*> OwnAll(const ModelInfo& info, absl::Span<ImageJob* const> batch) {
  std::vector<DiffusionJob*> jobs;
  for (ImageJob* const job : batch) {
    DiffusionJob& own = Own(job);
    if (own.done() || own.state().failed) Die("Step of a job that is done or has failed");
    if (BatchKeyOf(info, own.spec()) != BatchKeyOf(info, batch.front()->spec()))
      Die("Step of jobs with different batch keys");
    if (batch.size() > 1 && MustBeAlone(info, own.spec())) Die("Step of a job that must be alone, with others");
    if (std::find(jobs.begin(), jobs.end(), &own) != jobs.end()) Die("Step of a job twice in one batch");
    jobs.push_back(&own);
  }
  return jobs;
}

int64_t Sum(const std::vector<ModelInfo::Component>& components) {
  int64_t sum = 0;
  for (const auto& component : components) sum += component.weight_bytes;
  return sum;
}

Warning NoCorrection(const ModelInfo& info) {
  return {Warning::Kind::kPrecisionFallback, "noise_correction",
          StrCat("the model has no noise correction for ", info.precision, ": drawn without")};
}

// Latents whose picture is at most max_side pixels a side, each the mean of those it stands for.
at::Tensor Downsample(const at::Tensor& latents, int64_t pixels_per_latent, int max_side) {
  const int64_t largest = std::max<int64_t>(1, max_side / pixels_per_latent);
  const int64_t height = latents.size(2), width = latents.size(3);
  const int64_t longest = std::max(height, width);
  if (longest <= largest) return latents;
  const auto scaled = [&](int64_t side) { return std::max<int64_t>(1, side * largest / longest); };
  return at::adaptive_avg_pool2d(latents.to(at::kFloat), {scaled(height), scaled(width)});
}

// Of images that were to be computed together.
ShortageReport ReportOf(const ModelInfo& info, const char* doing, absl::Span<const ImageSpec* const> specs) {
  ShortageReport report;
  report.doing = doing;
  report.device = info.device;
  report.batch = static_cast<int>(specs.size());
  for (const ImageSpec* spec : specs) {
    if (int64_t{spec->width} * spec->height <= int64_t{report.width} * report.height) continue;
    report.width = spec->width;
    report.height = spec->height;
  }
  report.components = info.components;
  return report;
}

// Who is told of a component's stages, under its name.
Observer Under(const char* component, const Observer& stages) {
  if (!stages) return {};
  return
      [component, stages](std::string_view name, const at::Tensor& value) { stages(StrCat(component, name), value); };
}

// A CPU computes modulations step by step: there they cost what they cost.
std::shared_ptr<ByteAllowance> AllowanceOf(const ModelParts& parts) {
  const at::Device& device = parts.transformer.placement().device;
  if (!device.is_cuda()) return nullptr;
  const int64_t memory = parts.residency != nullptr ? parts.residency->budget()->bytes() : MemoryOf(device).total_bytes;
  return ByteAllowance::Of(ModulationAllowance(memory));
}

std::shared_ptr<MemoryBudget> BudgetOf(const ModelParts& parts) {
  return parts.residency != nullptr ? parts.residency->budget() : nullptr;
}

// Within a budget text encoders and VAE come and go, and only the transformer's weights are there for good.
int64_t GraphAllowanceOf(const ModelParts& parts, const DeviceMemory& device, int64_t weight_bytes) {
  const std::shared_ptr<MemoryBudget> budget = BudgetOf(parts);
  return budget != nullptr ? GraphAllowance(budget->bytes(), parts.transformer.weight_bytes())
                           : GraphAllowance(device.total_bytes, weight_bytes);
}

// A graph knows where the weights are that it reads: within a budget a VAE's do not stay there.
int64_t DecodeGraphAllowanceOf(const ModelParts& parts, int64_t graph_bytes) {
  return parts.residency != nullptr ? 0 : DecodeGraphAllowance(graph_bytes);
}

const absl::Status& StatusOf(const absl::Status& status) {
  return status;
}
template <typename Value>
const absl::Status& StatusOf(const absl::StatusOr<Value>& result) {
  return result.status();
}

}  // namespace

DiffusionEngine::DiffusionEngine(ModelInfo info, ModelParts parts, std::vector<MappedBytes> mapped,
                                 int64_t prompt_cache_bytes, std::shared_ptr<const NoiseCorrector> corrector,
                                 bool correct_noise, const Observer& stages, MemoryAdvisor advisor,
                                 const GraphCalls::Source& graphs)
    : cache_release_(parts.transformer.placement().device),
      info_(std::move(info)),
      parts_(std::move(parts)),
      mapped_(std::move(mapped)),
      weight_bytes_(Sum(info_.components)),
      device_at_load_(MemoryOf(parts_.transformer.placement().device)),
      has_corrector_(corrector != nullptr),
      correct_noise_(correct_noise),
      vae_stages_(Under("vae.", stages)),
      modulations_ahead_(stages ? nullptr : AllowanceOf(parts_)),
      advisor_(std::move(advisor)),
      graph_bytes_(graphs ? GraphAllowanceOf(parts_, device_at_load_, weight_bytes_) : 0),
      step_graphs_(ForwardGraphs::From(graphs, parts_.transformer,
                                       graph_bytes_ - DecodeGraphAllowanceOf(parts_, graph_bytes_), parts_.saturation,
                                       BudgetOf(parts_))),
      decode_graphs_(
          DecodeGraphs::From(graphs, parts_.vae, DecodeGraphAllowanceOf(parts_, graph_bytes_), parts_.saturation)),
      prompts_(&parts_.text, prompt_cache_bytes),
      side_stream_(parts_.vae.placement().device),
      text_stream_(parts_.transformer.placement().device),
      denoiser_(parts_.transformer, {.corrector = std::move(corrector),
                                     .observer = Under("transformer.", stages),
                                     .look_later = parts_.transformer.placement().device.is_cuda() && !stages,
                                     .modulations_ahead = modulations_ahead_,
                                     .graphs = step_graphs_,
                                     .saturation = parts_.saturation}) {}

EngineStats DiffusionEngine::stats() const {
  const PromptCache::Counts cache = prompts_.counts();
  const MemoryUse memory = MemoryUseOf(parts_.transformer.placement().device);
  EngineStats stats;
  stats.prompt_cache_hits = cache.hits;
  stats.prompt_cache_misses = cache.misses;
  stats.prompt_cache_bytes = cache.bytes;
  stats.nonfinite_outputs = nonfinite_.load();
  const SaturationCount::Activations quantized = parts_.saturation->Total();
  stats.quantized_activations = quantized.elements;
  stats.saturated_activations = quantized.saturated;
  stats.guarded_activations = quantized.guarded;
  for (const auto& [name, of] : parts_.saturation->Worst(EngineStats::kSaturatedLayers))
    stats.saturated_layers.push_back({name, of.saturated, of.guarded, of.elements});
  stats.weight_bytes = weight_bytes_;
  if (parts_.residency != nullptr) stats.residency = parts_.residency->stats();
  for (const EngineStats::Residency& component : stats.residency) {
    if (component.there) {
      stats.evictable_weight_bytes += component.weight_bytes;
    } else {
      stats.weight_bytes -= component.weight_bytes;
    }
  }
  if (step_graphs_ != nullptr) stats.step_graph_bytes = step_graphs_->bytes();
  if (decode_graphs_ != nullptr) stats.decode_graph_bytes = decode_graphs_->bytes();
  stats.allocated_bytes = memory.allocated_bytes;
  stats.peak_bytes = std::max(peak_bytes_.load(), memory.peak_bytes);
  for (MemoryHeld& held : LedgerOf(parts_.transformer.placement().device).Snapshot().held) {
    if (held.holder.model == info_.name) stats.held.push_back(std::move(held));
  }
  return stats;
}

double DiffusionEngine::LoadSeconds() const {
  if (parts_.residency == nullptr) return 0;
  double seconds = 0;
  for (const EngineStats::Residency& component : parts_.residency->stats()) seconds += component.load_seconds;
  return seconds;
}

int64_t DiffusionEngine::TakePeakBytes() {
  const at::Device& device = parts_.transformer.placement().device;
  const int64_t peak = MemoryUseOf(device).peak_bytes;
  // Before the counter forgets: a scrape in between sees one or the other.
  int64_t most = peak_bytes_.load();
  while (most < peak && !peak_bytes_.compare_exchange_weak(most, peak)) {
  }
  ResetPeakMemory(device);
  return peak;
}

DeviceMemory DiffusionEngine::MemoryOfDevice() {
  return MemoryOf(parts_.transformer.placement().device);
}

absl::Status DiffusionEngine::Validate(const ImageSpec& spec) const {
  return CheckSpec(info_, parts_.text.max_clip_skip(), spec);
}

std::string DiffusionEngine::BatchKey(const ImageSpec& spec) const {
  return BatchKeyOf(info_, spec);
}

ImageLoad DiffusionEngine::LoadOf(const ImageSpec& spec) const {
  const MmditConfig& config = parts_.transformer.config();
  const int64_t pixels = parts_.vae.config().downscale();
  const int64_t latents = config.in_channels * (spec.height / pixels) * (spec.width / pixels);
  const int64_t patch = pixels * config.patch_size;
  const int64_t text = kClipTokens + spec.max_sequence_length;
  ImageLoad load;
  load.picture_tokens = static_cast<int>((spec.height / patch) * (spec.width / patch));
  load.text_tokens = static_cast<int>(text);
  load.tokens = load.picture_tokens + load.text_tokens;
  load.rows = spec.guidance_scale > 1 ? 2 : 1;
  load.alone = MustBeAlone(info_, spec);
  // The latents and the last velocity; for each row a text. Modulations have an allowance of their own, beyond which
  // there are none.
  const int64_t elements = 2 * latents + load.rows * (text * config.joint_attention_dim + config.pooled_projection_dim);
  load.state_bytes = elements * static_cast<int64_t>(c10::elementSize(parts_.transformer.placement().dtype));
  return load;
}

std::vector<int> DiffusionEngine::TextsToEncode(absl::Span<const ImageSpec* const> specs) const {
  const std::vector<bool> uncached = prompts_.FindUncached(KeysOf(info_, specs));
  std::vector<int> texts;
  auto next = uncached.begin();
  for (const ImageSpec* spec : specs) {
    texts.push_back(*next++ ? 1 : 0);
    if (HasNegative(*spec) && *next++) ++texts.back();
  }
  return texts;
}

at::Tensor DiffusionEngine::InitialLatents(const ImageSpec& spec) const {
  const int64_t pixels = parts_.vae.config().downscale();
  const Placement& placement = parts_.transformer.placement();
  const MemoryScope memory("images", MemoryKind::kState);
  // Always drawn in fp32 on the CPU: a seed means one picture, whatever the device and type.
  const at::Tensor noise =
      DrawNoise(spec.seed, parts_.transformer.config().in_channels, spec.height / pixels, spec.width / pixels);
  return Upload(noise, placement.device).to(placement.dtype);
}

std::unique_ptr<ImageJob> DiffusionEngine::NewJob(ImageSpec spec, Embedding positive, Embedding negative) {
  std::vector<Warning> warnings = TruncationWarnings(spec, *positive, negative.get());
  DiffusionState state;
  state.positive = std::move(positive);
  state.negative = std::move(negative);
  state.schedule = MakeSchedule(parts_.schedule, spec.steps);
  state.latents = InitialLatents(spec);
  if (spec.noise_correction.value_or(false) && !has_corrector_) warnings.push_back(NoCorrection(info_));
  state.correct_noise = has_corrector_ && spec.noise_correction.value_or(correct_noise_);
  spec.noise_correction = has_corrector_ ? std::optional(state.correct_noise) : std::nullopt;
  denoiser_.Begin(&state, MustBeAlone(info_, spec));
  auto job = std::make_unique<DiffusionJob>(next_job_++, std::move(spec), std::move(state));
  for (Warning& warning : warnings) job->Warn(std::move(warning));
  return job;
}

std::vector<absl::StatusOr<DiffusionEngine::Embedding>> DiffusionEngine::Embed(absl::Span<const PromptKey> keys,
                                                                               TextCache cache) {
  std::vector<absl::StatusOr<Embedding>> embeddings;
  {
    // Where encoders come and go, their memory is to be the steps' too, which only tensors of one stream share.
    std::optional<SideStream::Scope> stream;
    if (parts_.residency == nullptr) stream.emplace(&text_stream_);
    embeddings = cache == TextCache::kUse ? prompts_.Embed(keys) : prompts_.EmbedUncached(keys);
  }
  for (const absl::StatusOr<Embedding>& embedding : embeddings) {
    if (!embedding.ok()) continue;
    SideStream::UseInCurrentStream((*embedding)->text);
    SideStream::UseInCurrentStream((*embedding)->pooled);
  }
  return embeddings;
}

std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> DiffusionEngine::PrepareJobs(
    absl::Span<const ImageSpec* const> specs, TextCache cache) {
  const StageScope scope("prepare");
  const std::vector<PromptKey> keys = KeysOf(info_, specs);
  const auto embeddings = Embed(keys, cache);
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> jobs;
  auto next = embeddings.begin();
  for (const ImageSpec* spec : specs) {
    const absl::StatusOr<Embedding>& positive = *next++;
    const absl::StatusOr<Embedding> negative = HasNegative(*spec) ? *next++ : Embedding();
    if (!positive.ok() || !negative.ok()) {
      jobs.emplace_back(positive.ok() ? negative.status() : positive.status());
    } else {
      jobs.emplace_back(NewJob(*spec, *positive, *negative));
    }
  }
  return jobs;
}

absl::Status DiffusionEngine::DrawNothing() {
  ImageSpec spec;
  spec.width = spec.height = std::min(info_.max_size, kWarmUpPatches * info_.size_multiple);
  spec.steps = 1;
  spec.max_sequence_length = info_.default_max_sequence_length;
  const ImageSpec* const only = &spec;
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job,
                          std::move(PrepareJobs({&only, 1}, TextCache::kPass).front()));
  FRESCO_RETURN_IF_ERROR(Step({job.get()}).front());
  return Finish(*job).status();
}

absl::Status DiffusionEngine::RecordGraphs() {
  ImageSpec spec;
  spec.width = info_.default_width;
  spec.height = info_.default_height;
  spec.steps = GraphLimits().uses_to_record();
  spec.guidance_scale = info_.default_guidance_scale;
  spec.max_sequence_length = info_.default_max_sequence_length;
  const ImageSpec* const only = &spec;
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job,
                          std::move(PrepareJobs({&only, 1}, TextCache::kPass).front()));
  while (!job->done()) FRESCO_RETURN_IF_ERROR(Step({job.get()}).front());
  if (decode_graphs_ == nullptr) return absl::OkStatus();
  for (int i = 0; i < spec.steps; ++i) FRESCO_RETURN_IF_ERROR(Preview(*job, kWarmUpPreviewSide).status());
  return absl::OkStatus();
}

absl::Status DiffusionEngine::WarmUp() {
  const at::Device& device = parts_.transformer.placement().device;
  const absl::Status drawn = Compute(device, info_, "drawing", [&] { return DrawNothing(); });
  // A picture of that size may not fit, which whoever asks for one is told.
  if (drawn.ok() && step_graphs_ != nullptr)
    Compute(device, info_, "recording", [&] { return RecordGraphs(); }).IgnoreError();
  return Annotate(drawn, "warm-up");
}

template <typename Function>
auto DiffusionEngine::ComputeWithRoom(std::string_view doing, const Function& function) {
  const at::Device& device = parts_.transformer.placement().device;
  auto result = Compute(device, info_, doing, function);
  if (!absl::IsResourceExhausted(StatusOf(result)) || !FreeWhatIsCached()) return result;
  return Compute(device, info_, doing, function);
}

bool DiffusionEngine::FreeWhatIsCached() {
  const at::Device& device = parts_.transformer.placement().device;
  if (device.is_cpu()) return false;
  const CacheRelease release(device);
  if (step_graphs_ != nullptr) step_graphs_->Drop();
  if (decode_graphs_ != nullptr) decode_graphs_->Drop();
  return true;
}

absl::StatusOr<std::unique_ptr<ImageJob>> DiffusionEngine::Prepare(const ImageSpec& spec) {
  const ImageSpec* const only = &spec;
  return std::move(PrepareAll({&only, 1}, TextCache::kUse).front());
}

std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> DiffusionEngine::PrepareAll(
    absl::Span<const ImageSpec* const> specs, TextCache cache) {
  std::vector<absl::Status> statuses;
  std::vector<const ImageSpec*> valid;
  for (const ImageSpec* spec : specs) {
    statuses.push_back(Validate(*spec));
    if (statuses.back().ok()) valid.push_back(spec);
  }
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> made;
  absl::Status whole = ComputeWithRoom("preparing", [&] {
    made = PrepareJobs(valid, cache);
    return absl::OkStatus();
  });
  if (absl::IsResourceExhausted(whole)) whole = Explain("preparing", valid);
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> jobs;
  auto next = made.begin();
  for (const absl::Status& status : statuses) {
    if (status.ok() && whole.ok()) {
      jobs.push_back(std::move(*next++));
      if (absl::IsDataLoss(jobs.back().status())) ++nonfinite_;
    } else {
      jobs.emplace_back(status.ok() ? whole : status);
    }
  }
  return jobs;
}

MemoryBudget::Claim DiffusionEngine::RoomFor(absl::Span<DiffusionJob* const> jobs) {
  if (parts_.residency == nullptr) return {};
  if (step_graphs_ != nullptr && !MustBeAlone(info_, jobs.front()->spec())) return {};  // who claim their own
  std::vector<Mmdit::ForwardShape> shapes;
  for (const DiffusionJob* job : jobs) {
    const DiffusionState& own = job->state();
    shapes.push_back({job->guided() ? 2 : 1, own.latents.size(2), own.latents.size(3), own.positive->text.size(1)});
  }
  return parts_.residency->MakeRoom(parts_.transformer.ForwardBytes(shapes, parts_.residency->threads()));
}

std::vector<absl::Status> DiffusionEngine::Step(absl::Span<ImageJob* const> batch) {
  if (batch.empty()) return {};
  const std::vector<DiffusionJob*> jobs = OwnAll(info_, batch);
  std::vector<absl::Status> statuses;
  const absl::Status whole = ComputeWithRoom("denoising", [&] {
    const MemoryBudget::Claim room = RoomFor(jobs);
    const PinnedKernels pinned(jobs.front()->spec().deterministic);
    statuses = denoiser_.Step(jobs);
    return absl::OkStatus();
  });
  if (absl::IsResourceExhausted(whole)) {
    std::vector<const ImageSpec*> specs;
    for (const DiffusionJob* job : jobs) specs.push_back(&job->spec());
    return std::vector<absl::Status>(batch.size(), Explain("denoising", specs));
  }
  if (!whole.ok()) return std::vector<absl::Status>(batch.size(), whole);
  nonfinite_ += std::count_if(statuses.begin(), statuses.end(), [](const auto& status) { return !status.ok(); });
  return statuses;
}

std::vector<StepTime> DiffusionEngine::TakeStepTimes(bool wait) {
  std::vector<StepTime> times;
  // What fails here the next call is told.
  Compute(parts_.transformer.placement().device, info_, "timing", [&] {
    times = denoiser_.TakeStepTimes(wait);
    return absl::OkStatus();
  }).IgnoreError();
  return times;
}

absl::StatusOr<Image> DiffusionEngine::Decode(const at::Tensor& latents, const ImageSpec& spec) {
  const StageScope scope("decode");
  const MemoryScope memory("vae", MemoryKind::kActivations);
  const at::Tensor z = parts_.vae.FromTransformer(latents.to(parts_.vae.placement().dtype));
  if (decode_graphs_ != nullptr && !MustBeAlone(info_, spec)) return Checked(decode_graphs_->Decode(z));
  if (parts_.residency == nullptr) return Checked(parts_.vae.Decode(z, vae_stages_));
  const int64_t pixels = parts_.vae.config().downscale();
  FRESCO_ASSIGN_OR_RETURN(const auto vae, parts_.residency->LendVae(pixels * z.size(2), pixels * z.size(3)));
  return Checked(vae->Decode(z, vae_stages_));
}

absl::StatusOr<Image> DiffusionEngine::Checked(const at::Tensor& pixels) const {
  const at::Tensor nonfinite = at::zeros({1}, pixels.options().dtype(at::kFloat));
  MarkNonfinite(pixels, nonfinite);
  if (!StepCheck(nonfinite, parts_.saturation).Finite(0))
    return absl::DataLossError("the autoencoder's picture has NaN or infinite pixels");
  return ToImage(pixels);
}

absl::StatusOr<Image> DiffusionEngine::Preview(const ImageJob& job, int max_side) {
  const auto* const own = dynamic_cast<const DiffusionJob*>(&job);
  if (own == nullptr) Die("a job of another engine");
  return Compute(parts_.vae.placement().device, info_, "preview", [&] {
    const DiffusionState& state = own->state();
    if (const absl::Status status = Denoiser::Settle(*own); !status.ok()) return absl::StatusOr<Image>(status);
    const bool started = state.velocity.defined();
    const at::Tensor estimate = started ? EstimateDenoised(state.latents, state.velocity, own->sigma()) : state.latents;
    return Decode(Downsample(estimate, parts_.vae.config().downscale(), max_side), own->spec());
  });
}

absl::StatusOr<Image> DiffusionEngine::FinishBeside(ImageJob& job) {
  using Result = absl::StatusOr<Image>;
  const at::Device& device = parts_.vae.placement().device;
  // Finish waits for the latents, so that nothing has to order the streams.
  return CatchTorch("decoding", [&]() -> Result {
    const c10::OptionalDeviceGuard guard(device);
    const SideStream::Scope stream(&side_stream_);
    return Finish(job);
  });
}

absl::StatusOr<Image> DiffusionEngine::Finish(ImageJob& job) {
  const DiffusionJob& own = Own(&job);
  if (!own.done() || own.state().failed) Die("Finish of a job that is not done");
  auto image = ComputeWithRoom("decoding", [&]() -> absl::StatusOr<Image> {
    FRESCO_RETURN_IF_ERROR(Denoiser::Settle(own));
    return Decode(own.state().latents, own.spec());
  });
  if (absl::IsDataLoss(image.status())) ++nonfinite_;
  if (absl::IsResourceExhausted(image.status())) {
    const ImageSpec* const only = &own.spec();
    return Explain("decoding", {&only, 1});
  }
  return image;
}

absl::Status DiffusionEngine::Explain(const char* doing, absl::Span<const ImageSpec* const> specs) const {
  ShortageReport report = ReportOf(info_, doing, specs);
  SetMemory(parts_.transformer.placement().device, &report);
  Advise(specs, &report);
  return ShortageError(report);
}

absl::Status DiffusionEngine::ExplainMemory(const ImageSpec& spec) const {
  const ImageSpec* const only = &spec;
  ShortageReport report = ReportOf(info_, "drawing", {&only, 1});
  report.predicted = true;
  report.memory = LedgerOf(parts_.transformer.placement().device).Snapshot();
  report.whole.total_bytes = device_at_load_.total_bytes;
  report.whole.free_bytes = std::max<int64_t>(0, device_at_load_.total_bytes - report.memory.allocated_bytes);
  Advise({&only, 1}, &report);
  return ShortageError(report);
}

void DiffusionEngine::Advise(absl::Span<const ImageSpec* const> specs, ShortageReport* report) const {
  if (!advisor_ || specs.empty()) return;
  MemoryLoad load;
  load.width = report->width;
  load.height = report->height;
  load.batch = report->batch;
  load.guided = HasNegative(*specs.front());
  load.max_sequence_length = specs.front()->max_sequence_length;
  load.steps = specs.front()->steps;
  int64_t own = 0;
  for (const ImageSpec* spec : specs) own += LoadOf(*spec).state_bytes;
  MemoryAdvice advice = advisor_(load, AvailableBytes(*report, info_.name, own));
  report->needed_bytes = advice.needed_bytes;
  report->needed_for = std::move(advice.needed_for);
  report->remedies = std::move(advice.remedies);
}

absl::Status DiffusionEngine::Park(ImageJob& job) {
  DiffusionJob& own = Own(&job);
  return Compute(parts_.transformer.placement().device, info_, "parking", [&] {
    FRESCO_RETURN_IF_ERROR(Denoiser::Settle(own));
    own.state() = StateOnDevice(own.state(), at::kCPU, own.state().latents.scalar_type());
    return absl::OkStatus();
  });
}

absl::StatusOr<std::unique_ptr<ImageJob>> DiffusionEngine::Snapshot(ImageJob& job) {
  DiffusionJob& own = Own(&job);
  using Result = absl::StatusOr<std::unique_ptr<ImageJob>>;
  return Compute(parts_.transformer.placement().device, info_, "copying", [&]() -> Result {
    DiffusionState& state = own.state();
    FRESCO_RETURN_IF_ERROR(Denoiser::Settle(own));
    if (state.host_positive == nullptr) {
      state.host_positive = OnDevice(state.positive, at::kCPU);
      state.host_negative = OnDevice(state.negative, at::kCPU);
    }
    auto copy = std::make_unique<DiffusionJob>(own);
    copy->state().positive = state.host_positive;
    copy->state().negative = state.host_negative;
    // On a CPU they are shared: a step makes new ones and leaves these as they are.
    copy->state() = StateOnDevice(copy->state(), at::kCPU, state.latents.scalar_type());
    return std::unique_ptr<ImageJob>(std::move(copy));
  });
}

absl::Status DiffusionEngine::Resume(ImageJob& job) {
  DiffusionJob& own = Own(&job);
  const Placement& placement = parts_.transformer.placement();
  return Compute(placement.device, info_, "resuming", [&] {
    DiffusionState state = StateOnDevice(own.state(), placement.device, placement.dtype);
    denoiser_.Begin(&state, MustBeAlone(info_, own.spec()));
    own.state() = std::move(state);
    own.Rename(next_job_++);
    return absl::OkStatus();
  });
}

}  // namespace fresco
