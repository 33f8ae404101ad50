// `fresco-model compare`: what each precision costs and gains, measured on the same pictures.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/tool/options.h"

namespace fresco {

struct CompareOptions {
  std::vector<std::string> precisions;  // empty: fp16, int8, fp8 on a GPU, else all but fp16
  std::string prompts_file;             // as ReadPrompts; empty: four of the demo model's
  std::string html;                     // a page to write; empty: none
};

// One picture, held against the reference's of the same prompt and seed.
struct ComparedPicture {
  double psnr = 0;  // dB; infinite where they are equal
  double ssim = 0;
  double seconds = 0;
  std::string png;         // files, where a page is wanted
  std::string difference;  // from the reference's picture, amplified; empty for the reference
};

// What was measured of one precision.
struct PrecisionResult {
  std::string precision;  // as asked for
  bool reference = false;
  std::vector<ComparedPicture> pictures;  // one for each prompt
  int64_t weight_bytes = 0;               // on the device
  int64_t peak_memory_bytes = 0;          // of tensors on the device, while drawing
  std::optional<double> saturated_share;  // of the activations that were quantised; nothing where none were
  std::vector<std::string> notes;         // what was decided for the user: fall-backs, how linears are stored

  double seconds_per_image() const;  // medians over the prompts, and the worst of them
  double psnr() const;
  double psnr_min() const;
  double ssim() const;
};

struct Comparison {
  std::string model;
  std::string device;
  int width = 0, height = 0, steps = 0;
  float guidance_scale = 0;
  std::vector<std::string> prompts;
  uint64_t seed = 0;  // of the first prompt; the next have the next
  std::vector<PrecisionResult> results;

  const PrecisionResult& reference() const;
};

// The one that the others are held against: the first of fp32, bf16, fp16, int8, fp8-weight-only, fp8 that is there.
// INVALID_ARGUMENT for a name that is none of these, or that comes twice, and for an empty list.
absl::StatusOr<std::string> HighestPrecision(const std::vector<std::string>& precisions);

std::optional<double> SaturatedShare(int64_t quantized_activations, int64_t saturated_activations);

// Loads one precision after the other, draws every prompt in each, prints a table, and writes a page. --json: a list,
// an object for each precision in the order given: `precision`, `seconds_per_image` (the median, after a warm-up),
// `speed_up` (over the reference), `weight_bytes`, `peak_memory_bytes`, `psnr` (dB, the median) and `psnr_min` (null
// where the pictures are equal), `ssim`, `saturated_share` (null where nothing is quantised), `reference`, `notes` and
// `pictures`, a list of `prompt`, `seed`, `seconds`, `psnr`, `ssim`.
absl::Status RunCompare(const ModelOptions& model, const DrawOptions& draw, const CompareOptions& options);

}  // namespace fresco
