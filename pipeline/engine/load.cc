#include "pipeline/engine/load.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>

#include "pipeline/base/format_bytes.h"
#include "pipeline/base/memory_scope.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/diffusion_engine.h"
#include "pipeline/engine/kernel_choosing.h"
#include "pipeline/engine/load_precision.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/memory_advice.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/memory_fit.h"
#include "pipeline/engine/memory_plan.h"
#include "pipeline/engine/memory_reporting.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/noise_corrector.h"
#include "pipeline/engine/observers.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/precision/fp8_attention.h"

namespace fresco {
namespace {

int64_t BytesOf(const MemorySnapshot& memory, const MemoryHolder& holder) {
  for (const MemoryHeld& held : memory.held) {
    if (held.holder == holder) return held.bytes;
  }
  return 0;
}

// Of each component's weights, what it has not allocated since `before`: they lie in their files. Holders' own numbers
// say which; that together it is no more than the thread has not allocated holds also where there are too many of them.
std::vector<MappedBytes> CountMapped(const ModelInfo& info, const ModelParts& parts, const MemorySnapshot& before,
                                     int64_t allocated_by_thread) {
  const MemorySnapshot now = LedgerOf(at::kCPU).Snapshot();
  std::vector<MappedBytes> mapped;
  int64_t left = -allocated_by_thread;
  for (const ModelInfo::Component& component : info.components) {
    if (parts.residency == nullptr || component.name == "transformer") left += component.weight_bytes;
  }
  for (const ModelInfo::Component& component : info.components) {
    if (parts.residency != nullptr && component.name != "transformer") continue;  // it counts for itself
    const MemoryHolder holder = {info.name, component.name, MemoryKind::kWeights};
    const int64_t allocated = std::max<int64_t>(0, BytesOf(now, holder) - BytesOf(before, holder));
    const int64_t in_file = std::min(left, component.weight_bytes - allocated);
    if (in_file <= 0) continue;
    const MemoryScope scope(component.name, MemoryKind::kWeights);
    mapped.emplace_back(in_file);
    left -= in_file;
  }
  return mapped;
}

// Hashes a model's weights on a thread of its own, as long as somebody wants to know.
class Hashing {
 public:
  // `source` must outlive it.
  explicit Hashing(const ModelSource& source)
      : digest_(std::async(std::launch::async,
                           [&source, stop = stop_.get_token()] { return DigestWeights(source, 1, stop); })) {}
  ~Hashing() { stop_.request_stop(); }  // and digest_'s destructor waits for it
  Hashing(const Hashing&) = delete;
  Hashing& operator=(const Hashing&) = delete;

  absl::StatusOr<std::string> Result() { return digest_.get(); }

 private:
  std::stop_source stop_;
  std::future<absl::StatusOr<std::string>> digest_;
};

// Ranges and corrections of other weights may still serve, a fine-tune's for example, but not the weights themselves.
absl::Status CheckWeights(const Calibration& calibration, const Precision& precision, const ModelInfo& info) {
  if (precision.rounded.empty() || calibration.weights_digest == info.weights_digest) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(precision.rounded, ": holds the weights of another model (",
                                           PrintableName(calibration.weights_digest), ") than ", info.weights_digest));
}

std::string CalibrationNote(const Calibration& calibration, const ModelInfo& info) {
  const bool corrects = calibration.noise_correction.contains(info.precision);
  std::string note = StrCat("calibrated with ", calibration.prompts, " prompts: ", corrects ? "with" : "without",
                            " noise correction for ", info.precision);
  if (calibration.weights_digest != info.weights_digest)
    note += StrCat("; it was made for other weights (", PrintableName(calibration.model), ", ",
                   PrintableName(calibration.weights_digest), ")");
  return note;
}

// What was asked for and is not, or not everywhere: a setting that does nothing would pass unnoticed.
std::vector<std::string> SettingsWithoutEffect(const LoadOptions& options, const Precision& precision,
                                               const std::vector<LinearInfo>& linears, bool corrects) {
  std::vector<std::string> notes;
  if (options.noise_correction.value_or(false) && !corrects)
    notes.push_back(StrCat("noise_correction: there is no calibration with one for ", precision.name));
  if (!options.static_scales) return notes;
  int quantised = 0;
  std::vector<std::string_view> without;
  for (const LinearInfo& linear : linears) {
    if (!QuantisesActivations(linear.scheme)) continue;
    ++quantised;
    if (!precision.transformer.InputScaleOf(linear.name)) without.push_back(linear.name);
  }
  if (quantised == 0) notes.push_back(StrCat("static_scales: ", precision.name, " quantises no activations"));
  if (!without.empty())
    notes.push_back(StrCat("static_scales: the calibration has none for ", without.size(), " of ", quantised,
                           " linears (", without.front(), " …): theirs are one for each token"));
  return notes;
}

bool HasFp8Attentions(const Precision& precision, const at::Device& device) {
  return precision.transformer.attention() == AttentionScheme::kFp8 && HasFp8Attention(device, precision.type);
}

// In what the attentions are computed, where that was asked for.
std::optional<std::string> AttentionNote(const LoadOptions& options, const Precision& precision,
                                         const at::Device& device) {
  if (precision.transformer.attention() != AttentionScheme::kFp8) {
    if (options.attention != AttentionScheme::kFp8) return std::nullopt;
    return StrCat("attention: fp8 is of precision fp8, and this is ", precision.name);
  }
  if (!HasFp8Attentions(precision, device))
    return StrCat("attention: there are no FP8 kernels for it here, so that it is in ", precision.type_name());
  return StrCat("attention: fp8", device.is_cpu() ? ", emulated: products of the hardware's codes in fp32" : "");
}

absl::StatusOr<std::shared_ptr<const NoiseCorrector>> MakeCorrector(const Calibration& calibration,
                                                                    const ModelParts& parts,
                                                                    const Precision& precision) {
  const auto found = calibration.noise_correction.find(precision.name);
  if (found == calibration.noise_correction.end()) return nullptr;
  const auto channels = static_cast<size_t>(parts.transformer.config().out_channels);
  if (found->second.front().scale.size() != channels)
    return absl::InvalidArgumentError(StrCat("calibration: noise_correction: of ", found->second.front().scale.size(),
                                             " channels, where the model has ", channels));
  return std::make_shared<NoiseCorrector>(calibration.buckets, found->second, parts.transformer.placement().device);
}

MemoryAdvisor AdvisorOf(LoadOptions options) {
  options.observers = nullptr;  // they are not to live as long
  return [options = std::move(options)](const MemoryLoad& load, int64_t available) {
    return AdviseOnMemory(options, load, available);
  };
}

// `failed`; where memory has run out, with who holds it.
absl::Status ExplainLoading(const absl::Status& failed, const LoadOptions& options) {
  if (!absl::IsResourceExhausted(failed) || !FindShortage(failed).empty()) return failed;
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(options.device, /*threads=*/0));
  ShortageReport report;
  report.doing = StrCat("loading ", options.path);
  report.device = options.device;
  SetMemory(device, &report);
  if (!report.shortage.has_value()) return failed;  // it was refused before
  const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options);
  if (!planner.ok()) return ShortageError(report);
  MemoryAdvice advice =
      AdviseOnMemory(options, planner->default_load(), AvailableBytes(report, options.name, /*state_bytes=*/0));
  report.needed_bytes = advice.needed_bytes;
  report.needed_for = std::move(advice.needed_for);
  report.remedies = std::move(advice.remedies);
  return ShortageError(report);
}

// RESOURCE_EXHAUSTED for a budget in which nothing could be drawn.
absl::StatusOr<MemoryNeed> CheckBudget(const LoadOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const MemoryPlanner planner, MemoryPlanner::Open(options));
  const MemoryLoad load = planner.default_load();
  const MemoryPlan plan = planner.PlanWithin(options.memory->bytes(), load);
  if (plan.peak().total_bytes() <= options.memory->bytes()) return LeastNeed(planner);
  return absl::ResourceExhaustedError(StrCat(DescribeShortage(plan, load, options.memory->bytes()), ". ",
                                             DescribeFits(FindFits(options, "", load, options.memory->bytes()))));
}

// What is away while it is not needed, for whoever reads the log.
void NoteResidency(const LoadOptions& options, ModelInfo* info) {
  if (options.memory == nullptr) return;
  const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options);
  if (!planner.ok()) return;
  const MemoryPlan plan = planner->PlanWithin(options.memory->bytes(), planner->default_load());
  for (const ComponentMemory& component : plan.components) {
    if (!component.kept)
      info->notes.push_back(StrCat(component.name, " (", FormatBytes(component.weight_bytes), ") is loaded when needed",
                                   component.streamed ? ", block by block" : "", ": memory.budget ",
                                   FormatBytes(options.memory->bytes())));
  }
}

// Room for the transformer, where there is a budget: others' components may have to go first.
absl::StatusOr<std::optional<MemoryBudget::Claim>> MakeRoom(const LoadOptions& options, const at::Device& device) {
  std::optional<MemoryBudget::Claim> room;
  if (options.memory == nullptr) return room;
  FRESCO_ASSIGN_OR_RETURN(const MemoryNeed need, CheckBudget(options));
  const int64_t bytes = need.kept_bytes + need.working_bytes;
  const auto held = [&] { return MemoryUseOf(device).allocated_bytes; };
  room.emplace(options.memory->MakeRoom(bytes, held, MemoryBudget::Purpose::kLoading));
  if (!room->fits())
    return absl::ResourceExhaustedError(StrCat("memory: ", options.path, " needs ", FormatBytes(bytes),
                                               " of the budget of ", FormatBytes(options.memory->bytes()),
                                               " at the least, and other models hold ", FormatBytes(held()),
                                               " of it that cannot go: unload one of them"));
  room->Shrink(need.kept_bytes);  // the rest is for drawing, which claims it then
  return room;
}

absl::StatusOr<ModelParts> LoadParts(const LoadOptions& options, const ModelSource& source, const at::Device& device,
                                     const Precision& precision, const LinearObservers& observers) {
  if (options.memory == nullptr) return LoadModelParts(source, device, precision, options.vae, observers);
  return LoadPartsWithin({options.memory, options.name}, source, device, precision, options.vae, observers);
}

absl::StatusOr<std::unique_ptr<Engine>> Load(const LoadOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(options.device, options.threads));
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(options.path, options.base));
  FRESCO_ASSIGN_OR_RETURN(LoadPrecision decided, DecidePrecision(options, source, device));
  const std::optional<Calibration>& calibration = decided.calibration;
  // Hashing reads every file, which the loading must do anyway: side by side they take little longer than one.
  Hashing hashing(source);
  const c10::OptionalDeviceGuard guard(device);
  if (options.measure_kernels) decided.precision.kernels = MakeDeviceKernels(device);
  const Precision& precision = decided.precision;
  const MemoryModelScope owner(options.name);
  const MemoryReporting reporting(device);
  const EngineObservers observers = options.observers != nullptr ? *options.observers : EngineObservers();
  // Before the snapshot: what goes to make room has been freed by then.
  FRESCO_ASSIGN_OR_RETURN(std::optional<MemoryBudget::Claim> room, MakeRoom(options, device));
  const MemorySnapshot before = LedgerOf(at::kCPU).Snapshot();
  const int64_t before_here = CpuBytesOfThisThread();
  FRESCO_ASSIGN_OR_RETURN(ModelParts parts,
                          LoadParts(options, source, device, precision, {observers.probe, observers.saturation}));
  const int64_t allocated = CpuBytesOfThisThread() - before_here;
  std::vector<std::string> chosen = ChooseKernels(device, options.kernel_choices, precision.kernels);
  room.reset();  // drawing has claims of its own
  FRESCO_ASSIGN_OR_RETURN(ModelInfo info, DescribeModel(options, source, parts, precision));
  NoteResidency(options, &info);
  info.notes.insert(info.notes.end(), chosen.begin(), chosen.end());
  FRESCO_ASSIGN_OR_RETURN(info.weights_digest, hashing.Result());
  std::vector<MappedBytes> mapped;
  if (device.is_cpu()) mapped = CountMapped(info, parts, before, allocated);
  std::shared_ptr<const NoiseCorrector> corrector;
  if (calibration) {
    FRESCO_RETURN_IF_ERROR(CheckWeights(*calibration, precision, info));
    FRESCO_ASSIGN_OR_RETURN(info.calibration_digest, DigestCalibration(CalibrationPath(options)));
    FRESCO_ASSIGN_OR_RETURN(corrector, MakeCorrector(*calibration, parts, precision));
    info.notes.push_back(CalibrationNote(*calibration, info));
  }
  for (std::string& note : SettingsWithoutEffect(options, precision, parts.transformer.linears(), corrector != nullptr))
    info.notes.push_back(std::move(note));
  if (HasFp8Attentions(precision, device)) info.attention = "fp8";
  if (std::optional<std::string> note = AttentionNote(options, precision, device))
    info.notes.push_back(*std::move(note));
  auto engine = std::make_unique<DiffusionEngine>(
      std::move(info), std::move(parts), std::move(mapped), options.prompt_cache_bytes, std::move(corrector),
      options.noise_correction.value_or(true), observers.stages, AdvisorOf(options),
      options.cuda_graphs && options.observers == nullptr ? GraphCalls::Source(&GraphCalls::OnGpu) : nullptr);
  // On this thread, beside whatever is served: a model that cannot draw is found while its files are open, and what the
  // process needs once is there (a GPU's kernels are loaded at their first use, oneDNN's made). The thread that will
  // call the engine warms it up once more, which is short then: libtorch has an OpenMP team, and handles of cuBLAS and
  // cuDNN, for each thread.
  const absl::Status warm = engine->WarmUp();
  // A picture of NaN: most often the weights hold it, and then which ones is what its owner wants to know.
  if (absl::IsDataLoss(warm)) FRESCO_RETURN_IF_ERROR(CheckWeightsFinite(source));
  FRESCO_RETURN_IF_ERROR(warm);
  return engine;
}

absl::StatusOr<int64_t> SumOfWeights(const std::string& path, const std::string& base) {
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(path, base));
  int64_t bytes = 0;
  for (const WeightedPart& part : kWeightedParts) {
    if (!source.Has(part.name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, source.OpenWeights(part.name));
    bytes += weights.total_bytes();
  }
  return bytes;
}

}  // namespace

absl::StatusOr<int64_t> StoredWeightBytes(const std::string& path, const std::string& base) {
  return CatchTorch(path, [&] { return SumOfWeights(path, base); });
}

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const LoadOptions& options) {
  TakeMemoryShortage();  // of a call before this one
  auto engine = CatchTorch(options.path, [&] { return Load(options); });
  if (engine.ok()) return engine;
  return ExplainLoading(engine.status(), options);
}

}  // namespace fresco
