#include "pipeline/engine/load_precision.h"

#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/model_defaults.h"

namespace fresco {
namespace {

// Nothing for a precision that is not quantised, and where there is no file that was not asked for.
absl::StatusOr<std::optional<Calibration>> FindCalibration(const LoadOptions& options, const Precision& precision) {
  if (precision.transformer.rules().empty()) return std::nullopt;
  absl::StatusOr<Calibration> calibration = ReadCalibration(CalibrationPath(options));
  if (calibration.ok()) return *std::move(calibration);
  if (!options.calibration.empty() || !absl::IsNotFound(calibration.status())) return calibration.status();
  if (options.static_scales) {
    return absl::InvalidArgumentError(StrCat("static_scales: they are a calibration's, and ", CalibrationPath(options),
                                             " is not there (`fresco-model calibrate` makes it)"));
  }
  return std::nullopt;
}

std::vector<LayerTable::Rule> RulesFor(const std::optional<Calibration>& calibration, const ModelDefaults& defaults,
                                       const LoadOptions& options, std::string_view precision) {
  std::vector<LayerTable::Rule> rules;
  if (calibration) rules = RulesOf(*calibration, precision);
  for (LayerTable::Rule& rule : rules) rule.origin = CalibrationPath(options);
  rules.insert(rules.end(), defaults.layers.begin(), defaults.layers.end());
  rules.insert(rules.end(), options.layers.begin(), options.layers.end());
  return rules;
}

void UseCalibration(const Calibration& calibration, const LoadOptions& options, Precision* precision) {
  if (options.static_scales) SetStaticScales(calibration, &precision->transformer);
  precision->transformer.SetOverflowGuard(options.overflow_guard);
  const auto rounded = calibration.rounded_weights.find(precision->name);
  if (rounded == calibration.rounded_weights.end()) return;
  precision->rounded = std::filesystem::path(CalibrationPath(options)).replace_filename(rounded->second).string();
}

}  // namespace

std::string CalibrationPath(const LoadOptions& options) {
  return options.calibration.empty() ? StrCat(options.path, "/", kCalibrationFile) : options.calibration;
}

absl::StatusOr<LoadPrecision> DecidePrecision(const LoadOptions& options, const ModelSource& source,
                                              const at::Device& device) {
  FRESCO_ASSIGN_OR_RETURN(const ModelDefaults defaults, ReadModelDefaults(source.DefaultsPath()));
  LoadPrecision decided;
  FRESCO_ASSIGN_OR_RETURN(decided.precision, ChoosePrecision(options.precision, device));
  FRESCO_ASSIGN_OR_RETURN(decided.calibration, FindCalibration(options, decided.precision));
  const auto rules = RulesFor(decided.calibration, defaults, options, decided.precision.name);
  FRESCO_ASSIGN_OR_RETURN(decided.precision, ChoosePrecision(options.precision, device, rules));
  const AttentionScheme own = defaults.attention.value_or(AttentionScheme::kHigh);
  SetAttention(options.attention.value_or(own), &decided.precision);
  if (decided.calibration) UseCalibration(*decided.calibration, options, &decided.precision);
  return decided;
}

}  // namespace fresco
