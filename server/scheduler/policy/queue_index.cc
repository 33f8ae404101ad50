#include "server/scheduler/policy/queue_index.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

// Arrivals are averaged over about so long.
constexpr double kArrivalMemory = 30;  // seconds
// Of max_wait. Before the first, most of what is late is in nobody's way; the second leaves time to start all that
// wait.
constexpr double kDueAgainAfter = 0.4;
constexpr double kAgedAfter = 0.65;
// An aged image that has started is placed as if it might wait for so many times its max_wait: behind those that have
// not, but where they came long after it. By itself a request may take longer than max_wait.
constexpr int kMaxWaitsOfStarted = 4;
// Of what did not fit; and in about so many steps times the share that is missing it is tried again: some 600.
constexpr double kLeftOfBatchMemory = 0.95;
constexpr int64_t kStepsToTryAgain = 12000;
// Tenants are looked through for those to forget when so many more than the last time's double are known.
constexpr int kTenantsPerSweep = 1024;

int64_t Nanos(absl::Time time) {
  return absl::ToUnixNanos(time);
}

int64_t DueSecond(absl::Time due) {
  return absl::ToUnixSeconds(due);
}

int Index(PriorityClass priority) {
  return static_cast<int>(priority);
}

void Count(WaitingWork* work, int sign, double seconds) {
  work->jobs += sign;
  // Exactly nothing where nothing is left, whatever was rounded on the way.
  work->seconds = work->jobs == 0 ? 0 : std::max(0.0, work->seconds + sign * seconds);
}

template <typename Table, typename Make>
int TakeNumber(std::vector<int>* free, Table* table, Make make) {
  if (free->empty()) {
    table->push_back(make());
    return static_cast<int>(table->size()) - 1;
  }
  const int number = free->back();
  free->pop_back();
  (*table)[number] = make();
  return number;
}

// What is left of an average of work a second after so long.
double ArrivingOf(double arriving, absl::Duration since) {
  return arriving * std::exp(-absl::ToDoubleSeconds(since) / kArrivalMemory);
}

// Of a device that has it alone.
double AllSeconds(const Job& job) {
  return job.seconds_left + job.stage_seconds;
}

// What ranks go by, of steps: less with every step, so that an image that has begun goes before its equals. By the
// newest prediction it would, in a crowd that came when steps were thought to be a little faster, be late after its
// first step, and leave its place to those that wait and seem to have less to do: each would make one step in turn.
double RankSeconds(const Job& job) {
  return job.steps_left * job.first_step_seconds;
}

}  // namespace

QueueIndex::QueueIndex(const IndexOptions& options, CostModel* costs)
    : options_(options), costs_(costs), tenants_to_sweep_at_(kTenantsPerSweep) {}

ModelId QueueIndex::Model(std::string_view name) {
  for (size_t i = 0; i < models_.size(); ++i) {
    if (models_[i].name == name) return static_cast<ModelId>(i);
  }
  models_.emplace_back().name = std::string(name);
  return static_cast<ModelId>(models_.size()) - 1;
}

GroupId QueueIndex::GroupOf(ModelId model, std::string_view batch_key, int tokens) {
  return FindGroup({std::string(batch_key), model, costs_->Curve(models_[model].name, tokens), kAnyType, 0});
}

GroupId QueueIndex::FindGroup(const Group& like) {
  const auto [entry, is_new] = group_ids_.try_emplace({like.model, like.batch_key, like.type}, -1);
  if (!is_new) return entry->second;
  entry->second = TakeNumber(&free_groups_, &groups_, [] { return std::make_unique<GroupState>(); });
  groups_[entry->second]->group = {like.batch_key, like.model, like.curve, like.type, 0};
  return entry->second;
}

void QueueIndex::MoveToType(Job* job, int type) {
  const GroupId old = job->spec.group;
  Group group = groups_[old]->group;
  if (group.type == type) return;
  group.type = type;
  job->spec.group = FindGroup(group);
  ++groups_[job->spec.group]->group.jobs;
  --groups_[old]->group.jobs;
  EraseGroupIfEmpty(old);
}

void QueueIndex::EraseGroupIfEmpty(GroupId group) {
  const Group& known = groups_[group]->group;
  if (known.jobs > 0) return;
  group_ids_.erase({known.model, known.batch_key, known.type});
  free_groups_.push_back(group);
}

DeviceId QueueIndex::AddDevice(const DeviceLimits& limits) {
  Device& device = devices_.emplace_back();
  device.limits = limits;
  device.batch_bytes = limits.activation_bytes;
  CountDevices(1);
  return devices() - 1;
}

void QueueIndex::CountDevices(int change) {
  live_devices_ += change;
  shares_.SetAllowance(absl::ToDoubleSeconds(options_.fairness_window) * std::max(1, live_devices_));
  RelistChangedTenants();
}

void QueueIndex::RemoveDevice(DeviceId device) {
  Device& own = devices_[device];
  if (own.lost) return;
  own.lost = true;
  for (size_t model = 0; model < own.models.size(); ++model) SetLoaded(device, static_cast<ModelId>(model), false);
  CountDevices(-1);
}

void QueueIndex::SetLoaded(DeviceId device, ModelId model, bool loaded) {
  Device& own = devices_[device];
  if (IsLoaded(device, model) == loaded) return;
  if (static_cast<int>(own.models.size()) <= model) own.models.resize(model + 1);
  for (size_t other = 0; other < own.models.size(); ++other) {
    if (own.models[other]) CountShared(model, static_cast<ModelId>(other), loaded ? 1 : -1);
  }
  own.models[model] = loaded;
  models_[model].devices += loaded ? 1 : -1;
  if (own.idle) models_[model].idle_devices += loaded ? 1 : -1;
}

void QueueIndex::CountShared(ModelId a, ModelId b, int change) {
  if (a == b) return;
  for (const auto& [of, with] : {std::pair(a, b), std::pair(b, a)}) {
    std::vector<int>& shared = models_[of].shared;
    if (static_cast<ModelId>(shared.size()) <= with) shared.resize(with + 1);
    shared[with] += change;
  }
}

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

bool QueueIndex::IsLoaded(DeviceId device, ModelId model) const {
  const std::vector<bool>& models = devices_[device].models;
  return model < static_cast<ModelId>(models.size()) && models[model];
}

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

void QueueIndex::SetIdle(DeviceId device, bool idle) {
  Device& own = devices_[device];
  if (own.idle == idle) return;
  own.idle = idle;
  for (size_t model = 0; model < own.models.size(); ++model) {
    if (own.models[model]) models_[model].idle_devices += idle ? 1 : -1;
  }
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

void QueueIndex::SetBatch(DeviceId device, const std::vector<JobId>& batch, bool decodes) {
  SetIdle(device, batch.empty() && !decodes && !devices_[device].begun_only);
  for (JobId id : devices_[device].resident) {
    SetPaused(jobs_.at(id).get(), std::find(batch.begin(), batch.end(), id) == batch.end());
  }
}

void QueueIndex::LowerBatchMemory(DeviceId device, int64_t bytes) {
  if (bytes <= 0) return;
  int64_t& bound = devices_[device].batch_bytes;
  bound = std::min(bound, static_cast<int64_t>(kLeftOfBatchMemory * static_cast<double>(bytes)));
}

void QueueIndex::RaiseBatchMemory(DeviceId device) {
  Device& own = devices_[device];
  own.batch_bytes = std::min(own.limits.activation_bytes, own.batch_bytes + own.batch_bytes / kStepsToTryAgain + 1);
}

// The latents' budget is kept free beside a batch, but for where it is most of what there is: it is a bound of what
// they come to, and they come to little.
void QueueIndex::SetMemory(DeviceId device, int64_t bytes) {
  Device& own = devices_[device];
  const bool more = bytes > own.limits.memory_bytes;
  own.limits.memory_bytes = bytes;
  own.limits.activation_bytes =
      bytes >= kNoMemoryLimit ? kNoMemoryLimit : std::max(bytes - own.limits.state_bytes, bytes / 2);
  own.batch_bytes = more ? own.limits.activation_bytes : std::min(own.batch_bytes, own.limits.activation_bytes);
  if (more) own.too_large.clear();
}

void QueueIndex::AddTooLarge(DeviceId device, const TooLarge& step, absl::Time now) {
  std::vector<TooLarge>& known = devices_[device].too_large;
  std::erase_if(known, [&](const TooLarge& other) {
    return other.until <= now || (other.curve == step.curve && other.rows >= step.rows);
  });
  known.push_back(step);
}

bool QueueIndex::IsTooLarge(DeviceId device, CurveId curve, int rows, absl::Time now) const {
  const std::vector<TooLarge>& known = devices_[device].too_large;
  return std::any_of(known.begin(), known.end(), [&](const TooLarge& step) {
    const bool needs_no_less =
        step.larger_too ? costs_->NeedsNoLess(curve, rows, step.curve, step.rows) : curve == step.curve;
    return now < step.until && needs_no_less;
  });
}

void QueueIndex::SetPaused(Job* job, bool paused) {
  if (job->paused == paused) return;
  job->paused = paused;
  TenantOf(*job).paused += paused ? 1 : -1;
  UpdateBacklog(job->spec.tenant);
}

JobId QueueIndex::Add(const JobSpec& spec, absl::Time now) {
  auto job = std::make_unique<Job>();
  job->id = next_job_++;
  job->spec = spec;
  job->steps_left = spec.steps;
  ++groups_[spec.group]->group.jobs;
  if (TenantOf(*job).jobs++ == 0) shares_.Join(spec.tenant);
  Predict(job.get());
  job->first_step_seconds = job->seconds_left / spec.steps;
  job->first_stage_seconds = job->stage_seconds;
  InsertWaiting(job.get(), now);
  ClassState& of_class = ClassOf(*job);
  of_class.arriving = ArrivingOf(of_class.arriving, now - of_class.arriving_at) + AllSeconds(*job) / kArrivalMemory;
  of_class.arriving_at = now;
  const JobId id = job->id;
  jobs_.emplace(id, std::move(job));
  return id;
}

void QueueIndex::Remove(JobId id) {
  const auto found = jobs_.find(id);
  Job* job = found->second.get();
  if (job->state == JobState::kWaiting) EraseWaiting(job);
  if (job->state == JobState::kResident) Leave(job);
  --TenantOf(*job).jobs;
  const GroupId group = job->spec.group;
  --groups_[group]->group.jobs;
  jobs_.erase(found);
  EraseGroupIfEmpty(group);
}

void QueueIndex::SetDeadline(JobId id, absl::Time deadline) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Job* job = found->second.get();
  const bool waits = job->state == JobState::kWaiting;
  if (waits) drop_at_.erase({DropTime(*job), id});
  job->spec.deadline = deadline;
  if (waits && DropTime(*job) < absl::InfiniteFuture()) drop_at_.emplace(DropTime(*job), id);
}

void QueueIndex::Start(JobId id, DeviceId device) {
  Job* job = jobs_.at(id).get();
  EraseWaiting(job);
  MoveToType(job, kAnyType);  // where it is it may share the steps of all that are there
  job->state = JobState::kResident;
  job->begun = true;
  job->device = device;
  devices_[device].resident.push_back(id);
  devices_[device].state_bytes += job->spec.state_bytes;
  CountResident(*job, 1);
}

void QueueIndex::Preempt(JobId id) {
  Job* job = jobs_.at(id).get();
  Leave(job);
  job->state = JobState::kMoving;
}

void QueueIndex::Leave(Job* job) {
  Device& device = devices_[job->device];
  std::erase(device.resident, job->id);
  device.state_bytes -= job->spec.state_bytes;
  SetPaused(job, false);
  CountResident(*job, -1);
}

void QueueIndex::Parked(JobId id, absl::Time now) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second->state != JobState::kMoving) return;
  Job* job = found->second.get();
  job->state = JobState::kWaiting;
  const bool begun = job->steps_left < job->spec.steps && job->device >= 0;
  MoveToType(job, job->spec.one_type && begun ? devices_[job->device].limits.type : kAnyType);
  job->device = -1;
  InsertWaiting(job, now);
}

void QueueIndex::Displace(JobId id, int steps_left, absl::Time now) {
  Job* job = jobs_.at(id).get();
  if (job->state == JobState::kWaiting) EraseWaiting(job);
  if (job->state == JobState::kResident) Leave(job);
  job->steps_left = std::clamp(steps_left, 1, job->spec.steps);
  job->state = JobState::kMoving;
  Parked(id, now);
}

void QueueIndex::Advanced(JobId id) {
  Job* job = jobs_.at(id).get();
  CountResident(*job, -1);
  --job->steps_left;
  Predict(job);
  CountResident(*job, 1);
}

void QueueIndex::SetFinished(DeviceId device, int images, int64_t state_bytes) {
  devices_[device].finished = images;
  devices_[device].finished_bytes = state_bytes;
}

void QueueIndex::SetDecoding(DeviceId device, int64_t activation_bytes) {
  devices_[device].decode_bytes = activation_bytes;
}

void QueueIndex::Charge(TenantId tenant, double device_seconds) {
  shares_.Charge(tenant, device_seconds);
  RelistChangedTenants();
}

void QueueIndex::AdvanceTo(absl::Time now) {
  while (!late_at_.empty() && late_at_.begin()->first < now) {
    Job* job = jobs_.at(late_at_.begin()->second).get();
    late_at_.erase(late_at_.begin());
    if (!job->aged) EraseFromLane(job);
    job->late = true;
    if (!job->aged) {
      due_again_at_.emplace(DueAgainTime(*job), job->id);
      InsertInLane(job);
    }
    RelistFirst(job->spec.group);
  }
  while (!due_again_at_.empty() && due_again_at_.begin()->first <= now) {
    Job* job = jobs_.at(due_again_at_.begin()->second).get();
    due_again_at_.erase(due_again_at_.begin());
    EraseFromLane(job);
    job->due_again = true;
    InsertInLane(job);
    RelistFirst(job->spec.group);
  }
  while (!aged_at_.empty() && aged_at_.begin()->first <= now) {
    Job* job = jobs_.at(aged_at_.begin()->second).get();
    aged_at_.erase(aged_at_.begin());
    due_again_at_.erase({DueAgainTime(*job), job->id});
    EraseFromLane(job);
    job->aged = true;
    groups_[job->spec.group]->aged.insert(AgedPlaceOf(*job));
    RelistFirst(job->spec.group);
  }
}

std::vector<JobId> QueueIndex::Hopeless(DeviceId device, absl::Time now) const {
  std::vector<JobId> hopeless;
  for (auto it = drop_at_.begin(); it != drop_at_.end() && it->first < now; ++it) hopeless.push_back(it->second);
  for (JobId id : devices_[device].resident) {
    if (DropTime(*jobs_.at(id)) < now) hopeless.push_back(id);
  }
  return hopeless;
}

// Waiting.

void QueueIndex::InsertWaiting(Job* job, absl::Time now) {
  Predict(job);
  job->late = LateTime(*job) < now;
  job->due_again = job->late && DueAgainTime(*job) <= now;
  job->aged = AgedTime(*job) <= now;
  CountWaiting(*job, 1);
  GroupState& group = *groups_[job->spec.group];
  const ByArrival arrival{job->spec.sequence, job->spec.image_index, job->id};
  group.arrivals.insert(arrival);
  waiting_groups_.insert(job->spec.group);
  if (job->steps_left < job->spec.steps) models_[group.group.model].begun.insert(job->id);
  if (!job->late) late_at_.emplace(LateTime(*job), job->id);
  if (DropTime(*job) < absl::InfiniteFuture()) drop_at_.emplace(DropTime(*job), job->id);
  if (job->aged) {
    group.aged.insert(AgedPlaceOf(*job));
  } else {
    aged_at_.emplace(AgedTime(*job), job->id);
    if (job->late && !job->due_again) due_again_at_.emplace(DueAgainTime(*job), job->id);
    InsertInLane(job);
  }
  RelistFirst(job->spec.group);
}

void QueueIndex::EraseWaiting(Job* job) {
  CountWaiting(*job, -1);
  GroupState& group = *groups_[job->spec.group];
  const ByArrival arrival{job->spec.sequence, job->spec.image_index, job->id};
  group.arrivals.erase(arrival);
  if (group.arrivals.empty()) waiting_groups_.erase(job->spec.group);
  models_[group.group.model].begun.erase(job->id);
  if (!job->late) late_at_.erase({LateTime(*job), job->id});
  drop_at_.erase({DropTime(*job), job->id});
  if (job->aged) {
    group.aged.erase(AgedPlaceOf(*job));
  } else {
    aged_at_.erase({AgedTime(*job), job->id});
    due_again_at_.erase({DueAgainTime(*job), job->id});
    EraseFromLane(job);
  }
  RelistFirst(job->spec.group);
}

void QueueIndex::CountWaiting(const Job& job, int sign) {
  models_[groups_[job.spec.group]->group.model].waiting += sign;
  waiting_total_ += sign;
  ClassState& of_class = ClassOf(job);
  Count(&of_class.waiting, sign, AllSeconds(job));
  std::map<int64_t, double>& due = of_class.due_seconds;
  const auto second = due.try_emplace(DueSecond(job.spec.due), 0).first;
  second->second += sign * AllSeconds(job);
  if (second->second <= 1e-9) due.erase(second);
  CountWaitingOfTenant(job, sign);
  UpdateBacklog(job.spec.tenant);
}

void QueueIndex::CountWaitingOfTenant(const Job& job, int sign) {
  auto& waiting = TenantOf(job).waiting;
  const auto model = waiting.try_emplace(groups_[job.spec.group]->group.model).first;
  Count(&model->second[Index(job.spec.priority)], sign, AllSeconds(job));
  const auto is_none = [](const WaitingWork& work) { return work.jobs == 0; };
  if (std::all_of(model->second.begin(), model->second.end(), is_none)) waiting.erase(model);
}

QueueIndex::ClassState& QueueIndex::ClassOf(const Job& job) {
  return models_[groups_[job.spec.group]->group.model].classes[Index(job.spec.priority)];
}

void QueueIndex::UpdateBacklog(TenantId id) {
  const TenantState& tenant = tenants_[id];
  shares_.SetBacklogged(id, !tenant.waiting.empty() || tenant.paused > 0);
  RelistChangedTenants();
}

void QueueIndex::CountResident(const Job& job, int sign) {
  Count(&ClassOf(job).resident, sign, AllSeconds(job));
}

void QueueIndex::InsertInLane(Job* job) {
  std::unique_ptr<Lane>& lane = TenantOf(*job).lanes[{job->spec.priority, job->spec.group}];
  if (lane == nullptr) {
    lane = std::make_unique<Lane>();
    lane->tenant = job->spec.tenant;
    lane->priority = job->spec.priority;
    lane->group = job->spec.group;
  }
  const bool was_empty = lane->places.empty();
  const auto place = lane->places.insert(PlaceOf(*job)).first;
  if (was_empty || place == lane->places.begin()) {
    if (!was_empty) groups_[lane->group]->lanes.erase(lane->listed);
    lane->listed = RankOfLane(*lane, *lane->places.begin());
    groups_[lane->group]->lanes.emplace(lane->listed, lane.get());
  }
}

void QueueIndex::EraseFromLane(Job* job) {
  auto& lanes = TenantOf(*job).lanes;
  const auto found = lanes.find({job->spec.priority, job->spec.group});
  Lane* lane = found->second.get();
  const auto place = lane->places.find(PlaceOf(*job));
  const bool was_first = place == lane->places.begin();
  lane->places.erase(place);
  if (lane->places.empty()) {
    groups_[lane->group]->lanes.erase(lane->listed);
    lanes.erase(found);
  } else if (was_first) {
    Relist(lane);
  }
}

void QueueIndex::Relist(Lane* lane) {
  auto& lanes = groups_[lane->group]->lanes;
  lanes.erase(lane->listed);
  lane->listed = RankOfLane(*lane, *lane->places.begin());
  lanes.emplace(lane->listed, lane);
}

void QueueIndex::RelistChangedTenants() {
  for (TenantId tenant : shares_.TakeChanged()) {
    for (const auto& [key, lane] : tenants_[tenant].lanes) {
      Relist(lane.get());
      RelistFirst(lane->group);
    }
  }
}

void QueueIndex::RelistFirst(GroupId group) {
  GroupState& own = *groups_[group];
  ModelState& model = models_[own.group.model];
  std::optional<Rank> by_rank;
  std::optional<ByArrival> by_arrival;
  if (!own.aged.empty()) {
    by_rank = RankOfAged(job(own.aged.begin()->id));
  } else if (!own.lanes.empty()) {
    by_rank = own.lanes.begin()->first;
  }
  if (!own.arrivals.empty()) by_arrival = *own.arrivals.begin();
  if (by_rank != own.first_by_rank) {
    if (own.first_by_rank) model.firsts_by_rank.erase(*own.first_by_rank);
    if (by_rank) model.firsts_by_rank.insert(*by_rank);
    own.first_by_rank = by_rank;
  }
  if (by_arrival != own.first_by_arrival) {
    if (own.first_by_arrival) model.firsts_by_arrival.erase(*own.first_by_arrival);
    if (by_arrival) model.firsts_by_arrival.insert(*by_arrival);
    own.first_by_arrival = by_arrival;
  }
}

QueueIndex::TenantState& QueueIndex::TenantOf(const Job& job) {
  if (static_cast<int>(tenants_.size()) <= job.spec.tenant) tenants_.resize(job.spec.tenant + 1);
  return tenants_[job.spec.tenant];
}

TenantId QueueIndex::Tenant(std::string_view name, double weight) {
  if (shares_.known() >= tenants_to_sweep_at_) ForgetIdleTenants();
  return shares_.Tenant(name, weight);
}

// Rare enough that a tenant that comes costs little: at least as many have come since the last time as are left then.
void QueueIndex::ForgetIdleTenants() {
  for (TenantId tenant = 0; tenant < shares_.size(); ++tenant) {
    const bool has_jobs = tenant < static_cast<TenantId>(tenants_.size()) && tenants_[tenant].jobs > 0;
    if (!has_jobs && shares_.Forgettable(tenant)) shares_.Forget(tenant);
  }
  tenants_to_sweep_at_ = 2 * shares_.known() + kTenantsPerSweep;
}

// What is read.

void QueueIndex::Predict(Job* job) const {
  const JobSpec& spec = job->spec;
  const bool resident = job->state == JobState::kResident;
  const CostModel& costs = resident ? costs_->Of(devices_[job->device].limits.cost_type) : *costs_;
  job->seconds_left = job->steps_left * costs.StepSeconds(groups_[spec.group]->group.curve, spec.rows);
  const bool is_new = job->steps_left == spec.steps;
  job->stage_seconds = StageSeconds(costs, is_new ? spec.text_curve : -1, spec.decode_curve);
}

absl::Time QueueIndex::DropTime(const Job& job) const {
  return options_.drop_hopeless ? job.spec.deadline - absl::Seconds(AllSeconds(job)) : job.spec.deadline;
}

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
    return ArrivingOf(of_class.arriving, now - of_class.arriving_at);
  });
}

namespace {

JobId TakeLast(std::vector<JobId>* jobs) {
  if (jobs->empty()) return -1;
  const JobId last = jobs->back();
  jobs->pop_back();
  return last;
}

}  // namespace

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
