// What a device does next: pure functions of the queue's index, the cost model, the device and the time. They change
// nothing; the SchedulingCore applies what they decide, for the real threads and for the simulator alike.
//
//   fifo           In the order of arrival: what waits longest starts when the device is free or, where it can share
//                  the running batch and has a place in it, at the next step; nothing overtakes.
//   dynamic        Batches formed once, as most servers do: what waits longest and others of its group start
//                  together when the device is free, and run to completion.
//   deadline-fair  By rank (job.h), anew at every step; batches as large as pays, of different sizes where that pays
//   too;
//                  preempts.
#pragma once

#include <array>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/job.h"
#include "server/scheduler/policy/queue_index.h"

namespace fresco {

// Of one device, at a step boundary.
struct Decision {
  std::vector<JobId> preempt;  // residents that leave for host memory
  std::vector<JobId> start;    // that wait: to be prepared or, where they have been preempted, brought back
  std::vector<JobId> decode;   // finished images whose turn it is; before all else (not the policy's: stage_plan.h)
  std::vector<JobId>
      batch;  // that make this step: residents and all that start, of one group and its kin; empty: nothing to do
};

// Immutable; thread-safe.
class BatchingPolicy {
 public:
  virtual ~BatchingPolicy() = default;
  virtual std::string_view name() const = 0;
  // `index` has been advanced to `now`, and what that found to be dropped is gone.
  virtual Decision Decide(const QueueIndex& index, const CostModel& costs, DeviceId device, absl::Time now) const = 0;
};

inline constexpr std::array<std::string_view, 3> kBatchingPolicyNames = {"fifo", "dynamic", "deadline-fair"};

// Of one of these names; INVALID_ARGUMENT for others.
absl::StatusOr<std::unique_ptr<const BatchingPolicy>> MakeBatchingPolicy(std::string_view name);

}  // namespace fresco
