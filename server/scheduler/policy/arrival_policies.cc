#include "server/scheduler/policy/arrival_policies.h"

#include <tuple>

#include "server/scheduler/policy/batch_builder.h"

namespace fresco {
namespace {

constexpr GroupId kNoGroup = -1;

bool Before(const Job& a, const Job& b) {
  return std::tie(a.spec.sequence, a.spec.image_index) < std::tie(b.spec.sequence, b.spec.image_index);
}

// The head of the queue, leaving out one group; -1: nothing waits.
JobId FirstToArrive(const QueueIndex& index, DeviceId device, GroupId without = kNoGroup) {
  return FirstOfModels(
      index, device, [&](ModelId model) { return index.FirstByArrival(model, device, without); }, Before);
}

BatchBuilder ContinueResidents(const QueueIndex& index, const CostModel& costs, DeviceId device) {
  BatchBuilder batch(index, costs, device);
  for (JobId id : index.device(device).resident) batch.Add(index.job(id));
  return batch;
}

}  // namespace

Decision FifoPolicy::Decide(const QueueIndex& index, const CostModel& costs, DeviceId device,
                            absl::Time /*now*/) const {
  BatchBuilder batch = ContinueResidents(index, costs, device);
  const JobId head = FirstToArrive(index, device);
  if (head >= 0) {
    const GroupId group = batch.empty() ? index.job(head).spec.group : batch.jobs().front()->spec.group;
    // As long as the head of the queue is one of the group: none may pass the first of another.
    const JobId barrier = FirstToArrive(index, device, group);
    QueueIndex::ArrivalCursor cursor(index, group, device);
    for (JobId id = cursor.Next(); id >= 0; id = cursor.Next()) {
      const Job& job = index.job(id);
      if ((barrier >= 0 && Before(index.job(barrier), job)) || !batch.Fits(job)) break;
      batch.Add(job);
    }
  }
  return batch.ToDecision();
}

Decision DynamicPolicy::Decide(const QueueIndex& index, const CostModel& costs, DeviceId device,
                               absl::Time /*now*/) const {
  BatchBuilder batch = ContinueResidents(index, costs, device);
  const JobId head = batch.empty() ? FirstToArrive(index, device) : -1;
  if (head >= 0) {
    QueueIndex::ArrivalCursor cursor(index, index.job(head).spec.group, device);
    for (JobId id = cursor.Next(); id >= 0 && batch.Fits(index.job(id)); id = cursor.Next()) batch.Add(index.job(id));
  }
  return batch.ToDecision();
}

}  // namespace fresco
