#include "server/scheduler/policy/deadline_fair.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <optional>

namespace fresco {
namespace {

// An image that does not fit or pay is passed over for ones that may: with less guidance, or in time. Not for long.
constexpr int kMaxPassedOver = 8;

// What an image of a class costs for each second that it is kept, against one of the batch class. Chosen by simulation:
// with 16, interactive images share a step only where many wait.
constexpr std::array<double, kPriorityClasses> kHoldingCosts = {16, 2, 1};
// Of the load that a price is computed from: near 1 the price would have no bound, though bursts end.
constexpr double kMaxLoad = 0.8;

struct Ranked {
  Rank rank;
  const Job* job;
};

std::vector<Ranked> RankResidents(const QueueIndex& index, DeviceId device, absl::Time now) {
  std::vector<Ranked> residents;
  for (JobId id : index.device(device).resident) {
    residents.push_back({index.RankOf(index.job(id), now), &index.job(id)});
  }
  std::sort(residents.begin(), residents.end(), [](const Ranked& a, const Ranked& b) { return a.rank < b.rank; });
  return residents;
}

// What is resident and what waits of one group, merged by rank; without what waits where its model is being unloaded.
class Candidates {
 public:
  Candidates(const QueueIndex& index, DeviceId device, const std::vector<Ranked>& residents, GroupId group,
             absl::Time now)
      : index_(index),
        residents_(residents),
        group_(group),
        now_(now),
        cursor_(index, group, device),
        waiting_(index.IsLoaded(device, index.group(group).model) ? cursor_.Next() : -1) {
    SkipOtherGroups();
  }

  // Null: there are no more.
  const Job* Next() {
    const bool has_resident = next_ < residents_.size();
    if (!has_resident && waiting_ < 0) return nullptr;
    if (has_resident && (waiting_ < 0 || residents_[next_].rank < index_.RankOf(index_.job(waiting_), now_))) {
      const Job* job = residents_[next_++].job;
      SkipOtherGroups();
      return job;
    }
    const Job* job = &index_.job(waiting_);
    waiting_ = cursor_.Next();
    return job;
  }

 private:
  void SkipOtherGroups() {
    while (next_ < residents_.size() && residents_[next_].job->spec.group != group_) ++next_;
  }

  const QueueIndex& index_;
  const std::vector<Ranked>& residents_;
  const GroupId group_;
  const absl::Time now_;
  QueueIndex::RankCursor cursor_;
  JobId waiting_;
  size_t next_ = 0;
};

// Whether all in the batch that are in time by themselves still are if every step that is left takes `seconds`.
bool KeepsInTime(const BatchBuilder& batch, double seconds, absl::Time now) {
  return std::all_of(batch.jobs().begin(), batch.jobs().end(), [&](const Job* job) {
    const bool late_anyway = now + absl::Seconds(job->seconds_left) > job->spec.due;
    return late_anyway || now + absl::Seconds(job->steps_left * seconds) <= job->spec.due;
  });
}

double HoldingCost(PriorityClass priority) {
  return kHoldingCosts[static_cast<int>(priority)];
}

// What it is worth that `job` makes its step with the others rather than by itself: the time that is saved, at the
// device's price, less the time that the batch takes longer, at what those in it cost.
double Gain(const BatchBuilder& batch, const Job& job, double grown, double price) {
  const double growth = grown - batch.StepSeconds();
  double held = 0;
  for (const Job* member : batch.jobs()) held += HoldingCost(member->spec.priority);
  return (batch.SecondsAlone(job) - growth) * price - growth * held;
}

// What a second of the device is worth: the holding costs of all that wait for it or others with the model, and of
// those that will come before it is free again. A busy period that has work W to do and load r lasts W / (1 - r).
// Residents count for one each: at their classes' costs interactive images would share so many steps that their p99 at
// 0.9 of capacity is 0.61 of fifo's instead of 0.46 (simulation).
double PriceOfDevice(const QueueIndex& index, ModelId model, size_t residents, absl::Time now) {
  double waiting = 0;
  double arriving = 0;
  for (int i = 0; i < kPriorityClasses; ++i) {
    const auto priority = static_cast<PriorityClass>(i);
    waiting += HoldingCost(priority) * index.waiting_work(model, priority).jobs;
    arriving += index.ArrivingWork(model, priority, now);
  }
  const double load = std::min(kMaxLoad, arriving / std::max(1, index.devices(model)));
  return (waiting / std::max(1, index.devices(model)) + static_cast<double>(residents)) / (1 - load);
}

// While other devices are free, sharing steps saves time that nobody wants: images spread over them, and share steps
// only as far as there are more of them than devices.
class Spread {
 public:
  Spread(const QueueIndex& index, DeviceId device, const std::vector<Ranked>& residents, ModelId model)
      : index_(index), device_(device), images_(index.waiting(model)) {
    for (const Ranked& resident : residents) {
      images_ += index.group(resident.job->spec.group).model == model ? 1 : 0;
    }
  }

  // Images in a batch that `job` may be one of.
  int Most(const Job& job) {
    const int type = index_.TypeFor(job);
    std::optional<int>& free = type == QueueIndex::kAnyType ? free_ : free_of_type_;
    if (!free) free = index_.FreeDevices(index_.group(job.spec.group).model, type, device_);
    return (images_ + *free) / (1 + *free);
  }

 private:
  const QueueIndex& index_;
  const DeviceId device_;
  int images_;                              // of the model, that this device or a free one may advance
  std::optional<int> free_, free_of_type_;  // devices: any, and those of this one's type
};

// The best of the batches that each candidate in turn would make larger. One that does not pay may be followed by some
// that make up for it, as steps do not get longer evenly, and predictions are uneven.
void FillBatch(BatchBuilder* batch, Candidates* candidates, Spread* spread, double price, absl::Time now) {
  int passed_over = 0;
  double gain = 0;  // over the best
  int best = 0;
  for (const Job* job = candidates->Next(); job != nullptr && passed_over < kMaxPassedOver; job = candidates->Next()) {
    if (!batch->empty()) {
      const double grown = batch->StepSeconds(job->spec.rows);
      if (batch->size() >= spread->Most(*job) || !batch->Fits(*job) || !KeepsInTime(*batch, grown, now)) {
        ++passed_over;
        continue;
      }
      gain += Gain(*batch, *job, grown, price);
    }
    batch->Add(*job);
    if (gain >= 0) {
      gain = 0;
      best = batch->size();
    }
  }
  batch->Truncate(best);
}

// Whoever is resident and not in the batch stays, in the order of rank, as far as there is room.
void PlaceOthers(const QueueIndex& index, DeviceId device, const std::vector<Ranked>& residents,
                 const BatchBuilder& batch, Decision* decision) {
  const DeviceLimits& limits = index.device(device).limits;
  int count = batch.size() + index.device(device).finished;
  int64_t bytes = index.device(device).finished_bytes;
  std::map<ModelId, int> leaving;  // for a free device each
  for (const Job* job : batch.jobs()) bytes += job->spec.state_bytes;
  for (const Ranked& resident : residents) {
    if (std::find(batch.jobs().begin(), batch.jobs().end(), resident.job) != batch.jobs().end()) continue;
    const ModelId model = index.group(resident.job->spec.group).model;
    // This device is none of the free ones, whatever it was before.
    const int free = index.FreeDevices(model, index.TypeFor(*resident.job), device) - leaving[model];
    const int64_t with_it = bytes + resident.job->spec.state_bytes;
    if (free > 0 || with_it > limits.state_bytes || count >= limits.max_resident) {
      decision->preempt.push_back(resident.job->id);
      ++leaving[model];
    } else {
      bytes = with_it;
      ++count;
    }
  }
}

}  // namespace

Decision DeadlineFairPolicy::Decide(const QueueIndex& index, const CostModel& costs, DeviceId device,
                                    absl::Time now) const {
  const std::vector<Ranked> residents = RankResidents(index, device, now);
  const JobId waiting = FirstOfModels(
      index, device, [&](ModelId model) { return index.FirstByRank(model, device); },
      [&](const Job& a, const Job& b) { return index.RankOf(a, now) < index.RankOf(b, now); });
  if (waiting < 0 && residents.empty()) return {};
  const bool resident_leads =
      waiting < 0 || (!residents.empty() && residents.front().rank < index.RankOf(index.job(waiting), now));
  const Job& lead = resident_leads ? *residents.front().job : index.job(waiting);
  BatchBuilder batch(index, costs, device);
  Candidates candidates(index, device, residents, lead.spec.group, now);
  const ModelId model = index.group(lead.spec.group).model;
  Spread spread(index, device, residents, model);
  FillBatch(&batch, &candidates, &spread, PriceOfDevice(index, model, residents.size(), now), now);
  Decision decision = batch.ToDecision();
  PlaceOthers(index, device, residents, batch, &decision);
  return decision;
}

}  // namespace fresco
