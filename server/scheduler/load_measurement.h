// What a model that was just loaded takes on its device, so that the first request is told what it can expect.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/watchdog.h"

namespace fresco {

struct LoadMeasurement {
  absl::Duration limit;    // nothing is begun that is predicted to end later
  int64_t kept_bytes = 0;  // on the device, beside what the measurement itself takes: weights, other images' state
  // Makes a call of the device of that kind and size (watchdog.h), and returns its status; or an error, where the
  // device is lost, or is wanted for something else: that is the end of the measurement.
  std::function<absl::Status(DeviceCall kind, int64_t size, absl::FunctionRef<absl::Status()> call)> watched;
};

// Draws nothing of the model's default size and of a half and a quarter of its sides, the smallest first, so that what
// the larger ones take is known before they are begun: steps of one image with and without guidance and of two with
// it, texts, and decoding. Past the engine's cache of texts. Returns what was measured and is not in `known`, with
// cells as the cost model keeps them (stage_times.h); less where the device fails, which a request would find out too;
// nothing where `known` has the default size. What it has last drawn is in `jobs`: the caller lets go of it, unless the
// device is lost. On the engine's compute thread; after an error it uses neither engine nor clock.
std::vector<MeasuredStep> MeasureModel(const std::string& model, Engine* engine, const CostModel& known,
                                       const LoadMeasurement& measurement, Clock* clock,
                                       std::vector<std::unique_ptr<ImageJob>>* jobs);

}  // namespace fresco
