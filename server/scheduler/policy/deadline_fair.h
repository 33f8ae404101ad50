// Priorities, fair shares, deadlines and age, decided anew at every step.
#pragma once

#include <string_view>
#include <vector>

#include "server/scheduler/policy/batch_builder.h"
#include "server/scheduler/policy/policy.h"

namespace fresco {

// The image of the best rank leads: its group makes the step. Others of the group join in the order of their ranks as
// long as each fits (BatchBuilder) and leaves those before it in time, if the rest of their steps took as long as this
// one; and then images of other sizes that can share its steps (QueueIndex::AreKin): last, as steps of one size are the
// cheapest, and where they save much and cost those before them at most half of what these can spare. Of the batches
// that come about so, the one is made whose gain is the most: what the device saves by computing steps together rather
// than each by itself, times the holding costs of all that wait for the device, less what the step grows by with each,
// times the holding costs of those before it. So nobody is slowed down for a throughput that nobody needs, and under
// pressure every gain is taken. (Where batching gains nothing, as at 1024x1024 on most devices, the first is 0 and
// images go one by one.) While other devices that could take them are free, no more share a step than come to a device
// if all are spread over this one and those. Residents that are not in the batch stay, paused, where the device's
// memory has room and no device is free to take them; else they leave for host memory, last ranks first.
class DeadlineFairPolicy final : public BatchingPolicy {
 public:
  std::string_view name() const override { return "deadline-fair"; }
  Decision Decide(const QueueIndex& index, const CostModel& costs, DeviceId device, absl::Time now) const override;
};

}  // namespace fresco
