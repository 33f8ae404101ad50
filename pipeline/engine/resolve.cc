#include "pipeline/engine/resolve.h"

#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"

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

absl::StatusOr<ResolvedModel> ResolveModel(const LoadOptions& options, const at::Device& device) {
  FRESCO_ASSIGN_OR_RETURN(ModelSource source, ModelSource::Open(options.path, options.base));
  FRESCO_ASSIGN_OR_RETURN(ModelDefaults defaults, ReadModelDefaults(source.DefaultsPath()));
  FRESCO_ASSIGN_OR_RETURN(Precision precision, ChoosePrecision(options.precision, device));
  FRESCO_ASSIGN_OR_RETURN(std::optional<Calibration> calibration, FindCalibration(options, precision));
  FRESCO_ASSIGN_OR_RETURN(
      precision, ChoosePrecision(options.precision, device, RulesFor(calibration, defaults, options, precision.name)));
  if (calibration) UseCalibration(*calibration, options, &precision);
  return ResolvedModel{std::move(source), std::move(defaults), std::move(precision), std::move(calibration)};
}

}  // namespace fresco
