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
  if (job.spec.alone || jobs_.front()->spec.alone) return false;
  return !full() && state_bytes_ + job.spec.state_bytes <= limits_.state_bytes &&
         costs_.ActivationBytes(RowsWith(job)) + device_.decode_bytes <= device_.batch_bytes;
}

StepSize BatchBuilder::RowsWith(const Job& job) const {
  StepSize rows = rows_;
  index_.AddRows(job, &rows);
  return rows;
}

void BatchBuilder::Add(const Job& job) {
  jobs_.push_back(&job);
  index_.AddRows(job, &rows_);
  state_bytes_ += job.spec.state_bytes;
}

void BatchBuilder::Truncate(int size) {
  for (; this->size() > size; jobs_.pop_back()) state_bytes_ -= jobs_.back()->spec.state_bytes;
  rows_ = {};
  for (const Job* job : jobs_) index_.AddRows(*job, &rows_);
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

}  // namespace fresco
