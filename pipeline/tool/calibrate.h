// `fresco-model calibrate`: makes a model's calibration file (docs/CALIBRATION.md).
#pragma once

#include <string>

#include "pipeline/tool/options.h"

namespace fresco {

struct CalibrateOptions {
  std::string precision = "fp8";  // that is calibrated
  std::string high = "fp32";      // that it is measured against
  std::string prompts;            // file, one to a line
  std::string output;
  bool resume = false;
  int buckets = 10;
  int sensitivity_samples = 8;
  int rounding_samples = 128;
  double high_inputs = 0.2;
};

// Draws what `draw` says (its prompt aside) of each prompt. Shows how far it is on standard error; keeps its state in
// OUTPUT.state until it is done. Returns an exit code: kUsage where nothing was begun, for what the options say.
int RunCalibrate(const ModelOptions& model, const DrawOptions& draw, const CalibrateOptions& options);

}  // namespace fresco
