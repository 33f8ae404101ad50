#include "server/scheduler/policy/policy.h"

#include "pipeline/base/strings.h"
#include "server/scheduler/policy/arrival_policies.h"
#include "server/scheduler/policy/deadline_fair.h"

namespace fresco {

absl::StatusOr<std::unique_ptr<const BatchingPolicy>> MakeBatchingPolicy(std::string_view name) {
  if (name == "fifo") return std::make_unique<FifoPolicy>();
  if (name == "dynamic") return std::make_unique<DynamicPolicy>();
  if (name == "deadline-fair") return std::make_unique<DeadlineFairPolicy>();
  return absl::InvalidArgumentError(
      StrCat("unknown scheduling policy '", name, "': one of fifo, dynamic, deadline-fair"));
}

}  // namespace fresco
