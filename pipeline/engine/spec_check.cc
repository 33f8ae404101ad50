#include "pipeline/engine/spec_check.h"

#include <cmath>
#include <string_view>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int kMaxSteps = 1000;            // as many as there are training timesteps
constexpr float kMaxGuidanceScale = 1000;  // far beyond use; keeps the arithmetic finite
constexpr int kMaxTextTokens = 512;

// Gathers one sentence per bad field.
class Findings {
 public:
  void Add(std::string_view field, std::string_view what) {
    if (!text_.empty()) text_ += "; ";
    text_ += StrCat(field, ": ", what);
  }
  absl::Status status() const { return text_.empty() ? absl::OkStatus() : absl::InvalidArgumentError(text_); }

 private:
  std::string text_;
};

void CheckSide(const ModelInfo& info, std::string_view field, int pixels, Findings* findings) {
  if (pixels < info.size_multiple || pixels > info.max_size) {
    findings->Add(field, StrCat(pixels, " is not from ", info.size_multiple, " to ", info.max_size, " pixels"));
  } else if (pixels % info.size_multiple != 0) {
    findings->Add(field, StrCat(pixels, " is not a multiple of ", info.size_multiple));
  }
}

void CheckRange(std::string_view field, int value, int min, int max, Findings* findings) {
  if (value < min || value > max) findings->Add(field, StrCat(value, " is not from ", min, " to ", max));
}

}  // namespace

absl::Status CheckSpec(const ModelInfo& info, int max_clip_skip, const ImageSpec& spec) {
  Findings findings;
  CheckSide(info, "width", spec.width, &findings);
  CheckSide(info, "height", spec.height, &findings);
  CheckRange("steps", spec.steps, 1, kMaxSteps, &findings);
  const float guidance = spec.guidance_scale;
  if (!std::isfinite(guidance) || guidance < 0 || guidance > kMaxGuidanceScale)
    findings.Add("guidance_scale", StrCat(guidance, " is not from 0 to ", kMaxGuidanceScale));
  // Without T5 the tokens are zeros, but the transformer still attends to as many as are asked for.
  const int limit = info.max_sequence_length_limit > 0 ? info.max_sequence_length_limit : kMaxTextTokens;
  CheckRange("max_sequence_length", spec.max_sequence_length, 1, limit, &findings);
  CheckRange("clip_skip", spec.clip_skip, 0, max_clip_skip, &findings);
  return findings.status();
}

bool MustBeAlone(const ModelInfo& info, const ImageSpec& spec) {
  return spec.deterministic && !info.batch_invariant;
}

std::string BatchKeyOf(const ModelInfo& info, const ImageSpec& spec) {
  return StrCat("text ", spec.max_sequence_length, MustBeAlone(info, spec) ? " alone" : "");
}

}  // namespace fresco
