#include "pipeline/tool/quantize_calibration.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <thread>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/model_parts.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

int HashingThreads() {
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

absl::StatusOr<std::optional<WeightStore>> OpenRounded(const Calibration& calibration, const std::string& path,
                                                       const ModelSource& source, const std::string& precision) {
  const auto found = calibration.rounded_weights.find(precision);
  if (found == calibration.rounded_weights.end()) return std::nullopt;
  const std::string file = fs::path(path).replace_filename(found->second).string();
  FRESCO_ASSIGN_OR_RETURN(const std::string digest, DigestWeights(source, HashingThreads()));
  if (digest != calibration.weights_digest) {
    return absl::InvalidArgumentError(StrCat(file, ": holds the weights of another model (",
                                             PrintableName(calibration.weights_digest), ") than ", digest));
  }
  FRESCO_ASSIGN_OR_RETURN(WeightStore rounded, WeightStore::OpenFile(file));
  return rounded;
}

}  // namespace

absl::StatusOr<std::optional<UsedCalibration>> FindCalibration(const std::string& path, const ModelSource& source,
                                                               const std::string& precision) {
  const std::string file = path.empty() ? (fs::path(source.path()) / kCalibrationFile).string() : path;
  absl::StatusOr<Calibration> calibration = ReadCalibration(file);
  if (path.empty() && absl::IsNotFound(calibration.status())) return std::nullopt;
  if (!calibration.ok()) return calibration.status();
  UsedCalibration used;
  used.precision = precision;
  used.rules = RulesOf(*calibration, precision);
  FRESCO_ASSIGN_OR_RETURN(used.rounded, OpenRounded(*calibration, file, source, precision));
  used.values = *std::move(calibration);
  return used;
}

WeightStore WithRounded(const UsedCalibration& calibration, const WeightStore& transformer, const LayerTable& table) {
  if (!calibration.rounded) return transformer;
  return transformer.WithLayersOf(*calibration.rounded,
                                  [&](std::string_view layer) { return table.Of(layer) != LinearScheme::kHigh; });
}

absl::Status WriteOwnCalibration(const UsedCalibration& calibration, const std::string& folder) {
  Calibration own = calibration.values;
  own.rounded_weights.clear();
  std::erase_if(own.noise_correction, [&](const auto& entry) { return entry.first != calibration.precision; });
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(folder, ""));
  FRESCO_ASSIGN_OR_RETURN(own.weights_digest, DigestWeights(source, HashingThreads()));
  return WriteCalibration(own, (fs::path(folder) / kCalibrationFile).string());
}

}  // namespace fresco
