// The calibration file (docs/CALIBRATION.md).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/precision/calibration.h"

namespace fresco {

// Its name where it lies in a model's folder, from where it is taken without being asked for.
inline constexpr std::string_view kCalibrationFile = "calibration.json";

// NOT_FOUND for a file that is not there; INVALID_ARGUMENT, naming file and field, for one that is over 256 MiB, not
// JSON, of another format or version, has unknown or missing fields, is of a precision that does not exist, or
// contradicts itself (lists of different lengths, scales that are not positive, a layer named twice).
absl::StatusOr<Calibration> ReadCalibration(const std::string& path);

// "sha256:…" of the file's bytes; errors as ReadTextFile's.
absl::StatusOr<std::string> DigestCalibration(const std::string& path);

// Whole or not at all. What was written reads as an equal value.
absl::Status WriteCalibration(const Calibration& calibration, const std::string& path);

}  // namespace fresco
