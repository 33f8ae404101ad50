// A cost model as a small JSON file, so that a restarted server predicts well from its first request:
//
//   {"format": "fresco-cost-model", "version": 1,
//    "steps": [{"model": "sd3.5-large", "tokens": 4429, "rows": 2, "seconds": 0.081, "count": 1200,
//               "activation_bytes": 1610612736, "type": "cuda"}, …]}
//
// "type": of the device. An entry without one, as files had before there were types, counts for every type that has
// none of its model (CostModel::Type).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/scheduler/policy/cost_model.h"

namespace fresco {

std::string CostModelToJson(const CostModel& model);
// INVALID_ARGUMENT, naming the entry and the field, for what this version did not write. Unknown keys are errors.
absl::StatusOr<CostModel> CostModelFromJson(std::string_view json);

// The file is replaced as a whole, so that whoever reads it sees the old or the new one. Errors name the path.
absl::Status SaveCostModel(const CostModel& model, const std::string& path);
// NOT_FOUND where there is none.
absl::StatusOr<CostModel> LoadCostModel(const std::string& path);

}  // namespace fresco
