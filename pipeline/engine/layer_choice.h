// Which layers stay high so that pictures keep a quality. Torch-free.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/engine/load.h"
#include "pipeline/precision/calibration.h"

namespace fresco {

// The entries of `calibration` that have a sensitivity at `precision`, in the order in which they are worth keeping
// high: by how much of the velocity's squared error each element of their weights costs, the most first.
std::vector<const LayerCalibration*> WorthKeepingHigh(const Calibration& calibration, std::string_view precision);

struct KeepPsnrOptions {
  LoadOptions load;              // the model; its precision is a quantised one, its calibration one with sensitivities
  std::string high = "fp32";     // precision of the pictures to compare with
  std::vector<ImageSpec> specs;  // what is drawn
  double psnr = 35;              // dB, of the pictures' median
};

struct KeptLayers {
  std::vector<LayerTable::Rule> rules;  // for LoadOptions::layers, or the rules of `quantize`
  double psnr = 0;                      // dB, with them; infinity where all pictures are equal
  double psnr_without = 0;              // dB, with none
};

// As few layers as it takes, found by drawing with the first so many of WorthKeepingHigh. Calls `on_trial` after each
// trial with how many layers were kept and the PSNR. INVALID_ARGUMENT where nothing is to be drawn or the calibration
// has no sensitivities for the precision, FAILED_PRECONDITION where even all layers high do not reach it; else
// LoadEngine's errors.
absl::StatusOr<KeptLayers> KeepPsnr(const KeepPsnrOptions& options,
                                    const std::function<void(size_t kept, double psnr)>& on_trial);

}  // namespace fresco
