#include "pipeline/tool/verify.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/diffusion_engine.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/spec_check.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/tool/diffusers.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/stage_comparison.h"

namespace fresco {
namespace {

constexpr int kPromptCacheBytes = 64 << 20;
// A comparison of real models takes minutes on a CPU: small and short unless asked otherwise.
constexpr int kDefaultSide = 256;
constexpr int kDefaultSteps = 3;
constexpr char kDefaultPrompt[] = "a red apple on a light blue background";
constexpr char kDefaultNegative[] = "blurry";

struct Limits {
  double relative = 0;
  double psnr = 0;  // dB
};

// How far apart two right implementations may be, which sum in another order and round at other places: a difference
// that grows with the square root of the number of roundings. Each stage begins with diffusers' inputs, so the longest
// chain is the transformer's blocks. Three of them (tests/reference) leave 6e-7 in fp32 and 1e-2 in bf16, where one
// rounding to 8 bits is 1.1e-3 in root mean square; the 38 of the largest model are to leave sqrt(38 / 3) = 3.6 times
// that: 5e-2 has little to spare, 1e-4 a factor of 40 for longer sums. The picture, which goes the whole way with its
// guidance, is 85 and 44 dB from theirs there.
Limits LimitsOf(const Precision& precision) {
  return precision.name == "fp32" ? Limits{1e-4, 60} : Limits{5e-2, 30};
}

ImageSpec RequestOf(DrawOptions draw, const ModelInfo& info) {
  if (!draw.prompt) draw.prompt = kDefaultPrompt;
  if (!draw.negative) draw.negative = kDefaultNegative;
  if (!draw.width) draw.width = std::min(info.default_width, kDefaultSide);
  if (!draw.height) draw.height = std::min(info.default_height, kDefaultSide);
  if (!draw.steps) draw.steps = std::min(info.default_steps, kDefaultSteps);
  return SpecOf(draw, info);
}

struct Loaded {
  ModelParts parts;
  std::unique_ptr<DiffusionEngine> engine;
};

// The request in full and checked, from the configs alone.
absl::StatusOr<ImageSpec> ReadRequest(const ModelOptions& model, const ModelSource& source, const DrawOptions& draw,
                                      const Precision& precision) {
  FRESCO_ASSIGN_OR_RETURN(const ModelShape shape, ReadModelShape(source));
  FRESCO_ASSIGN_OR_RETURN(const ModelInfo info, DescribeModel(LoadOptionsOf(model), source, shape, precision));
  ImageSpec spec = RequestOf(draw, info);
  FRESCO_RETURN_IF_ERROR(CheckSpec(info, /*max_clip_skip=*/0, spec));
  return spec;
}

absl::StatusOr<Loaded> LoadModel(const ModelOptions& model, const ModelSource& source, const Precision& precision,
                                 const at::Device& device) {
  // Whole, as diffusers decodes whatever the picture's size.
  const VaeOptions vae{.tiling = VaeTiling::kNever};
  FRESCO_ASSIGN_OR_RETURN(ModelParts parts, LoadModelParts(source, device, precision, vae));
  FRESCO_ASSIGN_OR_RETURN(ModelInfo info, DescribeModel(LoadOptionsOf(model), source, parts, precision));
  auto engine =
      std::make_unique<DiffusionEngine>(std::move(info), parts, std::vector<MappedBytes>(), kPromptCacheBytes);
  return Loaded{std::move(parts), std::move(engine)};
}

std::string Shown(const StageDifference& difference) {
  char text[32];
  if (difference.measure == StageDifference::Measure::kNone) return "-";
  const bool psnr = difference.measure == StageDifference::Measure::kPsnr;
  std::snprintf(text, sizeof(text), psnr ? "%.1f dB" : "%.2e", difference.value);
  return difference.value == 0 && !psnr ? "equal" : text;
}

std::string ShownLimit(const StageDifference& difference) {
  char text[32];
  if (difference.measure == StageDifference::Measure::kNone) return "-";
  if (difference.measure == StageDifference::Measure::kExact) return "equal";
  std::snprintf(text, sizeof(text), difference.measure == StageDifference::Measure::kPsnr ? ">= %.0f dB" : "<= %.0e",
                difference.limit);
  return text;
}

const char* Verdict(const StageDifference& difference) {
  if (difference.measure == StageDifference::Measure::kNone) return "  <- not compared";
  return difference.ok() ? "" : "  <- differs";
}

const char* Name(StageDifference::Measure measure) {
  switch (measure) {
    case StageDifference::Measure::kExact:
      return "exact";
    case StageDifference::Measure::kRelative:
      return "relative";
    case StageDifference::Measure::kPsnr:
      return "psnr";
    case StageDifference::Measure::kNone:
      break;
  }
  return "none";
}

void PrintTable(const std::vector<StageDifference>& differences, size_t wrong) {
  std::printf("%-32s %12s %12s\n", "stage", "difference", "limit");
  for (const StageDifference& difference : differences) {
    std::printf("%-32s %12s %12s%s\n", difference.stage.c_str(), Shown(difference).c_str(),
                ShownLimit(difference).c_str(), Verdict(difference));
  }
  if (wrong == 0) {
    std::printf("\nequal to diffusers in all %zu stages\n", differences.size());
  } else {
    std::printf("\n%zu of %zu stages differ from diffusers or were not compared; the first is where to look\n", wrong,
                differences.size());
  }
}

void PrintReport(const std::vector<StageDifference>& differences, size_t wrong) {
  nlohmann::ordered_json report = {{"equal", wrong == 0}, {"stages", nlohmann::ordered_json::array()}};
  for (const StageDifference& difference : differences) {
    report["stages"].push_back({{"stage", difference.stage},
                                {"measure", Name(difference.measure)},
                                {"value", difference.value},  // null where it is infinite or there is none
                                {"limit", difference.limit},
                                {"ok", difference.ok()}});
  }
  PrintJson(report);
}

absl::StatusOr<bool> Report(const std::vector<StageDifference>& differences, bool json) {
  const auto wrong = static_cast<size_t>(std::count_if(
      differences.begin(), differences.end(), [](const StageDifference& difference) { return !difference.ok(); }));
  json ? PrintReport(differences, wrong) : PrintTable(differences, wrong);
  return wrong == 0;
}

std::string PythonOf(const VerifyOptions& options) {
  if (!options.python.empty()) return options.python;
  const char* const named = std::getenv("FRESCO_PYTHON");
  return named != nullptr && *named != '\0' ? named : "python3";
}

absl::StatusOr<bool> Compare(const ModelOptions& model, const DrawOptions& draw, const VerifyOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(model.device, model.threads));
  FRESCO_ASSIGN_OR_RETURN(const Precision precision, ChoosePrecision(options.precision, device));
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(model.model, model.base));
  FRESCO_RETURN_IF_ERROR(source.CheckComplete());
  FRESCO_ASSIGN_OR_RETURN(const ImageSpec spec, ReadRequest(model, source, draw, precision));
  // One after the other: the model need not fit into memory twice.
  FRESCO_ASSIGN_OR_RETURN(
      auto reference,
      RunDiffusers({PythonOf(options), model.model, model.base, options.precision, model.threads}, spec));
  FRESCO_ASSIGN_OR_RETURN(const Loaded loaded, LoadModel(model, source, precision, device));
  const Limits limits = LimitsOf(precision);
  StageComparison comparison(loaded.parts, std::move(reference), spec, limits.relative, limits.psnr);
  FRESCO_RETURN_IF_ERROR(comparison.CompareTexts());
  FRESCO_RETURN_IF_ERROR(comparison.CompareSchedule());
  FRESCO_RETURN_IF_ERROR(comparison.CompareTransformer());
  FRESCO_RETURN_IF_ERROR(comparison.CompareAutoencoder());
  FRESCO_RETURN_IF_ERROR(comparison.CompareImage(*loaded.engine));
  comparison.AddUncompared();
  return Report(comparison.differences(), model.json);
}

}  // namespace

int RunVerify(const ModelOptions& model, const DrawOptions& draw, const VerifyOptions& options) {
  if (options.precision != "fp32" && options.precision != "bf16") {
    std::fprintf(stderr, "fresco-model: --precision: verify takes fp32 or bf16, not '%s'\n", options.precision.c_str());
    return kUsage;
  }
  const absl::StatusOr<bool> equal = CatchTorch("verify", [&] { return Compare(model, draw, options); });
  if (equal.ok()) return *equal ? kDone : kFailed;
  std::fprintf(stderr, "fresco-model: %s\n", std::string(equal.status().message()).c_str());
  return kFailed;
}

}  // namespace fresco
