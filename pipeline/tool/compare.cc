#include "pipeline/tool/compare.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "pipeline/base/median.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/image/codec.h"
#include "pipeline/image/similarity.h"
#include "pipeline/tool/compare_page.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/progress_line.h"
#include "pipeline/tool/prompts_file.h"

namespace fresco {
namespace {

using Steady = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

// Highest first.
constexpr auto kPrecisions =
    std::to_array<std::string_view>({"fp32", "bf16", "fp16", "int8", "fp8-weight-only", "fp8"});
constexpr auto kOnCpu = std::to_array<std::string_view>({"fp32", "bf16", "fp8", "fp8-weight-only", "int8"});
constexpr auto kOnGpu = std::to_array<std::string_view>({"fp16", "int8", "fp8"});

// What the demo model knows; a model of the real size draws them too.
constexpr auto kDefaultPrompts = std::to_array<std::string_view>({
    "a red apple on a light blue background",
    "a fox on a white background",
    "cityscape at dusk",
    "an owl on a purple background",
});

constexpr double kMiB = 1 << 20;

double MedianOf(const std::vector<ComparedPicture>& pictures, double ComparedPicture::*value) {
  std::vector<double> values;
  for (const ComparedPicture& picture : pictures) values.push_back(picture.*value);
  return Median(std::move(values));
}

// Draws with one engine.
class Painter {
 public:
  Painter(std::string precision, Engine& engine) : precision_(std::move(precision)), engine_(engine) {}

  absl::StatusOr<Image> Draw(const ImageSpec& spec, size_t number, size_t of) {
    FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job, engine_.Prepare(spec));
    for (const Warning& warning : job->warnings()) {
      progress_.End();
      std::fprintf(stderr, "%s: warning: %s\n", precision_.c_str(), warning.message.c_str());
    }
    while (!job->done()) {
      FRESCO_RETURN_IF_ERROR(engine_.Step({job.get()}).front());
      progress_.Show(
          absl::StrFormat("%s: picture %d of %d, step %d of %d", precision_, number, of, job->step(), spec.steps));
    }
    return engine_.Finish(*job);
  }

 private:
  const std::string precision_;
  Engine& engine_;
  ProgressLine progress_;
};

absl::StatusOr<std::string> Png(const Image& image) {
  return EncodeImage(image, EncodeOptions());
}

// Measures one precision after the other.
class Comparer {
 public:
  Comparer(const ModelOptions& model, const DrawOptions& draw, bool pictures, Comparison* comparison)
      : model_(model), draw_(draw), pictures_(pictures), comparison_(*comparison) {}

  // The reference must be measured first.
  absl::StatusOr<PrecisionResult> Measure(const std::string& precision) {
    PrecisionResult result;
    result.precision = precision;
    result.reference = reference_.empty();
    ModelOptions model = model_;
    model.precision = precision;
    std::fprintf(stderr, "%s: loading\n", precision.c_str());
    FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, LoadEngine(LoadOptionsOf(model)));
    FRESCO_RETURN_IF_ERROR(DrawAll(*engine, &result));
    const EngineStats stats = engine->stats();
    result.weight_bytes = stats.weight_bytes;
    result.saturated_share = SaturatedShare(stats.quantized_activations, stats.saturated_activations);
    result.notes = engine->info().notes;
    Describe(engine->info());
    return result;
  }

 private:
  // One step warms up, of no prompt, so that no prompt's texts are in the cache.
  absl::Status WarmUp(Engine& engine, Painter& painter) {
    ImageSpec spec = SpecOf(draw_, engine.info());
    spec.steps = 1;
    FRESCO_RETURN_IF_ERROR(painter.Draw(spec, 0, comparison_.prompts.size()).status());
    engine.TakePeakBytes();  // of loading
    return absl::OkStatus();
  }

  absl::Status DrawAll(Engine& engine, PrecisionResult* result) {
    Painter painter(result->precision, engine);
    FRESCO_RETURN_IF_ERROR(WarmUp(engine, painter));
    const size_t count = comparison_.prompts.size();
    for (size_t i = 0; i < count; ++i) {
      ImageSpec spec = SpecOf(draw_, engine.info());
      spec.prompt = comparison_.prompts[i];
      spec.seed = comparison_.seed + i;
      const Steady::time_point begin = Steady::now();
      FRESCO_ASSIGN_OR_RETURN(Image image, painter.Draw(spec, i + 1, count));
      const double seconds = std::chrono::duration<double>(Steady::now() - begin).count();
      if (result->reference) reference_.push_back(image);
      FRESCO_ASSIGN_OR_RETURN(ComparedPicture picture, Compare(image, reference_.at(i), result->reference));
      picture.seconds = seconds;
      result->pictures.push_back(std::move(picture));
    }
    result->peak_memory_bytes = engine.TakePeakBytes();
    return absl::OkStatus();
  }

  absl::StatusOr<ComparedPicture> Compare(const Image& image, const Image& reference, bool same) const {
    ComparedPicture picture;
    FRESCO_ASSIGN_OR_RETURN(picture.psnr, Psnr(image, reference));
    FRESCO_ASSIGN_OR_RETURN(picture.ssim, Ssim(image, reference));
    if (!pictures_) return picture;
    FRESCO_ASSIGN_OR_RETURN(picture.png, Png(image));
    if (same) return picture;
    FRESCO_ASSIGN_OR_RETURN(picture.difference, Png(DifferencePicture(image, reference, kDifferenceGain)));
    return picture;
  }

  void Describe(const ModelInfo& info) {
    const ImageSpec spec = SpecOf(draw_, info);
    comparison_.device = info.device;
    comparison_.width = spec.width;
    comparison_.height = spec.height;
    comparison_.steps = spec.steps;
    comparison_.guidance_scale = spec.guidance_scale;
  }

  const ModelOptions& model_;
  const DrawOptions& draw_;
  const bool pictures_;  // are kept
  Comparison& comparison_;
  std::vector<Image> reference_;
};

absl::StatusOr<std::vector<std::string>> PromptsOf(const CompareOptions& options) {
  if (!options.prompts_file.empty()) return ReadPrompts(options.prompts_file);
  return std::vector<std::string>(kDefaultPrompts.begin(), kDefaultPrompts.end());
}

std::vector<std::string> DefaultPrecisions(const std::string& device) {
  if (absl::StartsWith(device, "cuda")) return {kOnGpu.begin(), kOnGpu.end()};
  return {kOnCpu.begin(), kOnCpu.end()};
}

Json NumberOrNull(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json PicturesJson(const PrecisionResult& result, const Comparison& comparison) {
  Json pictures = Json::array();
  for (size_t i = 0; i < result.pictures.size(); ++i) {
    const ComparedPicture& picture = result.pictures[i];
    pictures.push_back({{"prompt", comparison.prompts[i]},
                        {"seed", comparison.seed + i},
                        {"seconds", picture.seconds},
                        {"psnr", NumberOrNull(picture.psnr)},
                        {"ssim", picture.ssim}});
  }
  return pictures;
}

Json ToJson(const Comparison& comparison) {
  Json list = Json::array();
  const double base = comparison.reference().seconds_per_image();
  for (const PrecisionResult& result : comparison.results) {
    list.push_back({{"precision", result.precision},
                    {"seconds_per_image", result.seconds_per_image()},
                    {"speed_up", base / result.seconds_per_image()},
                    {"weight_bytes", result.weight_bytes},
                    {"peak_memory_bytes", result.peak_memory_bytes},
                    {"psnr", NumberOrNull(result.psnr())},
                    {"psnr_min", NumberOrNull(result.psnr_min())},
                    {"ssim", result.ssim()},
                    {"saturated_share", result.saturated_share ? Json(*result.saturated_share) : Json()},
                    {"reference", result.reference},
                    {"notes", result.notes},
                    {"pictures", PicturesJson(result, comparison)}});
  }
  return list;
}

void PrintTable(const Comparison& comparison) {
  const double base = comparison.reference().seconds_per_image();
  std::printf("%s on %s: %zu prompts, %dx%d, %d steps, guidance %g; PSNR and SSIM to %s, medians\n\n",
              comparison.model.c_str(), comparison.device.c_str(), comparison.prompts.size(), comparison.width,
              comparison.height, comparison.steps, comparison.guidance_scale, comparison.reference().precision.c_str());
  std::printf("%-16s %9s %8s %12s %10s %8s %8s %7s %10s\n", "precision", "s/image", "speed-up", "weights MiB",
              "peak MiB", "PSNR dB", "(least)", "SSIM", "saturated");
  for (const PrecisionResult& result : comparison.results) {
    std::printf("%-16s %9.3f %7.2fx %12.1f %10.1f %8s %8s %7.4f ", result.precision.c_str(), result.seconds_per_image(),
                base / result.seconds_per_image(), result.weight_bytes / kMiB, result.peak_memory_bytes / kMiB,
                Decibels(result.psnr()).c_str(), Decibels(result.psnr_min()).c_str(), result.ssim());
    if (result.saturated_share) {
      std::printf("%9.4f%%\n", 100 * *result.saturated_share);
    } else {
      std::printf("%10s\n", "-");
    }
  }
  for (const PrecisionResult& result : comparison.results) {
    for (const std::string& note : result.notes) std::printf("\n%s: %s", result.precision.c_str(), note.c_str());
  }
  std::printf("\n");
}

// Before an hour's drawing rather than after it.
absl::Status CheckCanBeWritten(const std::string& path) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::absolute(path, error).parent_path();
  if (std::filesystem::is_directory(path, error))
    return absl::InvalidArgumentError(StrCat("--html: ", PrintableName(path), " is a folder"));
  if (::access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("--html: ", PrintableName(path), ": the folder ",
                                           PrintableName(folder.string()), " is not there or cannot be written to"));
}

}  // namespace

double PrecisionResult::seconds_per_image() const {
  return MedianOf(pictures, &ComparedPicture::seconds);
}

double PrecisionResult::psnr() const {
  return MedianOf(pictures, &ComparedPicture::psnr);
}

double PrecisionResult::psnr_min() const {
  return std::min_element(pictures.begin(), pictures.end(),
                          [](const ComparedPicture& a, const ComparedPicture& b) { return a.psnr < b.psnr; })
      ->psnr;
}

double PrecisionResult::ssim() const {
  return MedianOf(pictures, &ComparedPicture::ssim);
}

const PrecisionResult& Comparison::reference() const {
  return *std::find_if(results.begin(), results.end(), [](const PrecisionResult& result) { return result.reference; });
}

absl::StatusOr<std::string> HighestPrecision(const std::vector<std::string>& precisions) {
  if (precisions.empty()) return absl::InvalidArgumentError("no precision is given");
  size_t highest = kPrecisions.size();
  for (const std::string& precision : precisions) {
    const auto found = std::find(kPrecisions.begin(), kPrecisions.end(), precision);
    if (found == kPrecisions.end()) {
      return absl::InvalidArgumentError(StrCat("precision '", PrintableName(precision),
                                               "' is unknown: it is fp32, bf16, fp16, fp8, fp8-weight-only or int8"));
    }
    if (std::count(precisions.begin(), precisions.end(), precision) > 1) {
      return absl::InvalidArgumentError(StrCat("precision '", precision, "' comes twice"));
    }
    highest = std::min(highest, static_cast<size_t>(found - kPrecisions.begin()));
  }
  return std::string(kPrecisions.at(highest));
}

std::optional<double> SaturatedShare(int64_t quantized_activations, int64_t saturated_activations) {
  if (quantized_activations == 0) return std::nullopt;
  return static_cast<double>(saturated_activations) / static_cast<double>(quantized_activations);
}

absl::Status RunCompare(const ModelOptions& model, const DrawOptions& draw, const CompareOptions& options) {
  const std::vector<std::string> precisions =
      options.precisions.empty() ? DefaultPrecisions(model.device) : options.precisions;
  FRESCO_ASSIGN_OR_RETURN(const std::string reference, HighestPrecision(precisions));
  if (!options.html.empty()) FRESCO_RETURN_IF_ERROR(CheckCanBeWritten(options.html));
  Comparison comparison;
  comparison.model = model.model;
  comparison.seed = draw.seed;
  FRESCO_ASSIGN_OR_RETURN(comparison.prompts, PromptsOf(options));
  Comparer comparer(model, draw, !options.html.empty(), &comparison);
  absl::StatusOr<PrecisionResult> base = comparer.Measure(reference);
  if (!base.ok()) return Annotate(base.status(), reference);
  for (const std::string& precision : precisions) {
    absl::StatusOr<PrecisionResult> result = precision == reference ? base : comparer.Measure(precision);
    if (!result.ok()) return Annotate(result.status(), precision);
    comparison.results.push_back(*std::move(result));
  }
  if (!options.html.empty()) FRESCO_RETURN_IF_ERROR(WriteFileWhole(options.html, ComparisonPage(comparison)));
  if (model.json) {
    PrintJson(ToJson(comparison));
  } else {
    PrintTable(comparison);
  }
  return absl::OkStatus();
}

}  // namespace fresco
