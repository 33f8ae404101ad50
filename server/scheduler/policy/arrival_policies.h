// Policies that go by the order of arrival; what they do is in policy.h.
#pragma once

#include <string_view>

#include "server/scheduler/policy/policy.h"

namespace fresco {

class FifoPolicy final : public BatchingPolicy {
 public:
  std::string_view name() const override { return "fifo"; }
  Decision Decide(const QueueIndex& index, const CostModel& costs, DeviceId device, absl::Time now) const override;
};

class DynamicPolicy final : public BatchingPolicy {
 public:
  std::string_view name() const override { return "dynamic"; }
  Decision Decide(const QueueIndex& index, const CostModel& costs, DeviceId device, absl::Time now) const override;
};

}  // namespace fresco
