#include "pipeline/engine/picture_metadata.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "pipeline/engine/parameters_text.h"

namespace fresco {
namespace {

// The double that prints as the float does: 7.1, not 7.099999904632568.
double Rounded(float value) {
  double rounded = value;
  (void)absl::SimpleAtod(absl::StrCat(value), &rounded);
  return rounded;
}

void AddPrompts(const ImageSpec& spec, nlohmann::ordered_json* json) {
  (*json)["prompt"] = spec.prompt;
  (*json)["negative_prompt"] = spec.negative_prompt;
  const auto add = [&](const char* key, const std::optional<std::string>& text) {
    if (text) (*json)[key] = *text;
  };
  add("prompt_2", spec.prompt_2);
  add("prompt_3", spec.prompt_3);
  add("negative_prompt_2", spec.negative_prompt_2);
  add("negative_prompt_3", spec.negative_prompt_3);
}

std::string ProvenanceJson(const ImageProvenance& provenance, const PictureMetadataOptions& options) {
  const ImageSpec& spec = provenance.spec;
  nlohmann::ordered_json json = {
      {"model", provenance.model},
      {"weights_digest", provenance.weights_digest},
      {"precision", provenance.precision},
      {"device", provenance.device},
      {"software", provenance.software},
      {"sampler", provenance.sampler},
      {"seed", spec.seed},
      {"steps", spec.steps},
      {"guidance_scale", Rounded(spec.guidance_scale)},
      {"width", spec.width},
      {"height", spec.height},
      {"max_sequence_length", spec.max_sequence_length},
      {"clip_skip", spec.clip_skip},
      {"batch_size_min", provenance.batch_size_min},
      {"batch_size_max", provenance.batch_size_max},
  };
  if (!provenance.attention.empty()) json["attention"] = provenance.attention;
  if (!provenance.calibration_digest.empty()) json["calibration_digest"] = provenance.calibration_digest;
  if (spec.noise_correction) json["noise_correction"] = *spec.noise_correction;
  if (spec.deterministic) json["deterministic"] = true;
  if (options.prompts) AddPrompts(spec, &json);
  // Prompts are checked to be UTF-8 long before; were one not, a replacement character is better than no picture.
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

ImageProvenance ProvenanceOf(const ModelInfo& info, const std::string& software) {
  ImageProvenance provenance;
  provenance.model = info.name;
  provenance.weights_digest = info.weights_digest;
  provenance.calibration_digest = info.calibration_digest;
  provenance.precision = info.precision;
  provenance.attention = info.attention;
  provenance.device = info.device;
  provenance.software = software;
  provenance.sampler = kSampler;
  return provenance;
}

ImageMetadata PictureMetadata(const ImageProvenance& provenance, const PictureMetadataOptions& options) {
  const Drawer drawer = {provenance.model, provenance.sampler, provenance.software};
  return {{"parameters", ParametersText(provenance.spec, drawer, options.prompts)},
          {"Software", provenance.software},
          {"fresco:provenance", ProvenanceJson(provenance, options)}};
}

}  // namespace fresco
