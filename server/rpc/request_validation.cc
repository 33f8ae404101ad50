#include "server/rpc/request_validation.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/violations.h"

namespace fresco {
namespace {

constexpr float kMaxGuidanceScale = 30;
constexpr size_t kMaxRequestId = 128;
constexpr int kMaxClipSkip = 10;
// Where the model has no T5, its place in the sequence can be left empty at any of these lengths.
constexpr int kMaxSequenceLength = 512;
// What CreateImage has not.
constexpr char kStreamedBy[] = "Generate streams (over HTTP: POST /v1/fresco/generate, server-sent events)";

class Checker {
 public:
  void Add(std::string field, std::string description) {
    violations_.push_back({std::move(field), std::move(description)});
  }
  bool Has(const std::string& field) const {
    return std::any_of(violations_.begin(), violations_.end(),
                       [&](const FieldViolation& v) { return v.field == field; });
  }
  void Require(bool right, const std::string& field, const std::string& description) {
    if (!right) Add(field, description);
  }
  // `value`, or `fallback`, which may not be beyond `max` either, where it is 0 (left out).
  int Ranged(const std::string& field, int value, int fallback, int min, int max) {
    Require(value == 0 || (value >= min && value <= max), field,
            StrCat("must be from ", min, " to ", max, ", got ", value));
    if (value != 0 || fallback <= max) return value == 0 ? fallback : value;
    warnings_.push_back(
        {Warning::Kind::kValueClamped, field,
         StrCat(field, " is ", max, " here, the most that this server draws; the model's default is ", fallback)});
    return max;
  }
  void Prompt(const std::string& field, const std::string& text, int max_bytes) {
    Require(text.size() <= static_cast<size_t>(max_bytes), field,
            StrCat("must have at most ", max_bytes, " bytes, has ", text.size()));
    Require(IsUtf8(text), field, "must be UTF-8");
  }
  std::vector<FieldViolation>& violations() { return violations_; }
  const std::vector<Warning>& warnings() const { return warnings_; }

 private:
  std::vector<FieldViolation> violations_;
  std::vector<Warning> warnings_;
};

int CheckSide(Checker* check, const std::string& field, int value, int fallback, int max, int multiple) {
  const int most = max - max % multiple;
  check->Require(most > 0, field, StrCat("cannot be a multiple of ", multiple, ": this server draws at most ", max));
  const int side = check->Ranged(field, value, fallback, multiple, most);
  check->Require(side % multiple == 0, field, StrCat("must be a multiple of ", multiple, ", got ", side));
  return side;
}

float CheckGuidance(Checker* check, const v1::GenerateRequest& request, float fallback) {
  if (!request.has_guidance_scale()) return fallback;
  const float scale = request.guidance_scale();
  check->Require(std::isfinite(scale) && scale >= 0 && scale <= kMaxGuidanceScale, "guidance_scale",
                 StrCat("must be a number from 0 to ", kMaxGuidanceScale, ", got ", scale));
  return scale;
}

void CheckPrompts(Checker* check, const v1::GenerateRequest& request, int max_bytes) {
  check->Prompt("prompt", request.prompt(), max_bytes);
  check->Prompt("negative_prompt", request.negative_prompt(), max_bytes);
  check->Prompt("prompt_2", request.prompt_2(), max_bytes);
  check->Prompt("prompt_3", request.prompt_3(), max_bytes);
}

ImageSpec CheckSpec(Checker* check, const v1::GenerateRequest& request, const ModelInfo& info,
                    const RequestLimits& limits) {
  ImageSpec spec;
  CheckPrompts(check, request, limits.max_prompt_bytes);
  spec.prompt = request.prompt();
  spec.negative_prompt = request.negative_prompt();
  if (request.has_prompt_2()) spec.prompt_2 = request.prompt_2();
  if (request.has_prompt_3()) spec.prompt_3 = request.prompt_3();
  spec.width = CheckSide(check, "width", request.width(), info.default_width, std::min(limits.max_width, info.max_size),
                         info.size_multiple);
  spec.height = CheckSide(check, "height", request.height(), info.default_height,
                          std::min(limits.max_height, info.max_size), info.size_multiple);
  spec.steps = check->Ranged("steps", request.steps(), info.default_steps, 1, limits.max_steps);
  spec.guidance_scale = CheckGuidance(check, request, info.default_guidance_scale);
  const int max_length = info.max_sequence_length_limit > 0 ? info.max_sequence_length_limit : kMaxSequenceLength;
  spec.max_sequence_length = check->Ranged("max_sequence_length", request.max_sequence_length(),
                                           info.default_max_sequence_length, 1, max_length);
  spec.clip_skip = check->Ranged("clip_skip", request.clip_skip(), 0, 1, kMaxClipSkip);
  if (request.has_noise_correction()) spec.noise_correction = request.noise_correction();
  spec.deterministic = request.deterministic();
  return spec;
}

RequestPriority CheckPriority(Checker* check, v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_INTERACTIVE:
      return RequestPriority::kInteractive;
    case v1::PRIORITY_BATCH:
      return RequestPriority::kBatch;
    case v1::PRIORITY_UNSPECIFIED:
    case v1::PRIORITY_STANDARD:
      return RequestPriority::kStandard;
    default:
      check->Add("priority", StrCat("must be one of the enum's values, got ", static_cast<int>(priority)));
      return RequestPriority::kStandard;
  }
}

ImageFormat CheckFormat(Checker* check, v1::ImageFormat format) {
  switch (format) {
    case v1::IMAGE_FORMAT_JPEG:
      return ImageFormat::kJpeg;
    case v1::IMAGE_FORMAT_WEBP:
      return ImageFormat::kWebp;
    case v1::IMAGE_FORMAT_UNSPECIFIED:
    case v1::IMAGE_FORMAT_PNG:
      return ImageFormat::kPng;
    default:
      check->Add("format", StrCat("must be one of the enum's values, got ", static_cast<int>(format)));
      return ImageFormat::kPng;
  }
}

// What the engine itself minds: "field: what is wrong", joined by "; ". Fields that are known to be bad are not said
// twice.
void CheckWithEngine(Checker* check, const Engine& engine, const ImageSpec& spec) {
  const absl::Status status = engine.Validate(spec);
  if (status.ok()) return;
  for (const absl::string_view finding : absl::StrSplit(status.message(), "; ")) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(finding, absl::MaxSplits(": ", 1));
    const bool named = v1::GenerateRequest::descriptor()->FindFieldByName(parts.first) != nullptr;
    if (!named) {
      check->Add("model", StrCat("cannot draw this: ", finding));
    } else if (!check->Has(parts.first)) {
      check->Add(parts.first, parts.second);
    }
  }
}

std::vector<ImageSpec> Repeat(const ImageSpec& spec, int count) {
  std::vector<ImageSpec> images(static_cast<size_t>(count), spec);
  for (size_t k = 0; k < images.size(); ++k) images[k].seed = spec.seed + k;
  return images;
}

GenerationRequest Check(Checker* check, const v1::GenerateRequest& request, const Engine& engine,
                        const RequestLimits& limits, const RandomSource& random) {
  GenerationRequest result;
  ImageSpec spec = CheckSpec(check, request, engine.info(), limits);
  const int count = check->Ranged("image_count", request.image_count(), 1, 1, limits.max_image_count);
  result.encode.format = CheckFormat(check, request.format());
  result.encode.quality = check->Ranged("quality", request.quality(), 90, 1, 100);
  check->Require(request.preview_every() >= 0, "preview_every",
                 StrCat("must be 0 or more, got ", request.preview_every()));
  result.preview_every = request.preview_every();
  result.priority = CheckPriority(check, request.priority());
  check->Require(request.request_id().empty() || IsRequestId(request.request_id()), "request_id",
                 StrCat("must be at most ", kMaxRequestId, " letters, digits, '-', '_', '.' or ':'"));
  CheckWithEngine(check, engine, spec);
  if (!check->violations().empty()) return result;
  result.model = engine.info().name;
  result.id = request.request_id().empty() ? absl::StrFormat("%016x", random()) : request.request_id();
  spec.seed = request.has_seed() ? request.seed() : random() & 0xffffffff;
  result.images = Repeat(spec, count);
  result.warnings = check->warnings();
  return result;
}

std::optional<v1::ImageFormat> ParseFormat(const std::string& name) {
  if (name.empty() || name == "png") return v1::IMAGE_FORMAT_PNG;
  if (name == "jpeg") return v1::IMAGE_FORMAT_JPEG;
  if (name == "webp") return v1::IMAGE_FORMAT_WEBP;
  return std::nullopt;
}

bool ParseSize(const std::string& size, v1::GenerateRequest* out) {
  if (size.empty() || size == "auto") return true;
  const size_t x = size.find('x');
  int width = 0, height = 0;
  if (x == std::string::npos || !absl::SimpleAtoi(size.substr(0, x), &width) ||
      !absl::SimpleAtoi(size.substr(x + 1), &height))
    return false;
  out->set_width(width);
  out->set_height(height);
  return width > 0 && height > 0;
}

v1::GenerateRequest FromCreateImage(const v1::CreateImageRequest& request, Checker* check) {
  v1::GenerateRequest out;
  out.set_model(request.model());
  out.set_prompt(request.prompt());
  out.set_negative_prompt(request.negative_prompt());
  out.set_steps(request.steps());
  out.set_image_count(request.n());
  out.set_quality(request.output_compression());
  out.set_request_id(request.request_id());
  if (request.has_guidance_scale()) out.set_guidance_scale(request.guidance_scale());
  if (request.has_seed()) out.set_seed(request.seed());
  check->Require(ParseSize(request.size(), &out), "size",
                 StrCat("must be like 1024x768, or auto, got '", Excerpt(request.size()), "'"));
  const std::optional<v1::ImageFormat> format = ParseFormat(request.output_format());
  check->Require(format.has_value(), "output_format",
                 StrCat("must be png, jpeg or webp, got '", Excerpt(request.output_format()), "'"));
  out.set_format(format.value_or(v1::IMAGE_FORMAT_PNG));
  check->Require(request.response_format().empty() || request.response_format() == "b64_json", "response_format",
                 StrCat("must be b64_json, got '", Excerpt(request.response_format()), "'"));
  // Refused rather than ignored: who asks for events would wait for them.
  check->Require(!request.stream(), "stream", StrCat("must be false here: ", kStreamedBy));
  check->Require(request.partial_images() == 0, "partial_images",
                 StrCat("must be 0 here: ", kStreamedBy, ", with a preview every preview_every steps"));
  return out;
}

std::string CreateImageField(const std::string& field) {
  if (field == "width" || field == "height") return "size";
  if (field == "image_count") return "n";
  if (field == "quality") return "output_compression";
  return field;
}

}  // namespace

absl::StatusOr<GenerationRequest> ValidateGenerate(const v1::GenerateRequest& request, const Engine& engine,
                                                   const RequestLimits& limits, const RandomSource& random) {
  Checker check;
  GenerationRequest result = Check(&check, request, engine, limits, random);
  FRESCO_RETURN_IF_ERROR(InvalidRequest(check.violations()));
  return result;
}

absl::StatusOr<GenerationRequest> ValidateCreateImage(const v1::CreateImageRequest& request, const Engine& engine,
                                                      const RequestLimits& limits, const RandomSource& random) {
  Checker check;
  const v1::GenerateRequest generate = FromCreateImage(request, &check);
  GenerationRequest result = Check(&check, generate, engine, limits, random);
  for (FieldViolation& violation : check.violations()) violation.field = CreateImageField(violation.field);
  for (Warning& warning : result.warnings) warning.field = CreateImageField(warning.field);
  FRESCO_RETURN_IF_ERROR(InvalidRequest(check.violations()));
  return result;
}

bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestId && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

}  // namespace fresco
