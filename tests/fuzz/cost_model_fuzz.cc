// The file of learned costs: what is read predicts numbers, and is the same when it is written and read again.
#include <cmath>
#include <string>
#include <vector>

#include "server/scheduler/policy/cost_model_file.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

void CheckPredictions(CostModel model) {
  for (const MeasuredStep& step : model.Measured()) {
    const CurveId curve = model.Curve(step.model, step.tokens);
    for (const int rows : {1, step.rows, 64}) {
      const double seconds = model.StepSeconds(curve, rows);
      Check(std::isfinite(seconds) && seconds >= 0, "a step that takes no time that there is");
      Check(model.ActivationBytes(curve, rows) >= 0, "a step that gives memory back");
    }
  }
}

// But for the last digit of the times, which are averages of one.
void CheckSame(const std::vector<MeasuredStep>& before, const std::vector<MeasuredStep>& after) {
  Check(before.size() == after.size(), "a cost model that grows or shrinks when it is written");
  for (size_t i = 0; i < before.size(); ++i) {
    Check(std::abs(after[i].seconds / before[i].seconds - 1) < 1e-12, "a time that changes when it is written");
    MeasuredStep same = after[i];
    same.seconds = before[i].seconds;
    Check(same == before[i], "a step that changes when it is written");
  }
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  const auto model = fresco::CostModelFromJson(TextOf(data, size));
  if (!model.ok()) {
    Check(absl::IsInvalidArgument(model.status()), "an error of another kind:", model.status().ToString());
    Check(IsPrintable(std::string(model.status().message())), "an error that is not printable");
    return 0;
  }
  CheckPredictions(*model);
  const std::string written = fresco::CostModelToJson(*model);
  const auto again = fresco::CostModelFromJson(written);
  Check(again.ok(), "what was written cannot be read:", again.status().ToString());
  CheckSame(model->Measured(), again->Measured());
  return 0;
}
