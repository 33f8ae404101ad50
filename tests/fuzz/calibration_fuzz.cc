// The calibration file: what is read is the same when it is written and read again.
#include <cmath>
#include <string>

#include "pipeline/engine/calibration_file.h"
#include "pipeline/precision/layer_table.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

void CheckUse(const Calibration& calibration) {
  for (const std::string_view precision : {"fp8", "fp8-weight-only", "int8"}) {
    LayerTable table = LayerTable::ForTransformer(precision);
    table.Override(RulesOf(calibration, precision));
    SetStaticScales(calibration, &table);
    for (const LayerCalibration& layer : calibration.layers) {
      Check(calibration.Find(layer.names.front()) == &layer, "a layer that is not found by its name");
      const auto scale = table.InputScaleOf(layer.names.front());
      Check(!scale || (std::isfinite(*scale) && *scale > 0), "a static scale that is no positive number");
    }
  }
  for (const float sigma : {0.0F, 0.5F, 1.0F, 2.0F, -1.0F}) {
    Check(calibration.buckets.Of(sigma) < calibration.buckets.size(), "a noise level in no bucket");
  }
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::string path = folder.Write("calibration.json", TextOf(data, size));
  const auto calibration = ReadCalibration(path);
  if (!calibration.ok()) {
    CheckError(calibration.status(), path);
    return 0;
  }
  CheckUse(*calibration);
  const std::string copy = folder.PathOf("copy.json");
  Check(WriteCalibration(*calibration, copy).ok(), "what was read cannot be written");
  const auto again = ReadCalibration(copy);
  Check(again.ok(), "what was written cannot be read:", again.status().ToString());
  Check(*again == *calibration, "a calibration that changes when it is written");
  return 0;
}
