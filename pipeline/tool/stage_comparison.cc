#include "pipeline/tool/stage_comparison.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/prompts.h"

namespace fresco {
namespace {

constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();
constexpr double kNothingAlike = std::numeric_limits<double>::infinity();

absl::StatusOr<at::ScalarType> TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF16:
      return at::kHalf;
    case DType::kI64:
      return at::kLong;
    case DType::kU8:
      return at::kByte;
    default:
      return absl::InvalidArgumentError(StrCat("unexpected type ", DTypeName(dtype)));
  }
}

// Of tensors with equally many values, wherever their dimensions of size one are.
double RelativeDifference(const at::Tensor& ours, const at::Tensor& theirs) {
  if (ours.numel() != theirs.numel()) return kNothingAlike;
  const at::Tensor a = ours.to(at::kCPU, at::kDouble).reshape({-1}), b = theirs.to(at::kDouble).reshape({-1});
  const double difference = at::mean(at::pow(a.sub(b), 2)).item<double>();
  return difference == 0 ? 0 : std::sqrt(difference / at::mean(at::pow(b, 2)).item<double>());
}

double ShareThatDiffers(const at::Tensor& ours, const at::Tensor& theirs) {
  if (ours.numel() != theirs.numel()) return 1;
  return at::ne(ours.to(at::kCPU).reshape({-1}), theirs.reshape({-1})).to(at::kDouble).mean().item<double>();
}

double PsnrOf(const Image& ours, const at::Tensor& theirs) {
  if (theirs.numel() != static_cast<int64_t>(ours.rgb.size())) return 0;
  const uint8_t* const pixels = theirs.const_data_ptr<uint8_t>();
  double sum = 0;
  for (size_t i = 0; i < ours.rgb.size(); ++i) sum += std::pow(static_cast<double>(ours.rgb[i]) - pixels[i], 2);
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(ours.rgb.size()) / sum);  // infinite where they are equal
}

// What is drawn or looked up, and not computed in floating point, is equal or wrong.
bool IsExact(std::string_view stage) {
  return stage == "noise" || stage == "sigmas" || stage == "timesteps" ||
         (stage.size() > 4 && stage.substr(stage.size() - 4) == ".ids");
}

}  // namespace

bool StageDifference::ok() const {
  if (measure == Measure::kNone) return false;
  return measure == Measure::kPsnr ? value >= limit : value <= limit;
}

StageComparison::StageComparison(const ModelParts& parts, std::shared_ptr<const SafetensorsFile> reference,
                                 ImageSpec spec, double relative_limit, double psnr_limit)
    : parts_(parts),
      reference_(std::move(reference)),
      spec_(std::move(spec)),
      relative_limit_(relative_limit),
      psnr_limit_(psnr_limit) {}

absl::StatusOr<at::Tensor> StageComparison::Reference(const std::string& stage) const {
  FRESCO_ASSIGN_OR_RETURN(const TensorView view, reference_->Find(stage));
  FRESCO_ASSIGN_OR_RETURN(const at::ScalarType type, TypeOf(view.dtype));
  at::Tensor tensor = at::empty(view.shape, type);
  std::memcpy(tensor.mutable_data_ptr(), view.data, view.bytes);
  return tensor;
}

absl::StatusOr<at::Tensor> StageComparison::ReferenceInput(const std::string& stage) const {
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor tensor, Reference(stage));
  const Placement& placement = parts_.transformer.placement();
  return tensor.to(placement.device, placement.dtype);
}

absl::StatusOr<at::Tensor> StageComparison::BothSides(std::string_view stage) const {
  std::vector<at::Tensor> sides;
  for (const std::string_view side : {"negative.", "positive."}) {
    const std::string name = StrCat(side, stage);
    if (!reference_->Contains(name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const at::Tensor tensor, ReferenceInput(name));
    sides.push_back(tensor.unsqueeze(0));
  }
  return at::cat(sides);
}

void StageComparison::Add(const std::string& stage, StageDifference::Measure measure, double value) {
  const double limit = measure == StageDifference::Measure::kPsnr       ? psnr_limit_
                       : measure == StageDifference::Measure::kRelative ? relative_limit_
                                                                        : 0;
  differences_.push_back({stage, measure, value, limit});
}

void StageComparison::Add(const std::string& stage, const at::Tensor& ours) {
  const auto theirs = Reference(stage);
  if (!theirs.ok()) {
    Add(stage, StageDifference::Measure::kNone, kNoValue);
  } else if (IsExact(stage)) {
    Add(stage, StageDifference::Measure::kExact, ShareThatDiffers(ours, *theirs));
  } else {
    Add(stage, StageDifference::Measure::kRelative, RelativeDifference(ours, *theirs));
  }
}

std::vector<std::string> StageComparison::ExpectedStages() const {
  std::vector<std::string> stages = {
      "sigmas",     "timesteps", "noise",           "transformer.patches", "transformer.temb", "transformer.context",
      "velocity.0", "latents.1", "vae.encode.mean", "vae.encode.logvar",   "vae.decode.output"};
  for (const char* side : {"positive.", "negative."}) {
    if (side[0] == 'n' && !(spec_.guidance_scale > 1)) continue;
    for (const char* stage : {"clip_l.ids", "clip_l.hidden", "clip_l.pooled", "clip_g.ids", "clip_g.hidden",
                              "clip_g.pooled", "prompt_embeds", "pooled"})
      stages.push_back(StrCat(side, stage));
    if (!parts_.text.has_t5()) continue;
    for (const char* stage : {"t5.ids", "t5.hidden"}) stages.push_back(StrCat(side, stage));
  }
  const int64_t layers = parts_.transformer.config().num_layers;
  for (int64_t i = 0; i < layers; ++i) {
    stages.push_back(StrCat("transformer.block.", i, ".image"));
    if (i + 1 < layers) stages.push_back(StrCat("transformer.block.", i, ".context"));
  }
  for (const char* stage : {"transformer.norm_out", "transformer.output", "image"}) stages.emplace_back(stage);
  return stages;
}

void StageComparison::AddUncompared() {
  for (const std::string& stage : ExpectedStages()) {
    const bool known = std::any_of(differences_.begin(), differences_.end(),
                                   [&](const StageDifference& difference) { return difference.stage == stage; });
    if (!known) Add(stage, StageDifference::Measure::kNone, kNoValue);
  }
}

absl::Status StageComparison::CompareSide(const std::string& side, const PromptKey& key) {
  const auto observer = [&](std::string_view stage, const at::Tensor& value) { Add(StrCat(side, ".", stage), value); };
  FRESCO_ASSIGN_OR_RETURN(const PromptEmbedding embedding, parts_.text.Encode(key, observer));
  Add(side + ".prompt_embeds", embedding.text);
  Add(side + ".pooled", embedding.pooled);
  return absl::OkStatus();
}

absl::Status StageComparison::CompareTexts() {
  FRESCO_RETURN_IF_ERROR(CompareSide("positive", PositiveKey(spec_)));
  return spec_.guidance_scale > 1 ? CompareSide("negative", NegativeKey(spec_)) : absl::OkStatus();
}

absl::Status StageComparison::CompareSchedule() {
  const Schedule schedule = MakeSchedule(parts_.schedule, spec_.steps);
  Add("sigmas", at::tensor(schedule.sigmas));
  Add("timesteps", at::tensor(schedule.timesteps));
  const int64_t pixels = parts_.vae.config().downscale();
  Add("noise",
      DrawNoise(spec_.seed, parts_.transformer.config().in_channels, spec_.height / pixels, spec_.width / pixels));
  return absl::OkStatus();
}

absl::Status StageComparison::CompareTransformer() {
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor latents, ReferenceInput("latents.0"));
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor text, BothSides("prompt_embeds"));
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor pooled, BothSides("pooled"));
  const Schedule schedule = MakeSchedule(parts_.schedule, spec_.steps);
  const int64_t rows = text.size(0);
  const at::Tensor timesteps = at::tensor(schedule.timesteps).narrow(0, 0, 1).repeat({rows}).to(latents.device());
  const auto observer = [&](std::string_view stage, const at::Tensor& value) {
    Add(StrCat("transformer.", stage), value);
  };
  parts_.transformer.Forward(latents.repeat({rows, 1, 1, 1}), text, pooled, timesteps, observer);
  // Guidance multiplies the difference of its two sides: from the transformer's own it would show that one's roundings.
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor output, ReferenceInput("transformer.output"));
  Add("velocity.0", rows == 1 ? output : Guide(output.narrow(0, 0, 1), output.narrow(0, 1, 1), spec_.guidance_scale));
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor reference_velocity, ReferenceInput("velocity.0"));
  Add("latents.1", EulerStep(latents, reference_velocity, schedule.sigmas[0], schedule.sigmas[1]));
  return absl::OkStatus();
}

absl::Status StageComparison::CompareAutoencoder() {
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor z, ReferenceInput("vae.decode.input"));
  Add("vae.decode.output", parts_.vae.Decode(z));
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor pixels, ReferenceInput("vae.decode.output"));
  const Autoencoder::Posterior posterior = parts_.vae.Encode(pixels);
  Add("vae.encode.mean", posterior.mean);
  Add("vae.encode.logvar", posterior.logvar);
  return absl::OkStatus();
}

absl::Status StageComparison::CompareImage(Engine& engine) {
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job, engine.Prepare(spec_));
  while (!job->done()) FRESCO_RETURN_IF_ERROR(engine.Step({job.get()}).front());
  FRESCO_ASSIGN_OR_RETURN(const Image image, engine.Finish(*job));
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor theirs, Reference("image"));
  Add("image", StageDifference::Measure::kPsnr, PsnrOf(image, theirs));
  return absl::OkStatus();
}

}  // namespace fresco
