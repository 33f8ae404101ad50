// What decisions read of the index: orders, sums and times. How it is kept up to date is queue_index.cc.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "server/scheduler/policy/queue_index.h"

namespace fresco {
namespace {

// Of max_wait. Before the first, most of what is late is in nobody's way; the second leaves time to start all that
// wait.
constexpr double kDueAgainAfter = 0.4;
constexpr double kAgedAfter = 0.65;
// An aged image that has started is placed as if it might wait for so many times its max_wait: behind those that have
// not, but where they came long after it. By itself a request may take longer than max_wait.
constexpr int kMaxWaitsOfStarted = 4;
// Of the firsts of a model's groups, for kin.
constexpr size_t kMostGroupsLookedAt = 32;

int Index(PriorityClass priority) {
  return static_cast<int>(priority);
}

int64_t Nanos(absl::Time time) {
  return absl::ToUnixNanos(time);
}

// What ranks go by, of steps: less with every step, so that an image that has begun goes before its equals. By the
// newest prediction it would, in a crowd that came when steps were thought to be a little faster, be late after its
// first step, and leave its place to those that wait and seem to have less to do: each would make one step in turn.
double RankSeconds(const Job& job) {
  return job.steps_left * job.first_step_seconds;
}

JobId TakeLast(std::vector<JobId>* jobs) {
  if (jobs->empty()) return -1;
  const JobId last = jobs->back();
  jobs->pop_back();
  return last;
}

}  // namespace

// When and in which order.

absl::Time QueueIndex::LateTime(const Job& job) const {
  return job.spec.due - absl::Seconds(RankSeconds(job) + job.first_stage_seconds);
}

absl::Time QueueIndex::AgedTime(const Job& job) const {
  return job.spec.received + kAgedAfter * options_.max_wait[Index(job.spec.priority)];
}

QueueIndex::Place QueueIndex::AgedPlaceOf(const Job& job) const {
  const bool started = job.steps_left < job.spec.steps;
  const absl::Time bound =
      job.spec.received + (started ? kMaxWaitsOfStarted : 1) * options_.max_wait[Index(job.spec.priority)];
  return {false, Nanos(bound), job.spec.sequence, job.spec.image_index, job.id};
}

absl::Time QueueIndex::DueAgainTime(const Job& job) const {
  return job.spec.received + kDueAgainAfter * options_.max_wait[Index(job.spec.priority)];
}

QueueIndex::Place QueueIndex::PlaceOf(const Job& job) const {
  return PlaceOf(job, job.late, job.due_again);
}

QueueIndex::Place QueueIndex::PlaceOf(const Job& job, bool late, bool due_again) const {
  const bool leaves_to_others = late && !due_again;
  const int64_t when = leaves_to_others ? static_cast<int64_t>(RankSeconds(job) * 1e9) : Nanos(job.spec.due);
  return {leaves_to_others, when, job.spec.sequence, job.spec.image_index, job.id};
}

Rank QueueIndex::RankOfLane(const Lane& lane, const Place& place) const {
  const bool beyond = shares_.beyond(lane.tenant);
  return {beyond ? 2 : 1,       beyond ? shares_.served(lane.tenant) : 0,
          place.late,           place.when,
          Index(lane.priority), place.sequence,
          place.image_index,    place.id};
}

Rank QueueIndex::RankOf(const Job& job, absl::Time now) const {
  const bool waits = job.state == JobState::kWaiting;
  if (waits ? job.aged : AgedTime(job) <= now) {
    return RankOfAged(job);
  }
  const bool late = waits ? job.late : LateTime(job) < now;
  const Place place = PlaceOf(job, late, waits ? job.due_again : DueAgainTime(job) <= now);
  const bool beyond = shares_.beyond(job.spec.tenant);
  return {beyond ? 2 : 1,
          beyond ? shares_.served(job.spec.tenant) : 0,
          place.late,
          place.when,
          Index(job.spec.priority),
          place.sequence,
          place.image_index,
          place.id};
}

Rank QueueIndex::RankOfAged(const Job& job) const {
  return {0, 0, false, AgedPlaceOf(job).when, 0, job.spec.sequence, job.spec.image_index, job.id};
}

std::vector<JobId> QueueIndex::Hopeless(DeviceId device, absl::Time now) const {
  std::vector<JobId> hopeless;
  for (auto it = drop_at_.begin(); it != drop_at_.end() && it->first < now; ++it) hopeless.push_back(it->second);
  for (JobId id : devices_[device].resident) {
    if (DropTime(*jobs_.at(id)) < now) hopeless.push_back(id);
  }
  return hopeless;
}

// Where.

bool QueueIndex::IsOfType(GroupId group, DeviceId device) const {
  const int type = groups_[group]->group.type;
  return type == kAnyType || type == devices_[device].limits.type;
}

int QueueIndex::IdleDevicesOfType(ModelId model, int type) const {
  int idle = 0;
  for (DeviceId device = 0; device < devices(); ++device) {
    if (devices_[device].idle && devices_[device].limits.type == type && IsLoaded(device, model)) ++idle;
  }
  return idle;
}

int QueueIndex::TypeFor(const Job& job) const {
  const bool bound = job.state == JobState::kResident && job.spec.one_type;
  return bound ? devices_[job.device].limits.type : groups_[job.spec.group]->group.type;
}

int QueueIndex::FreeDevices(ModelId model, int type, DeviceId without) const {
  const Device& own = devices_[without];
  const bool counted = own.idle && IsLoaded(without, model) && (type == kAnyType || type == own.limits.type);
  return (type == kAnyType ? idle_devices(model) : IdleDevicesOfType(model, type)) - (counted ? 1 : 0);
}

bool QueueIndex::IsTooLarge(DeviceId device, CurveId curve, int rows, absl::Time now) const {
  const std::vector<TooLarge>& known = devices_[device].too_large;
  return std::any_of(known.begin(), known.end(), [&](const TooLarge& step) {
    const bool needs_no_less =
        step.larger_too ? costs_->NeedsNoLess(curve, rows, step.curve, step.rows) : curve == step.curve;
    return now < step.until && needs_no_less;
  });
}

// What is first.

template <typename Filter, typename Before>
JobId QueueIndex::FirstBegun(ModelId model, Filter filter, Before before) const {
  JobId first = -1;
  for (JobId id : models_[model].begun) {
    if (filter(job(id)) && (first < 0 || before(job(id), job(first)))) first = id;
  }
  return first;
}

bool QueueIndex::RanksBefore(const Job& a, const Job& b) const {
  return RankOf(a, absl::InfinitePast()) < RankOf(b, absl::InfinitePast());  // what waits is as it was last advanced
}

bool QueueIndex::CameBefore(const Job& a, const Job& b) {
  const auto order = [](const Job& job) { return std::tuple(job.spec.sequence, job.spec.image_index, job.id); };
  return order(a) < order(b);
}

std::vector<JobId> QueueIndex::BegunOf(GroupId group) const {
  std::vector<JobId> begun;
  for (JobId id : models_[groups_[group]->group.model].begun) {
    if (job(id).spec.group == group) begun.push_back(id);
  }
  return begun;
}

JobId QueueIndex::FirstByRank(ModelId model, DeviceId device) const {
  if (devices_[device].begun_only) {
    return FirstBegun(
        model, [&](const Job& job) { return IsOfType(job.spec.group, device); },
        [&](const Job& a, const Job& b) { return RanksBefore(a, b); });
  }
  for (const Rank& first : models_[model].firsts_by_rank) {
    if (IsOfType(job(first.id).spec.group, device)) return first.id;
  }
  return -1;
}

JobId QueueIndex::FirstByArrival(ModelId model, DeviceId device, GroupId without) const {
  if (devices_[device].begun_only) {
    const auto may_start = [&](const Job& job) {
      return job.spec.group != without && IsOfType(job.spec.group, device);
    };
    return FirstBegun(model, may_start, CameBefore);
  }
  for (const ByArrival& first : models_[model].firsts_by_arrival) {
    const GroupId group = job(first.id).spec.group;
    if (group != without && IsOfType(group, device)) return first.id;
  }
  return -1;
}

bool QueueIndex::AreKin(GroupId a, GroupId b) const {
  const Group& one = groups_[a]->group;
  const Group& other = groups_[b]->group;
  return one.curve != other.curve && one.model == other.model && one.type == other.type &&
         one.batch_key == other.batch_key;
}

std::vector<GroupId> QueueIndex::WaitingKin(GroupId group, DeviceId device, size_t most) const {
  std::vector<GroupId> kin;
  if (!IsOfType(group, device)) return kin;
  const auto add = [&](JobId id) {
    const GroupId other = job(id).spec.group;
    if (AreKin(group, other) && std::find(kin.begin(), kin.end(), other) == kin.end()) kin.push_back(other);
  };
  const ModelState& model = models_[groups_[group]->group.model];
  if (devices_[device].begun_only) {
    for (auto it = model.begun.begin(); it != model.begun.end() && kin.size() < most; ++it) add(*it);
    return kin;
  }
  size_t looked_at = 0;
  for (auto it = model.firsts_by_rank.begin(); it != model.firsts_by_rank.end() && kin.size() < most; ++it) {
    if (++looked_at > kMostGroupsLookedAt) break;
    add(it->id);
  }
  return kin;
}

void QueueIndex::AddRows(const Job& job, StepSize* size) const {
  const Group& group = groups_[job.spec.group]->group;
  size->Add(group.curve, group.tokens, job.spec.rows);
}

// How much.

double QueueIndex::CompetingShare(ModelId of, ModelId model) const {
  if (of == model) return 1;
  const ModelState& other = models_[of];
  const int shared = model < static_cast<ModelId>(other.shared.size()) ? other.shared[model] : 0;
  return shared == 0 ? 0 : static_cast<double>(shared) / other.devices;
}

template <typename Work>
double QueueIndex::SumCompeting(ModelId model, Work work) const {
  double sum = 0;
  for (ModelId other = 0; other < static_cast<ModelId>(models_.size()); ++other) {
    if (const double share = CompetingShare(other, model); share > 0) sum += share * work(models_[other]);
  }
  return sum;
}

double QueueIndex::ClassState::ArrivingAt(absl::Time now) const {
  return arriving * std::exp(-absl::ToDoubleSeconds(now - arriving_at) / kArrivalMemory);
}

WaitingWork QueueIndex::waiting_work(ModelId model, PriorityClass priority) const {
  const auto waiting = [&](const ModelState& state) -> const WaitingWork& {
    return state.classes[Index(priority)].waiting;
  };
  return {SumCompeting(model, [&](const ModelState& state) { return waiting(state).jobs; }),
          SumCompeting(model, [&](const ModelState& state) { return waiting(state).seconds; })};
}

WaitingWork QueueIndex::waiting_work(ModelId model, TenantId tenant, PriorityClass priority) const {
  WaitingWork sum;
  if (tenant >= static_cast<TenantId>(tenants_.size())) return sum;
  for (const auto& [other, waiting] : tenants_[tenant].waiting) {
    const double share = CompetingShare(other, model);
    sum.jobs += share * waiting[Index(priority)].jobs;
    sum.seconds += share * waiting[Index(priority)].seconds;
  }
  return sum;
}

double QueueIndex::WorkDue(ModelId model, PriorityClass priority, absl::Time from, absl::Time to) const {
  return SumCompeting(model, [&](const ModelState& state) {
    const std::map<int64_t, double>& seconds = state.classes[Index(priority)].due_seconds;
    double sum = 0;
    for (auto it = seconds.lower_bound(DueSecond(from)); it != seconds.end() && it->first < DueSecond(to); ++it) {
      sum += it->second;
    }
    return sum;
  });
}

double QueueIndex::resident_work(ModelId model, PriorityClass priority) const {
  return SumCompeting(model, [&](const ModelState& state) { return state.classes[Index(priority)].resident.seconds; });
}

double QueueIndex::ArrivingWork(ModelId model, PriorityClass priority, absl::Time now) const {
  return SumCompeting(model, [&](const ModelState& state) {
    const ClassState& of_class = state.classes[Index(priority)];
    return of_class.ArrivingAt(now);
  });
}

// One after another.

QueueIndex::RankCursor::RankCursor(const QueueIndex& index, GroupId group, DeviceId device)
    : group_(*index.groups_[group]),
      begun_only_(index.devices_[device].begun_only),
      aged_(group_.aged.begin()),
      next_lane_(group_.lanes.begin()) {
  if (!begun_only_) return;
  begun_ = index.BegunOf(group);
  std::sort(begun_.begin(), begun_.end(),
            [&](JobId a, JobId b) { return index.RanksBefore(index.job(b), index.job(a)); });
}

JobId QueueIndex::RankCursor::Next() {
  if (begun_only_) return TakeLast(&begun_);
  if (aged_ != group_.aged.end()) return (aged_++)->id;
  // A lane that is not open has nothing before its first image.
  while (next_lane_ != group_.lanes.end() && (open_.empty() || next_lane_->first < open_.front().rank)) {
    Push(next_lane_->second, next_lane_->second->places.begin());
    ++next_lane_;
  }
  if (open_.empty()) return -1;
  std::pop_heap(open_.begin(), open_.end(), After);
  const Open first = open_.back();
  open_.pop_back();
  if (const auto after = std::next(first.place); after != first.lane->places.end()) Push(first.lane, after);
  return first.place->id;
}

void QueueIndex::RankCursor::Push(const Lane* lane, std::set<Place>::const_iterator place) {
  Rank rank = lane->listed;
  rank.late = place->late;
  rank.when = place->when;
  rank.sequence = place->sequence;
  rank.image_index = place->image_index;
  rank.id = place->id;
  open_.push_back({rank, lane, place});
  std::push_heap(open_.begin(), open_.end(), After);
}

QueueIndex::ArrivalCursor::ArrivalCursor(const QueueIndex& index, GroupId group, DeviceId device)
    : begun_only_(index.devices_[device].begun_only),
      next_(index.groups_[group]->arrivals.begin()),
      end_(index.groups_[group]->arrivals.end()) {
  if (!begun_only_) return;
  begun_ = index.BegunOf(group);
  std::sort(begun_.begin(), begun_.end(), [&](JobId a, JobId b) { return CameBefore(index.job(b), index.job(a)); });
}

JobId QueueIndex::ArrivalCursor::Next() {
  if (begun_only_) return TakeLast(&begun_);
  return next_ == end_ ? -1 : (next_++)->id;
}

}  // namespace fresco
