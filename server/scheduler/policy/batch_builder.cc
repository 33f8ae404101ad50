#include "server/scheduler/policy/batch_builder.h"

namespace fresco {

BatchBuilder::BatchBuilder(const QueueIndex& index, const CostModel& costs, DeviceId device)
    : index_(index),
      costs_(costs),
      id_(device),
      device_(index.device(device)),
      limits_(device_.limits),
      state_bytes_(device_.finished_bytes) {}

bool BatchBuilder::Fits(const Job& job) const {
  if (jobs_.empty()) return true;
  // Its model is being unloaded: those that run go on.
  if (job.state == JobState::kWaiting && !index_.IsLoaded(id_, index_.group(job.spec.group).model)) return false;
  if (job.spec.alone) return false;
  return size() < limits_.max_batch && state_bytes_ + job.spec.state_bytes <= limits_.state_bytes &&
         costs_.ActivationBytes(curve_, rows_ + job.spec.rows) + device_.decode_bytes <= device_.batch_bytes;
}

void BatchBuilder::Add(const Job& job) {
  curve_ = index_.group(job.spec.group).curve;
  jobs_.push_back(&job);
  rows_ += job.spec.rows;
  state_bytes_ += job.spec.state_bytes;
}

void BatchBuilder::Truncate(int size) {
  for (; this->size() > size; jobs_.pop_back()) {
    rows_ -= jobs_.back()->spec.rows;
    state_bytes_ -= jobs_.back()->spec.state_bytes;
  }
}

Decision BatchBuilder::ToDecision() const {
  Decision decision;
  for (const Job* job : jobs_) {
    decision.batch.push_back(job->id);
    if (job->state == JobState::kWaiting) decision.start.push_back(job->id);
  }
  return decision;
}

double BatchBuilder::SecondsAlone(const Job& job) const {
  return costs_.StepSeconds(index_.group(job.spec.group).curve, job.spec.rows);
}

double BatchBuilder::StepSeconds(int more) const {
  return rows_ + more == 0 ? 0 : costs_.StepSeconds(curve_, rows_ + more);
}

}  // namespace fresco
