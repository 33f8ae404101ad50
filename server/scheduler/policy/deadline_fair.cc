#include "server/scheduler/policy/deadline_fair.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <utility>

namespace fresco {
namespace {

// An image that does not fit or pay is passed over for ones that may: with less guidance, or in time. Not for long.
constexpr int kMaxPassedOver = 8;
// A step is filled up from so many other sizes that wait, at most: attention is computed size by size.
constexpr size_t kMostKin = 8;

// What an image of a class costs for each second that it is kept, against one of the batch class. Chosen by simulation:
// with 16, interactive images share a step only where many wait.
constexpr std::array<double, kPriorityClasses> kHoldingCosts = {16, 2, 1};
// Of the load that a price is computed from: near 1 the price would have no bound, though bursts end.
constexpr double kMaxLoad = 0.8;

// On what terms an image joins a batch.
struct Terms {
  double of_spare = 1;  // of the time that those before it can spare, if the rest of their steps took as long: so much
  double saved = 0;     // of a step by itself it saves so much; 0: whatever pays
};
constexpr Terms kOwnSize = {};
// Chosen by simulation. On the first terms, where other sizes abound, images of a megapixel share steps for a twentieth
// of their time, and spend on it what they had to spare when one more urgent comes.
constexpr Terms kOtherSizes = {0.5, 0.15};

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

// What is resident and what waits of some groups of one model, merged by rank; without what waits where the model is
// being unloaded.
class Candidates {
 public:
  Candidates(const QueueIndex& index, DeviceId device, const std::vector<Ranked>& residents,
             std::vector<GroupId> groups, absl::Time now)
      : index_(index), residents_(residents), groups_(std::move(groups)), now_(now) {
    waiting_.reserve(groups_.size());
    for (GroupId group : groups_) {
      if (!index.IsLoaded(device, index.group(group).model)) continue;
      waiting_.push_back({{index, group, device}, nullptr, {}});
      Advance(&waiting_.back());
    }
    SkipOtherGroups();
  }

  // Null: there are no more.
  const Job* Next() {
    Waiting* first = nullptr;
    for (Waiting& waiting : waiting_) {
      if (waiting.job != nullptr && (first == nullptr || waiting.rank < first->rank)) first = &waiting;
    }
    const Job* job = nullptr;
    if (next_ < residents_.size() && (first == nullptr || residents_[next_].rank < first->rank)) {
      job = residents_[next_++].job;
      SkipOtherGroups();
    } else if (first != nullptr) {
      job = first->job;
      Advance(first);
    }
    return job;
  }

 private:
  // Of one group.
  struct Waiting {
    QueueIndex::RankCursor cursor;
    const Job* job;  // the next; null: there are no more
    Rank rank;       // its
  };

  void Advance(Waiting* waiting) const {
    const JobId next = waiting->cursor.Next();
    waiting->job = next < 0 ? nullptr : &index_.job(next);
    if (next >= 0) waiting->rank = index_.RankOf(*waiting->job, now_);
  }

  void SkipOtherGroups() {
    const auto is_other = [&](const Ranked& resident) {
      return std::find(groups_.begin(), groups_.end(), resident.job->spec.group) == groups_.end();
    };
    while (next_ < residents_.size() && is_other(residents_[next_])) ++next_;
  }

  const QueueIndex& index_;
  const std::vector<Ranked>& residents_;
  const std::vector<GroupId> groups_;
  const absl::Time now_;
  std::vector<Waiting> waiting_;
  size_t next_ = 0;
};

// Of a group, on the device and waiting for it.
std::vector<GroupId> KinOf(const QueueIndex& index, DeviceId device, const std::vector<Ranked>& residents,
                           GroupId group) {
  std::vector<GroupId> kin = index.WaitingKin(group, device, kMostKin);
  for (const Ranked& resident : residents) {
    const GroupId other = resident.job->spec.group;
    if (index.AreKin(group, other) && std::find(kin.begin(), kin.end(), other) == kin.end()) kin.push_back(other);
  }
  return kin;
}

// Whether all in the batch that are in time by themselves still are if every step that is left takes `seconds`, and at
// most such a share of what they can spare is gone then.
bool KeepsInTime(const BatchBuilder& batch, double seconds, double of_spare, absl::Time now) {
  return std::all_of(batch.jobs().begin(), batch.jobs().end(), [&](const Job* job) {
    const absl::Duration spare = job->spec.due - now - absl::Seconds(job->seconds_left);
    const absl::Duration longer = absl::Seconds(job->steps_left * seconds - job->seconds_left);
    return spare < absl::ZeroDuration() || longer <= of_spare * spare;
  });
}

double HoldingCost(PriorityClass priority) {
  return kHoldingCosts[static_cast<int>(priority)];
}

// What it is worth that an image makes its step with the others rather than by itself: the time that is saved, at the
// device's price, less the time that the batch takes longer, at what those in it cost.
double Gain(const BatchBuilder& batch, double saved, double growth, double price) {
  double held = 0;
  for (const Job* member : batch.jobs()) held += HoldingCost(member->spec.priority);
  return saved * price - growth * held;
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

// Of the batches that each candidate in turn would make larger than it is, the best. One that does not pay may be
// followed by some that make up for it, as steps do not get longer evenly, and predictions are uneven.
void FillBatch(BatchBuilder* batch, Candidates candidates, const Terms& terms, Spread* spread, double price,
               absl::Time now) {
  int passed_over = 0;
  double gain = 0;  // over the best
  int best = batch->size();
  for (const Job* job = candidates.Next(); job != nullptr && passed_over < kMaxPassedOver; job = candidates.Next()) {
    if (!batch->empty()) {
      const double grown = batch->StepSecondsWith(*job);
      const double growth = grown - batch->StepSeconds();
      const double alone = batch->SecondsAlone(*job);
      const bool saves = terms.saved == 0 || alone - growth >= terms.saved * alone;
      if (!saves || batch->size() >= spread->Most(*job) || !batch->Fits(*job) ||
          !KeepsInTime(*batch, grown, terms.of_spare, now)) {
        ++passed_over;
        continue;
      }
      gain += Gain(*batch, alone - growth, growth, price);
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
  const GroupId group = lead.spec.group;
  const ModelId model = index.group(group).model;
  const double price = PriceOfDevice(index, model, residents.size(), now);
  Spread spread(index, device, residents, model);
  BatchBuilder batch(index, costs, device);
  FillBatch(&batch, Candidates(index, device, residents, {group}, now), kOwnSize, &spread, price, now);
  if (!lead.spec.alone && !batch.full()) {
    const std::vector<GroupId> kin = KinOf(index, device, residents, group);
    FillBatch(&batch, Candidates(index, device, residents, kin, now), kOtherSizes, &spread, price, now);
  }
  Decision decision = batch.ToDecision();
  PlaceOthers(index, device, residents, batch, &decision);
  return decision;
}

}  // namespace fresco
