// Events. What decisions read is queue_index_view.cc.
#include "server/scheduler/policy/queue_index.h"

#include <algorithm>
#include <cstddef>

#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

// Of what did not fit; and in about so many steps times the share that is missing it is tried again: some 600.
constexpr double kLeftOfBatchMemory = 0.95;
constexpr int64_t kStepsToTryAgain = 12000;
// Tenants are looked through for those to forget when so many more than the last time's double are known.
constexpr int kTenantsPerSweep = 1024;

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

// Of a device that has it alone.
double AllSeconds(const Job& job) {
  return job.seconds_left + job.stage_seconds;
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
  return FindGroup({std::string(batch_key), model, costs_->Curve(models_[model].name, tokens), tokens, kAnyType, 0});
}

GroupId QueueIndex::FindGroup(const Group& like) {
  const auto [entry, is_new] = group_ids_.try_emplace(KeyOf(like), -1);
  if (!is_new) return entry->second;
  entry->second = TakeNumber(&free_groups_, &groups_, [] { return std::make_unique<GroupState>(); });
  Group& made = groups_[entry->second]->group = like;
  made.jobs = 0;
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
  group_ids_.erase(KeyOf(known));
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

bool QueueIndex::IsLoaded(DeviceId device, ModelId model) const {
  const std::vector<bool>& models = devices_[device].models;
  return model < static_cast<ModelId>(models.size()) && models[model];
}

void QueueIndex::SetIdle(DeviceId device, bool idle) {
  Device& own = devices_[device];
  if (own.idle == idle) return;
  own.idle = idle;
  for (size_t model = 0; model < own.models.size(); ++model) {
    if (own.models[model]) models_[model].idle_devices += idle ? 1 : -1;
  }
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
  of_class.arriving = of_class.ArrivingAt(now) + AllSeconds(*job) / kArrivalMemory;
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

}  // namespace fresco
