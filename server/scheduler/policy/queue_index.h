// Everything that a scheduling decision looks at, kept up to date event by event, each in O(log n) of what waits: the
// images that wait and those on devices, by group, tenant, class, due time and age; each tenant's share; sums of the
// work that waits. Policies read it (policy.h); whoever owns the threads and the clock, or simulates them, tells it
// what happened (scheduling_core.h).
//
// A group is of images of one model, batch key and number of tokens that may go to the same devices: they can share
// steps, and are alike to all that is predicted. Groups that differ in the tokens alone are kin.
//
// Images that wait are kept in lanes: one for each (tenant, class, group), sorted within, and each group's lanes sorted
// by their first images. What changes a whole tenant's place, its share, thus moves a few lanes, not all of its images.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/fair_share.h"
#include "server/scheduler/policy/job.h"

namespace fresco {

// More than any device has.
inline constexpr int64_t kNoMemoryLimit = int64_t{1} << 50;

// What a device can hold and do at once.
struct DeviceLimits {
  int max_batch = 8;                          // images in a step
  int max_resident = 32;                      // images on it, in the step or paused; every decision looks at each
  int64_t state_bytes = int64_t{1} << 30;     // of the jobs that are resident
  int64_t activation_bytes = kNoMemoryLimit;  // of a step of several images
  int64_t memory_bytes = kNoMemoryLimit;      // activations and state of one image by itself: all but the weights
  // Finished images that a thread of their own may have, to decode them beside the steps; 0: they are decoded between
  // the steps.
  int decoding = 0;
  int type = 0;  // devices of one type draw the same picture, bit for bit
  CostTypeId cost_type = 0;
};

struct IndexOptions {
  // By class: nobody is to wait for longer; and after two thirds of it a job goes before all that have
  // not waited for theirs.
  std::array<absl::Duration, kPriorityClasses> max_wait = {absl::Seconds(8), absl::Minutes(5), absl::Minutes(10)};
  absl::Duration fairness_window = absl::Seconds(40);  // see FairShare: a tenant may be ahead by so long of all devices
  // Drop a job already when even by itself it could not be done by its deadline, and not only when that has passed.
  bool drop_hopeless = true;
};

// Work, in seconds of a device that draws one image at a time. Not of whole images where only a share of a model's
// counts.
struct WaitingWork {
  double jobs = 0;
  double seconds = 0;
};

// Not thread-safe. `costs` outlives it.
class QueueIndex {
 public:
  static constexpr int kAnyType = -1;
  struct Group {
    std::string batch_key;
    ModelId model = 0;
    CurveId curve = 0;
    int tokens = 0;       // of a row; all of the group's have as many
    int type = kAnyType;  // of the devices that may take what waits of it
    int jobs = 0;         // of it, in any state
  };
  // A step of one image, or its decoding, has run out of memory.
  struct TooLarge {
    CurveId curve = 0;
    int rows = 1;
    bool larger_too = false;  // whatever of the model has no fewer tokens and rows needs no less
    absl::Time until;         // known so long: others outside the program may have had the memory
  };
  struct Device {
    DeviceLimits limits;
    std::vector<bool> models;     // by ModelId: loaded
    std::vector<JobId> resident;  // in the order in which they came
    int64_t state_bytes = 0;      // theirs
    int finished = 0;             // images that are on it until they are decoded; told by SetFinished
    int64_t finished_bytes = 0;   // their state
    int64_t decode_bytes = 0;     // activations of what is decoded beside its steps
    bool idle = true;             // makes no step, decodes nothing between steps, takes what comes; told by SetBatch
    bool begun_only = false;      // nothing starts on it for the first time
    int64_t batch_bytes = 0;      // activations of a step of several images, as far as they are known to fit
    std::vector<TooLarge> too_large;
    bool lost = false;  // for good
  };

  QueueIndex(const IndexOptions& options, CostModel* costs);

  // Found or made.
  ModelId Model(std::string_view name);
  // A group stays at least while it has jobs: call this right before Add.
  GroupId GroupOf(ModelId model, std::string_view batch_key, int tokens);
  // A tenant stays at least until the next call, and while it has jobs.
  TenantId Tenant(std::string_view name, double weight);
  DeviceId AddDevice(const DeviceLimits& limits);
  // Nothing starts on a device without its model; what is resident goes on.
  void SetLoaded(DeviceId device, ModelId model, bool loaded);
  bool IsLoaded(DeviceId device, ModelId model) const;
  // For good; nothing is on it any more.
  void RemoveDevice(DeviceId device);

  // Events. Time does not go back.
  JobId Add(const JobSpec& spec, absl::Time now);
  void Remove(JobId job);  // in any state: done, failed, cancelled or dropped
  // Later is useless; when it is due stays as it is. Nothing, of a job that is gone.
  void SetDeadline(JobId job, absl::Time deadline);
  void Start(JobId job, DeviceId device);  // waiting → resident
  void Preempt(JobId job);                 // resident → moving
  void Parked(JobId job, absl::Time now);  // moving → waiting; gone or displaced meanwhile: nothing
  // Whatever it is → waiting, with so many steps to go, from 1 to all: what it had on its device is lost.
  void Displace(JobId job, int steps_left, absl::Time now);
  void Advanced(JobId job);  // resident: one step less to go
  void Charge(TenantId tenant, double device_seconds);
  // What the device steps now, of its residents; nothing: it is idle, unless its thread has pictures to decode. Its
  // other residents are paused: they wait.
  void SetBatch(DeviceId device, const std::vector<JobId>& batch, bool decodes = false);
  void SetFinished(DeviceId device, int images, int64_t state_bytes);
  // From here on policies see of what waits for the device only what has made a step already.
  void SetBegunOnly(DeviceId device, bool begun_only) { devices_[device].begun_only = begun_only; }
  // Beside the device's steps a picture is decoded, whose activations are predicted to be so many; 0: none is.
  void SetDecoding(DeviceId device, int64_t activation_bytes);
  // A step of several images did not fit into the device, which was predicted to need so much: those that follow stay
  // below, as long as memory is short. It may not be for ever, as others may use the device too: each step raises the
  // bound a little, so that the larger one is tried again.
  void LowerBatchMemory(DeviceId device, int64_t bytes);
  void RaiseBatchMemory(DeviceId device);
  // What it has beside its models' weights is from now on so much, kNoMemoryLimit where nobody knows. What did not fit
  // into less may fit.
  void SetMemory(DeviceId device, int64_t bytes);
  void AddTooLarge(DeviceId device, const TooLarge& step, absl::Time now);
  // It has been seen.
  bool IsTooLarge(DeviceId device, CurveId curve, int rows, absl::Time now) const;
  void SetSpeedup(double speedup) { speedup_ = speedup; }
  // Brings what time changes up to `now`.
  void AdvanceTo(absl::Time now);
  // Of those that wait and those on a device, the ones whose deadlines cannot be met any more.
  std::vector<JobId> Hopeless(DeviceId device, absl::Time now) const;

  // The view.
  bool Contains(JobId job) const { return jobs_.contains(job); }
  const Job& job(JobId job) const { return *jobs_.at(job); }
  const Group& group(GroupId group) const { return groups_[group]->group; }
  const Device& device(DeviceId device) const { return devices_[device]; }
  const FairShare& shares() const { return shares_; }
  const std::string& model_name(ModelId model) const { return models_[model].name; }
  int devices() const { return static_cast<int>(devices_.size()); }  // that there have been
  int live_devices() const { return live_devices_; }                 // that have not been removed
  int waiting() const { return waiting_total_; }
  int unfinished() const { return static_cast<int>(jobs_.size()); }
  // Of a model: jobs that wait, devices that have it, and how many of them are idle.
  int waiting(ModelId model) const { return models_[model].waiting; }
  int devices(ModelId model) const { return models_[model].devices; }
  int idle_devices(ModelId model) const { return models_[model].idle_devices; }
  // Of the devices on which the job may go on, the type; kAnyType: it may on all with its model.
  int TypeFor(const Job& job) const;
  // Idle devices that could take a job of this model and such a type at once, without one of them.
  int FreeDevices(ModelId model, int type, DeviceId without) const;
  // Work of a class that competes for the devices of a model, each in time in proportion to the number of models. It is
  // the model's own and that of every model with which it shares a device. Of one that has other devices too it is the
  // part that falls to the shared ones if its work spreads evenly: of a queue for two devices of which one is shared,
  // half. What has devices of its own alone does not count: a queue for those keeps nobody else waiting.
  // What waits, of one tenant or of all.
  WaitingWork waiting_work(ModelId model, PriorityClass priority) const;
  WaitingWork waiting_work(ModelId model, TenantId tenant, PriorityClass priority) const;
  // Seconds of what waits and is due between two times, to within a second.
  double WorkDue(ModelId model, PriorityClass priority, absl::Time from, absl::Time to) const;
  double resident_work(ModelId model, PriorityClass priority) const;
  // That has come in a second lately.
  double ArrivingWork(ModelId model, PriorityClass priority, absl::Time now) const;
  // Seconds of work done in a second of a device: above 1 where images share steps.
  double speedup() const { return speedup_; }
  // Groups of which something waits; in no order.
  const std::set<GroupId>& waiting_groups() const { return waiting_groups_; }

  // Whether images of the two can share a step, though not as cheaply as those of one group: they differ in their
  // number of tokens alone. A group is none of its own kin.
  bool AreKin(GroupId a, GroupId b) const;
  // Of a group's kin of which something waits that may start on the device, those with the best firsts, at most so
  // many, as far as they are found among the first of the model's groups: a bounded time, however many sizes wait.
  std::vector<GroupId> WaitingKin(GroupId group, DeviceId device, size_t most) const;
  // `job`'s rows on top.
  void AddRows(const Job& job, StepSize* size) const;

  // As deadline-fair orders them; for a resident as it is at `now`.
  Rank RankOf(const Job& job, absl::Time now) const;
  // The first of a model that waits and may start on the device, as far as its type and begun_only go: in the order of
  // ranks, and in that of arrival, leaving out a group if one is given. -1: none.
  JobId FirstByRank(ModelId model, DeviceId device) const;
  JobId FirstByArrival(ModelId model, DeviceId device, GroupId without = -1) const;

  // Goes through what waits in a group and may start on a device in one of these orders, while the index does not
  // change.
  class RankCursor;
  class ArrivalCursor;

 private:
  // Place within a lane: what Rank says but for what the whole lane shares.
  struct Place {
    bool late = false;
    int64_t when = 0;
    int64_t sequence = 0;
    int image_index = 0;
    JobId id = 0;
    auto operator<=>(const Place&) const = default;  // NOLINT(modernize-use-nullptr): a false alarm
  };
  struct Lane {
    TenantId tenant = 0;
    PriorityClass priority = PriorityClass::kStandard;
    GroupId group = 0;
    std::set<Place> places;
    Rank listed;  // as it stands in its group's lanes; only while places is not empty
  };
  struct ByArrival {
    int64_t sequence = 0;
    int image_index = 0;
    JobId id = 0;
    auto operator<=>(const ByArrival&) const = default;  // NOLINT(modernize-use-nullptr): likewise
  };
  struct GroupState {
    Group group;
    std::map<Rank, const Lane*> lanes;
    std::set<Place> aged;          // by when they must start
    std::set<ByArrival> arrivals;  // all that wait
    // As its model knows it; both or neither.
    std::optional<Rank> first_by_rank;
    std::optional<ByArrival> first_by_arrival;
  };
  struct ClassState {
    WaitingWork waiting, resident;
    std::map<int64_t, double> due_seconds;  // waiting work by the second in which it is due
    double arriving = 0;                    // see ArrivingWork; at that time
    absl::Time arriving_at = absl::InfinitePast();
    double ArrivingAt(absl::Time now) const;
  };
  struct ModelState {
    std::string name;
    int waiting = 0, devices = 0, idle_devices = 0;
    std::vector<int> shared;                           // by model: devices that have both; of those beyond its end none
    std::array<ClassState, kPriorityClasses> classes;  // its own work
    // Of each of its groups of which something waits, the first.
    std::set<Rank> firsts_by_rank;
    std::set<ByArrival> firsts_by_arrival;
    std::set<JobId> begun;  // those that wait and have made a step: few
  };
  struct TenantState {
    std::map<std::pair<PriorityClass, GroupId>, std::unique_ptr<Lane>> lanes;
    std::map<ModelId, std::array<WaitingWork, kPriorityClasses>> waiting;  // of models of which something waits
    int jobs = 0, paused = 0;
  };

  static constexpr double kArrivalMemory = 30;  // seconds: arrivals are averaged over about so long
  static int64_t DueSecond(absl::Time due) { return absl::ToUnixSeconds(due); }

  void InsertWaiting(Job* job, absl::Time now);
  void EraseWaiting(Job* job);
  void CountWaiting(const Job& job, int sign);
  void CountResident(const Job& job, int sign);
  void CountWaitingOfTenant(const Job& job, int sign);
  ClassState& ClassOf(const Job& job);
  void CountShared(ModelId a, ModelId b, int change);
  // Of a model's work, what competes for the devices of another.
  double CompetingShare(ModelId of, ModelId model) const;
  template <typename Work>
  double SumCompeting(ModelId model, Work work) const;
  void InsertInLane(Job* job);
  void EraseFromLane(Job* job);
  void Relist(Lane* lane);
  void SetIdle(DeviceId device, bool idle);
  void CountDevices(int change);
  void SetPaused(Job* job, bool paused);
  void UpdateBacklog(TenantId tenant);
  void RelistFirst(GroupId group);
  void RelistChangedTenants();
  void ForgetIdleTenants();
  GroupId FindGroup(const Group& like);
  static auto KeyOf(const Group& group) { return std::tuple(group.model, group.batch_key, group.type, group.curve); }
  bool IsOfType(GroupId group, DeviceId device) const;
  // The first of those that wait and have begun.
  template <typename Filter, typename Before>
  JobId FirstBegun(ModelId model, Filter filter, Before before) const;
  std::vector<JobId> BegunOf(GroupId group) const;
  bool RanksBefore(const Job& a, const Job& b) const;  // of those that wait
  static bool CameBefore(const Job& a, const Job& b);
  int IdleDevicesOfType(ModelId model, int type) const;
  // Of one that is in no lane.
  void MoveToType(Job* job, int type);
  void EraseGroupIfEmpty(GroupId group);
  void Leave(Job* job);
  TenantState& TenantOf(const Job& job);
  Place PlaceOf(const Job& job) const;
  Place PlaceOf(const Job& job, bool late, bool due_again) const;
  Rank RankOfLane(const Lane& lane, const Place& place) const;
  Rank RankOfAged(const Job& job) const;
  void Predict(Job* job) const;
  absl::Time DropTime(const Job& job) const;
  absl::Time LateTime(const Job& job) const;
  absl::Time DueAgainTime(const Job& job) const;
  absl::Time AgedTime(const Job& job) const;
  Place AgedPlaceOf(const Job& job) const;

  const IndexOptions options_;
  CostModel* const costs_;
  FairShare shares_;
  std::vector<ModelState> models_;
  std::vector<std::unique_ptr<GroupState>> groups_;
  std::map<std::tuple<ModelId, std::string, int, CurveId>, GroupId> group_ids_;  // by model, batch key, type and size
  std::vector<GroupId> free_groups_;
  std::set<GroupId> waiting_groups_;
  std::vector<Device> devices_;
  int live_devices_ = 0;
  std::vector<TenantState> tenants_;
  int tenants_to_sweep_at_ = 0;  // so many are looked through for those to forget
  std::unordered_map<JobId, std::unique_ptr<Job>> jobs_;
  JobId next_job_ = 0;
  // Of the jobs that wait: when each will be late, due again, aged, and to be dropped.
  std::set<std::pair<absl::Time, JobId>> late_at_, due_again_at_, aged_at_, drop_at_;
  int waiting_total_ = 0;
  double speedup_ = 1;
};

// Merges the lanes, opening each only when its turn may have come.
class QueueIndex::RankCursor {
 public:
  RankCursor(const QueueIndex& index, GroupId group, DeviceId device);
  // -1: there are no more.
  JobId Next();

 private:
  struct Open {
    Rank rank;
    const Lane* lane;
    std::set<Place>::const_iterator place;
  };
  static bool After(const Open& a, const Open& b) { return b.rank < a.rank; }
  void Push(const Lane* lane, std::set<Place>::const_iterator place);

  const GroupState& group_;
  const bool begun_only_;
  std::vector<JobId> begun_;  // the next one last
  std::set<Place>::const_iterator aged_;
  std::map<Rank, const Lane*>::const_iterator next_lane_;
  std::vector<Open> open_;  // a heap
};

class QueueIndex::ArrivalCursor {
 public:
  ArrivalCursor(const QueueIndex& index, GroupId group, DeviceId device);
  JobId Next();

 private:
  const bool begun_only_;
  std::vector<JobId> begun_;  // the next one last
  std::set<ByArrival>::const_iterator next_, end_;
};

}  // namespace fresco
