// A batch while it is put together, and whether one more image fits into it.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/policy.h"
#include "server/scheduler/policy/queue_index.h"

namespace fresco {

class BatchBuilder {
 public:
  // The referenced outlive it.
  BatchBuilder(const QueueIndex& index, const CostModel& costs, DeviceId device);

  // Within the device's limits: images, activations of the step with those of a decode beside it, and, for one that is
  // not resident yet, the state of all that are in the batch; it is resident or the device has its model; and none that
  // must be alone. The first always fits: admission has refused what cannot. All are of one group and its kin.
  bool Fits(const Job& job) const;
  bool full() const { return size() >= limits_.max_batch; }
  void Add(const Job& job);
  // To the first so many.
  void Truncate(int size);

  bool empty() const { return jobs_.empty(); }
  int size() const { return static_cast<int>(jobs_.size()); }
  const std::vector<const Job*>& jobs() const { return jobs_; }
  // All of it, and as starting those of it that wait.
  Decision ToDecision() const;
  // Of a step of an image by itself.
  double SecondsAlone(const Job& job) const;
  // Of a step of all; 0 for an empty one.
  double StepSeconds() const { return costs_.StepSeconds(rows_); }
  // And with one more.
  double StepSecondsWith(const Job& job) const { return costs_.StepSeconds(RowsWith(job)); }

 private:
  StepSize RowsWith(const Job& job) const;

  const QueueIndex& index_;
  const CostModel& costs_;
  const DeviceId id_;
  const QueueIndex::Device& device_;
  const DeviceLimits& limits_;
  std::vector<const Job*> jobs_;
  StepSize rows_;
  int64_t state_bytes_ = 0;  // the batch's, and of images that wait to be decoded
};

// The best of the models' first ones that `device` can draw; -1: none.
template <typename First, typename Before>
JobId FirstOfModels(const QueueIndex& index, DeviceId device, First first, Before before) {
  JobId best = -1;
  for (ModelId model = 0; model < static_cast<ModelId>(index.device(device).models.size()); ++model) {
    if (!index.IsLoaded(device, model)) continue;
    const JobId candidate = first(model);
    if (candidate < 0) continue;
    if (best < 0 || before(index.job(candidate), index.job(best))) best = candidate;
  }
  return best;
}

}  // namespace fresco
