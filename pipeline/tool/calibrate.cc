#include "pipeline/tool/calibrate.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/calibrator.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/progress_line.h"
#include "pipeline/tool/prompts_file.h"

namespace fresco {
namespace {

using Steady = std::chrono::steady_clock;

constexpr size_t kShownLayers = 5;

// How far it is, and about how long it takes.
class Pace {
 public:
  std::string TextOf(const CalibrationProgress& progress) {
    const Steady::time_point now = Steady::now();
    if (!first_) first_ = {now, progress.done};
    return StrCat(PhaseText(progress.phase), ": ", 100 * progress.done / std::max<int64_t>(1, progress.total), " %",
                  TimeLeft(now, progress));
  }

 private:
  static std::string PhaseText(std::string_view phase) {
    if (phase == "ranges") return "ranges of activations";
    if (phase == "sensitivity") return "sensitivity of layers";
    if (phase == "rounding") return "rounding of weights";
    return "noise of quantisation";
  }

  // By the pace since the first report: a resumed run has not done what came before.
  std::string TimeLeft(Steady::time_point now, const CalibrationProgress& progress) const {
    const int64_t done = progress.done - first_->second;
    if (done < 1) return "";
    const double seconds = std::chrono::duration<double>(now - first_->first).count() / static_cast<double>(done) *
                           static_cast<double>(progress.total - progress.done);
    const int64_t whole = std::llround(seconds);
    if (whole >= 3600) return StrCat(", ", whole / 3600, " h ", whole % 3600 / 60, " min left");
    if (whole >= 60) return StrCat(", ", whole / 60, " min ", whole % 60, " s left");
    return StrCat(", ", whole, " s left");
  }

  std::optional<std::pair<Steady::time_point, int64_t>> first_;  // when the first report came, and of how much
};

// Before hours of work, not after.
absl::Status CheckWritable(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return absl::InvalidArgumentError(StrCat(path, ": is a folder"));
  const std::string trial = path + ".part";
  if (!std::ofstream(trial)) return absl::ErrnoToStatus(errno, StrCat(path, ": cannot be written"));
  std::filesystem::remove(trial, ignored);
  return absl::OkStatus();
}

// "calibration.json" and fp8: "calibration.fp8.safetensors", beside it.
std::string RoundedPath(const CalibrateOptions& options) {
  return std::filesystem::path(options.output).replace_extension(options.precision + ".safetensors").string();
}

absl::StatusOr<CalibrationOptions> OptionsOf(const ModelOptions& model, const DrawOptions& draw,
                                             const CalibrateOptions& options) {
  CalibrationOptions calibration;
  FRESCO_ASSIGN_OR_RETURN(calibration.prompts, ReadPrompts(options.prompts));
  FRESCO_RETURN_IF_ERROR(CheckWritable(options.output));
  if (options.buckets < 1 || options.sensitivity_samples < 0 || options.rounding_samples < 0)
    return absl::InvalidArgumentError(
        "--buckets must be at least 1, --sensitivity-samples and --rounding-samples at least 0");
  if (!(options.high_inputs >= 0 && options.high_inputs <= 1))
    return absl::InvalidArgumentError("--high-inputs must be from 0 to 1");
  calibration.model = model.model;
  calibration.base = model.base;
  calibration.device = model.device;
  calibration.threads = model.threads;
  calibration.precision = options.precision;
  calibration.high = options.high;
  calibration.width = draw.width;
  calibration.height = draw.height;
  calibration.steps = draw.steps;
  calibration.guidance_scale = draw.guidance;
  calibration.seed = draw.seed;
  calibration.buckets = static_cast<size_t>(options.buckets);
  calibration.sensitivity_samples = options.sensitivity_samples;
  calibration.high_inputs = options.high_inputs;
  calibration.rounding_samples = options.rounding_samples;
  if (options.rounding_samples > 0) calibration.rounded = RoundedPath(options);
  calibration.state = options.output + ".state";
  calibration.resume = options.resume;
  return calibration;
}

struct Sensitivity {
  std::string layer;
  float error = 0;
};

// The worst first.
std::vector<Sensitivity> Sensitivities(const Calibration& calibration, const std::string& precision) {
  std::vector<Sensitivity> worst;
  for (const LayerCalibration& layer : calibration.layers) {
    const auto found = layer.sensitivity.find(precision);
    if (found != layer.sensitivity.end()) worst.push_back({layer.names.front(), found->second});
  }
  std::stable_sort(worst.begin(), worst.end(), [](const auto& a, const auto& b) { return a.error > b.error; });
  return worst;
}

void Print(const CalibrationResult& result, const CalibrateOptions& options, bool json) {
  const std::vector<Sensitivity> worst = Sensitivities(result.calibration, options.precision);
  if (json) {
    nlohmann::ordered_json layers = nlohmann::ordered_json::array();
    for (const Sensitivity& layer : worst) layers.push_back({{"layer", layer.layer}, {"error", layer.error}});
    PrintJson({{"file", options.output},
               {"precision", options.precision},
               {"prompts", result.calibration.prompts},
               {"steps", result.calibration.steps},
               {"width", result.calibration.width},
               {"height", result.calibration.height},
               {"noise", result.noise},
               {"corrected_noise", result.corrected_noise},
               {"sensitivity", std::move(layers)}});
    return;
  }
  std::printf("%s: %d prompts, %zu layers; noise of %s: %.4f %% of the velocity, corrected %.4f %%\n",
              options.output.c_str(), result.calibration.prompts, result.calibration.layers.size(),
              options.precision.c_str(), 100 * result.noise, 100 * result.corrected_noise);
  if (!worst.empty()) std::printf("most sensitive layers, each alone in %s:\n", options.precision.c_str());
  for (size_t i = 0; i < std::min(worst.size(), kShownLayers); ++i)
    std::printf("  %.4f %%  %s\n", 100 * static_cast<double>(worst[i].error), worst[i].layer.c_str());
}

absl::Status Run(const CalibrationOptions& calibration, const CalibrateOptions& options, bool json) {
  Pace pace;
  ProgressLine line;
  const auto result = Calibrate(calibration, [&](const CalibrationProgress& progress) {
    line.Show(pace.TextOf(progress), progress.done == progress.total);
  });
  line.End();
  FRESCO_RETURN_IF_ERROR(result.status());
  FRESCO_RETURN_IF_ERROR(WriteCalibration(result->calibration, options.output));
  std::error_code ignored;
  std::filesystem::remove(calibration.state, ignored);
  Print(*result, options, json);
  return absl::OkStatus();
}

}  // namespace

int RunCalibrate(const ModelOptions& model, const DrawOptions& draw, const CalibrateOptions& options) {
  const absl::StatusOr<CalibrationOptions> calibration = OptionsOf(model, draw, options);
  const absl::Status status = calibration.ok() ? Run(*calibration, options, model.json) : calibration.status();
  if (status.ok()) return kDone;
  std::fprintf(stderr, "fresco-model: %s\n", std::string(status.message()).c_str());
  return calibration.ok() ? kFailed : kUsage;
}

}  // namespace fresco
