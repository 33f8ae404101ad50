#include "pipeline/tool/quantize.h"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/layer_choice.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/progress_line.h"
#include "pipeline/tool/prompts_file.h"

namespace fresco {
namespace {

using Steady = std::chrono::steady_clock;

constexpr double kMiB = 1 << 20;

// One for each prompt, with the model's defaults for what `draw` leaves out.
absl::StatusOr<std::vector<ImageSpec>> SpecsOfFile(const ModelOptions& model, const DrawOptions& draw,
                                                   const std::string& prompts) {
  FRESCO_ASSIGN_OR_RETURN(const std::vector<std::string> lines, ReadPrompts(prompts));
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(model.model, model.base));
  FRESCO_ASSIGN_OR_RETURN(const ModelShape shape, ReadModelShape(source));
  FRESCO_ASSIGN_OR_RETURN(const ModelInfo info, DescribeModel(LoadOptionsOf(model), source, shape, Precision()));
  return SpecsOf(lines, draw, info);
}

absl::StatusOr<KeptLayers> FindKeptLayers(const ModelOptions& model, const DrawOptions& draw, const KeepOptions& keep,
                                          const QuantizeOptions& options) {
  KeepPsnrOptions search;
  FRESCO_ASSIGN_OR_RETURN(search.specs, SpecsOfFile(model, draw, keep.prompts_file));
  search.load = LoadOptionsOf(model);
  search.load.precision = options.precision;
  search.load.layers = options.layers;
  if (search.load.calibration.empty()) search.load.calibration = StrCat(model.model, "/", kCalibrationFile);
  search.psnr = *keep.psnr;
  return KeepPsnr(search, [](size_t kept, double psnr) {
    std::fprintf(stderr, "%zu of the calibration's layers high: %.2f dB\n", kept, psnr);
  });
}

// What can be known before pictures are drawn for hours.
absl::Status CheckKeeping(const QuantizeOptions& options) {
  FRESCO_RETURN_IF_ERROR(CheckOutput(options));
  if (!options.output.ends_with(".safetensors")) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(options.output,
             ": --keep-psnr is for folders: the scales and the rounding that it measures with are not "
             "those of a file, which would not have that PSNR"));
}

void Report(const QuantizeOptions& options, const QuantizeReport& report, const std::optional<KeptLayers>& kept,
            double seconds, bool json) {
  if (!json) {
    std::printf("%s: %lld layers in %s, %.1f MiB of weights where there were %.1f, %.1f s\n", options.output.c_str(),
                static_cast<long long>(report.layers), options.precision.c_str(), report.bytes / kMiB,
                report.source_bytes / kMiB, seconds);
    if (kept)
      std::printf("%zu layers kept high: %.2f dB, else %.2f\n", kept->rules.size(), kept->psnr, kept->psnr_without);
    return;
  }
  nlohmann::ordered_json object = {
      {"path", options.output}, {"precision", options.precision},      {"layers_quantized", report.layers},
      {"bytes", report.bytes},  {"source_bytes", report.source_bytes}, {"seconds", seconds}};
  if (kept) {
    object["kept_layers"] = nlohmann::ordered_json::array();
    for (const LayerTable::Rule& rule : kept->rules) object["kept_layers"].push_back(rule.pattern);
    object["psnr"] = kept->psnr;
    object["psnr_without"] = kept->psnr_without;
  }
  PrintJson(object);
}

}  // namespace

absl::StatusOr<LayerTable::Rule> ParseLayerRule(const std::string& text) {
  const size_t equals = text.rfind('=');
  const std::string_view scheme = equals == std::string::npos ? "" : std::string_view(text).substr(equals + 1);
  const std::optional<LinearScheme> parsed = ParseScheme(scheme);
  if (equals == std::string::npos || equals == 0 || !parsed) {
    return absl::InvalidArgumentError(
        StrCat("'", PrintableName(text), "' is not PATTERN=SCHEME, with ", SchemeNames()));
  }
  return LayerTable::Rule{text.substr(0, equals), *parsed};
}

absl::Status RunQuantize(const ModelOptions& model, const DrawOptions& draw, const KeepOptions& keep,
                         QuantizeOptions options) {
  options.model = model.model;
  options.base = model.base;
  options.calibration = model.calibration;
  const Steady::time_point begin = Steady::now();
  std::optional<KeptLayers> kept;
  ProgressLine progress;
  const absl::StatusOr<QuantizeReport> report = CatchTorch(options.model, [&]() -> absl::StatusOr<QuantizeReport> {
    FRESCO_RETURN_IF_ERROR(PrepareDevice("cpu", model.threads).status());
    if (keep.psnr) {
      FRESCO_RETURN_IF_ERROR(CheckKeeping(options));
      FRESCO_ASSIGN_OR_RETURN(kept, FindKeptLayers(model, draw, keep, options));
      options.layers.insert(options.layers.end(), kept->rules.begin(), kept->rules.end());
    }
    return QuantizeModel(options, [&](std::string_view part, uint64_t done, uint64_t of) {
      const uint64_t percent = of == 0 ? 100 : 100 * done / of;
      progress.Show(absl::StrFormat("%s: %d %% of %.1f MiB", part, percent, static_cast<double>(of) / kMiB),
                    done == of);
    });
  });
  progress.End();
  if (!report.ok()) return report.status();
  Report(options, *report, kept, std::chrono::duration<double>(Steady::now() - begin).count(), model.json);
  return absl::OkStatus();
}

}  // namespace fresco
