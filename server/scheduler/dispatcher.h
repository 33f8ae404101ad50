// Where requests and devices meet: the table of all requests that have not ended, their images that have not been
// drawn, and what each device is to do, which the SchedulingCore decides (policy/scheduling_core.h). One lock guards
// it, which is held for bookkeeping and decisions alone: engine calls, encoding, channel writes and the observer happen
// outside, in the order in which their causes happened inside (ordered_calls.h).
//
// Order of the locks: a reactor's (server/rpc), then its channel's, its stall watch's or the logger's; the model
// manager's, then the dispatcher's, a channel's or that of its ordered calls; the dispatcher's, then one of a
// request's, its output's (then its ordered calls'), its channel's, the notices', a device watch's, a decode queue's or
// that of an engine's cache; an engine return's, then the dispatcher's or a device watch's. A device watch's, a decode
// queue's and an engine's cache's are the last. A reactor's and the dispatcher's are never held together: callbacks
// happen without either, and so do Submit and Cancel.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/active_image.h"
#include "server/scheduler/decode_queue.h"
#include "server/scheduler/device_watch.h"
#include "server/scheduler/engine_return.h"
#include "server/scheduler/ordered_calls.h"
#include "server/scheduler/policy/scheduling_core.h"
#include "server/scheduler/policy/step_size.h"
#include "server/scheduler/request_state.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

// What a loader has loaded. `loaded` may be told more than once, and passes on the first alone: by the device's thread
// or, where the device is lost meanwhile, by the dispatcher. The same goes for the callbacks of removals.
struct LoadTask {
  std::string model;
  absl::StatusOr<std::unique_ptr<Engine>> engine;
  Scheduler::LoadedCallback loaded;
};

// An image to start, or to go on with; whoever gets it holds its request once.
struct StartOrder {
  JobId id = 0;
  RequestPtr request;
  int image_index = 0;
  int engine = 0;                        // AddEngine's slot
  std::unique_ptr<ActiveImage> resumed;  // null: it has not been started before
};

// An engine that is the worker's to use until the dispatcher takes its slot back.
struct EngineSlot {
  int slot = 0;  // free slots are used again
  std::shared_ptr<Engine> engine;
};

// An engine that nobody looks at any more, to be destroyed before `removed` is told so.
struct ReturnedEngine {
  std::unique_ptr<Engine> engine;
  Scheduler::RemovedCallback removed;
};

// An engine whose slot is free again, and the dispatcher's hold on it.
struct VacatedSlot {
  int slot = 0;
  EngineView engine;
};

// For one step boundary, in the order in which it is done.
struct Work {
  bool stop = false;  // end everything and return; `loads` are not to be done any more
  bool lost = false;  // the device is, and its images the dispatcher's: return
  std::vector<LoadTask> loads;
  std::vector<JobId> dropped;  // of the device's images: to be let go of
  std::vector<ReturnedEngine> returned;
  std::vector<VacatedSlot> vacated;                 // to be let go of
  std::vector<Scheduler::RemovedCallback> unended;  // with `stop`: removals that do not come to an end any more
  std::vector<JobId> decodes;  // of the device's images, whose steps are made: to be decoded and handed on
  std::vector<JobId> preempted;
  std::vector<StartOrder> starts;
  std::vector<JobId> batch;  // of the step; empty: there is none
  bool snapshots = false;    // other devices could go on with its images: Keep them
  bool others = false;       // images that are not in it wait for the device
};

// Thread-safe.
class Dispatcher {
 public:
  // All outlive the dispatcher.
  Dispatcher(const SchedulerOptions* options, Clock* clock, SchedulerObserver* observer);
  ~Dispatcher();

  // For callers, as the Scheduler says.
  absl::StatusOr<std::shared_ptr<EventChannel>> Submit(GenerationRequest request);
  absl::Status Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason);
  absl::Status Cancel(const EventChannel& channel, const absl::Status& reason);
  absl::Status ExtendDeadline(const EventChannel& channel, absl::Time deadline);
  bool Drain(absl::Time deadline);
  SchedulerSnapshot Snapshot() const;
  CostModel Costs() const;

  // For the owner of the threads. Stop ends all requests with UNAVAILABLE, for their callers at once; the workers, at
  // their next step boundaries, and the timer then return.
  // Returns its number, below 64. `decoder`: what its decoder's thread waits for; null: it has none, and decodes
  // between steps.
  int AddWorker(const std::string& device, std::shared_ptr<DeviceWatch> watch, std::shared_ptr<DecodeQueue> decoder);
  // UNAVAILABLE, with the reason: the worker's device is lost.
  absl::Status CheckDevice(int worker) const;
  // A loader is at work, and has ended: told of meanwhile where it takes long.
  int64_t BeginLoad(int worker, const std::string& model);
  void EndLoad(int64_t load);
  // What a loader has loaded is the worker's; CANCELLED after Stop, UNAVAILABLE where the device is lost: then `loaded`
  // is not told.
  absl::Status AddLoad(int worker, LoadTask task);
  // As Scheduler::RemoveModel; an error is all that comes of it.
  absl::Status RemoveModel(int worker, const std::string& model, Removal when, Scheduler::RemovedCallback removed);
  void Stop();

  // For the workers. NextWork waits until there is something to do.
  EngineSlot AddEngine(int worker, const std::string& model, std::unique_ptr<Engine> engine);
  Work NextWork(int worker);
  // An image is on the worker's device or waits for one of its models, or the scheduler is stopping.
  bool IsWanted(int worker) const;
  void SetBatchSize(int worker, int images);
  // The step of the last Work's batch was made. Those that are done stay on the device until a Work has them decoded.
  // Returns how long each of `images`, which have made it, still takes.
  std::vector<absl::Duration> StepDone(int worker, const std::vector<Forward>& forwards,
                                       const std::vector<JobId>& images);
  // What was measured at a load.
  void AddMeasured(int worker, const std::vector<MeasuredStep>& measured);
  // What is known of steps on devices of its type.
  CostModel CostsOf(int worker) const;
  // SchedulingCore's.
  StepSize SizeOf(int worker, const std::vector<JobId>& images) const;
  void StepTimed(int worker, const StepSize& size, absl::Duration duration);
  // So many texts were encoded, or a picture decoded, for `model`; activations: 0 where they are not known.
  void TextsDone(int worker, const std::string& model, int text_tokens, int texts, absl::Duration duration);
  void DecodeDone(int worker, const std::string& model, int picture_tokens, absl::Duration duration,
                  int64_t activation_bytes);
  // What the worker's device has beside the weights of its models; 0: nobody knows.
  void SetMemory(int worker, int64_t bytes);
  // A step of the image by itself ran out of memory, or the decoding of a picture, though nothing else took any
  // meanwhile. To be told before its caller hears of it, who may ask for the same again.
  void StepTooLarge(JobId image);
  void DecodeTooLarge(int worker, const std::string& model, int picture_tokens);
  // A preempted image is in host memory and waits for any device with its model.
  void Park(std::unique_ptr<ActiveImage> image);
  // An image on a device is drawn, has failed or is not wanted any more. Its request is let go of by the caller.
  void Remove(JobId image);
  // The same of an image whose steps are made, by whoever decodes it. False: the device is lost, and the image not the
  // worker's any more.
  bool TakeFinished(int worker, JobId image);
  // `image` is as it is after its last step, parked, and without a request: what to go on with should its device be
  // lost.
  void Keep(std::unique_ptr<ActiveImage> image);
  // The worker's device is lost, for good, as its watch says: its images are the dispatcher's from now on, and the
  // worker returns.
  void LoseDevice(int worker);
  // The worker returns, its device not being lost.
  void Leave(int worker);
  // For its decoder, which has found the device lost or is about to return: whoever waits looks at the watch.
  void Wake();
  // Of a step of these on its device.
  SchedulingCore::StepForecast Forecast(int worker, const std::vector<JobId>& images) const;
  // Images that the worker has handed to the encoder and that are not encoded yet; with too many of them it gets no new
  // ones.
  void AddEncoding(int worker, int change);

  // Lets go of a request; the last to do so ends it.
  void Release(const RequestPtr& request);

  // Ends requests whose deadline passes while they wait, though every device may be busy, and tells those that wait
  // their new places when a device has changed the queue: its thread has better things to do. Finds devices that hang.
  // Returns after Stop, when all workers have left or are lost.
  void RunTimer();

 private:
  struct LoadedEngine {
    std::string model;
    EngineView engine;     // null: the slot is free
    bool leaving = false;  // no new requests are taken for it
  };
  // An engine that is to go. It is leaving, then let go of, then returned.
  struct Leaving {
    int slot = 0;
    std::string model;
    const Engine* engine = nullptr;
    bool let_go = false;
    Scheduler::RemovedCallback removed;
  };
  struct LoadUnderWay {
    int worker = 0;
    std::string model;
    absl::Time begin;
    absl::Time tell_at;  // that it takes long
  };
  // What a worker has to tell since its last NextWork.
  struct Handed {
    std::vector<Scheduler::LoadedCallback> loads;
    std::vector<Scheduler::RemovedCallback> removals;
  };
  struct Worker {
    Worker() = default;
    Worker(Worker&&) = default;

    std::string device;
    CostTypeId cost_type = 0;
    int type = 0;                       // of one type are those that draw the same picture, bit for bit
    std::vector<LoadedEngine> engines;  // by slot
    std::shared_ptr<EngineReturn> engine_return;
    std::vector<Leaving> leaving;
    std::vector<std::unique_ptr<Engine>> returned;
    std::deque<LoadTask> loads;
    int batch_size = 0;
    int encoding = 0;
    std::shared_ptr<DeviceWatch> watch;
    std::shared_ptr<DecodeQueue> decoder;  // null: there is none
    bool left = false;
    std::string lost;              // why; empty: it is not
    std::vector<std::string> had;  // models, when it was lost
    Handed handed;
  };
  // An image that has not been drawn, or not been decoded.
  struct Image {
    RequestPtr request;
    int index = 0;                        // in its request
    bool waits = true;                    // it is on no device
    std::unique_ptr<ActiveImage> parked;  // while it waits, preempted or moved
    int worker = -1;                      // that has it, until its picture is drawn; -1: none
    int moves = 0;                        // from devices that were lost
    std::unique_ptr<ActiveImage> kept;    // see Keep; null while it is parked
    int type = -1;                        // of the devices that may go on with it, once begun; -1: any
  };
  // A request of which some images wait.
  struct Entry {
    RequestPtr request;
    std::vector<JobId> images;  // that do
    int position = -1;          // that its caller knows of
    absl::Duration told_wait;   // likewise, and when it was told
    absl::Time told_at;
    absl::Duration predicted;  // when it came: until it starts
  };
  // What an image is to the core.
  struct ImageWork {
    std::string batch_key;
    ImageLoad load;
  };
  // What is to be done when the lock is free.
  struct Followups {
    std::vector<std::unique_ptr<ActiveImage>> dropped;  // before their requests are released: memory first
    std::vector<RequestPtr> released;
    std::vector<RequestPtr> told;
    std::vector<SlowLoad> slow_loads;
    std::vector<DeviceLoss> losses;                                              // before their requests are released
    std::vector<EngineView> views;                                               // of engines on devices that are lost
    std::vector<std::pair<Scheduler::LoadedCallback, absl::Status>> unloadable;  // likewise
    std::vector<std::pair<Scheduler::RemovedCallback, absl::Status>> unremoved;  // likewise
  };
  using RequestKey = std::pair<std::string, std::string>;  // tenant, id

  static RequestKey KeyOf(const GenerationRequest& request) { return {request.tenant, request.id}; }
  static int EngineFor(const Worker& worker, const std::string& model);  // its slot, though it be leaving; -1: none

  // Callers' side.
  absl::StatusOr<std::vector<ImageWork>> Weigh(const GenerationRequest& request) const FRESCO_EXCLUDES(mutex_);
  static absl::StatusOr<ImageWork> WeighOn(const Engine& engine, const ImageSpec& spec);
  // With what an engine of the model says of it, where it is for want of memory.
  absl::Status ExplainRefusal(const GenerationRequest& request, const absl::Status& refusal) const
      FRESCO_EXCLUDES(mutex_);
  absl::Status CheckOpen(const std::string& model) const FRESCO_REQUIRES(mutex_);
  absl::Status CheckQueue(const GenerationRequest& request, absl::Time now) FRESCO_REQUIRES(mutex_);
  RequestedJobs JobsOf(const GenerationRequest& request, const std::vector<ImageWork>& images) FRESCO_REQUIRES(mutex_);
  // The wait that it can expect.
  absl::StatusOr<absl::Duration> Admit(const GenerationRequest& request, const RequestedJobs& jobs, absl::Time now)
      FRESCO_REQUIRES(mutex_);
  absl::Status CheckCount(absl::Time now) FRESCO_REQUIRES(mutex_);
  void CountRefusal(const std::string& model, std::string_view reason) FRESCO_REQUIRES(mutex_);  // of kRefusals
  void Enqueue(const RequestPtr& request, const RequestedJobs& jobs, absl::Duration wait, absl::Time now)
      FRESCO_REQUIRES(mutex_);
  void Cancel(RequestState* request, const absl::Status& reason, Followups* followups) FRESCO_REQUIRES(mutex_);
  void End(const RequestPtr& request) FRESCO_EXCLUDES(mutex_);
  void Follow(Followups followups) FRESCO_EXCLUDES(mutex_);

  // Workers' side (dispatcher_work.cc).
  // Of the requests that wait, those that should end: whose deadlines have passed, and of the others, each of which has
  // to be asked (has its caller gone away?), some in turn. Whoever asks one to end calls DropIfEnding.
  void DropEnding(absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  void DropAllEnding(absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  using EntryPlace = std::map<int64_t, Entry>::iterator;
  EntryPlace DropIfEnding(EntryPlace entry, absl::Time now, Followups* followups)
      FRESCO_REQUIRES(mutex_);  // what comes after it
  void DropIfEnding(int64_t sequence, absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  Entry& QueueEntry(const RequestPtr& request) FRESCO_REQUIRES(mutex_);  // found or made
  EntryPlace EraseEntry(EntryPlace entry) FRESCO_REQUIRES(mutex_);
  void TakeLoads(int worker, Work* work) FRESCO_REQUIRES(mutex_);
  void DropHopeless(int worker, absl::Time now, Work* work, Followups* followups) FRESCO_REQUIRES(mutex_);
  void DropResidents(int worker, absl::Time now, Work* work, Followups* followups) FRESCO_REQUIRES(mutex_);
  void Decide(int worker, absl::Time now, Work* work, Followups* followups) FRESCO_REQUIRES(mutex_);
  bool OthersWait(int worker, const Work& work) const FRESCO_REQUIRES(mutex_);
  std::vector<int> TextsToEncode(int worker, absl::Span<const JobId> images) const FRESCO_REQUIRES(mutex_);
  StartOrder Start(int worker, JobId id, absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  void BeginRequest(const Entry& entry, int worker, absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  uint64_t DevicesOf(const std::string& model) const FRESCO_REQUIRES(mutex_);  // that take its requests
  absl::Time EarliestDeadline() const FRESCO_REQUIRES(mutex_);
  bool AllGone() const FRESCO_REQUIRES(mutex_);
  DeviceSnapshot SnapshotOf(int worker) const FRESCO_REQUIRES(mutex_);

  // Who is told its place (dispatcher_positions.cc).
  void UpdatePositions(Followups* followups) FRESCO_REQUIRES(mutex_);
  void LeavePositionsToTimer() FRESCO_REQUIRES(mutex_);
  absl::Time NextPositions() const FRESCO_REQUIRES(mutex_);  // when the timer is to update them
  void UpdatePositionsLater() FRESCO_EXCLUDES(mutex_);       // the timer's
  void UpdatePositionsOfMany() FRESCO_EXCLUDES(mutex_);
  using RankedEntry = std::pair<Rank, int64_t>;  // and its sequence
  RankedEntry Ranked(const std::pair<const int64_t, Entry>& entry, absl::Time now) const FRESCO_REQUIRES(mutex_);
  std::vector<RankedEntry> RankAll() const FRESCO_EXCLUDES(mutex_);
  class Places;
  void TellPlace(int64_t sequence, absl::Time now, Places* places, Followups* followups) FRESCO_REQUIRES(mutex_);
  WaitingWork WaitingWorkOf(const Entry& entry) const FRESCO_REQUIRES(mutex_);
  void UpdateWaits(absl::Time now) FRESCO_REQUIRES(mutex_);  // a step was made
  absl::Duration WaitOfFirst(absl::Time now) const FRESCO_REQUIRES(mutex_);

  // Devices that are lost (device_loss.cc).
  absl::Status LossOf(const Worker& worker) const FRESCO_REQUIRES(mutex_);  // OK: it is not
  void FindHung(absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  bool TakeOverIfLost(int worker, absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  void TakeOver(int lost, absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  void TakeModels(Worker* worker, Followups* followups) FRESCO_REQUIRES(mutex_);
  void Displace(JobId id, const DeviceLoss& loss, absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  void EndUnservable(absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  absl::Time NextWatch(absl::Time now) const FRESCO_REQUIRES(mutex_);
  void Tell(const DeviceLoss& loss) FRESCO_EXCLUDES(mutex_);

  // Models that come (slow_loads.cc).
  void FindSlowLoads(absl::Time now, Followups* followups) FRESCO_REQUIRES(mutex_);
  std::vector<SlowLoad> SlowLoadsOf(int worker) const FRESCO_REQUIRES(mutex_);
  absl::Time NextSlowLoad() const FRESCO_REQUIRES(mutex_);
  void Tell(const SlowLoad& load) FRESCO_EXCLUDES(mutex_);

  // Images that go on only on devices of one type (device_types.cc).
  int TypeOf(const std::string& device) const FRESCO_REQUIRES(mutex_);
  CostTypeId CostTypeOf(const std::string& device) FRESCO_REQUIRES(mutex_);
  bool IsStranded(const Image& image) const FRESCO_REQUIRES(mutex_);
  using Dropped = std::vector<std::unique_ptr<ActiveImage>>;
  void BeginAnew(JobId id, Image* image, absl::Time now, Dropped* dropped) FRESCO_REQUIRES(mutex_);
  void BeginStrandedAnew(absl::Time now, Dropped* dropped) FRESCO_REQUIRES(mutex_);

  // Models that go (dispatcher_removal.cc).
  void Retire(int worker, std::unique_ptr<Engine> engine) FRESCO_EXCLUDES(mutex_);
  void FailWaiting(const std::string& model, Followups* followups) FRESCO_REQUIRES(mutex_);
  void AdvanceRemovals(int worker, Work* work) FRESCO_REQUIRES(mutex_);
  void HandOut(int worker, const Work& work) FRESCO_REQUIRES(mutex_);
  bool Vacate(int worker, const Leaving& leaving, Work* work) FRESCO_REQUIRES(mutex_);
  void MoveAway(int worker, const std::string& model, Work* work) FRESCO_REQUIRES(mutex_);
  void TakeReturned(int worker, Work* work) FRESCO_REQUIRES(mutex_);
  bool HasImages(const std::string& model) const FRESCO_REQUIRES(mutex_);
  bool HasImagesOn(int worker, const std::string& model) const FRESCO_REQUIRES(mutex_);
  bool HasEngine(const std::string& model) const FRESCO_REQUIRES(mutex_);  // some device, though it be leaving
  std::vector<JobId> ResidentsOf(int worker, const std::string& model) const FRESCO_REQUIRES(mutex_);
  bool HasRequests(const std::string& model) const FRESCO_REQUIRES(mutex_);
  // An image is gone: a model that waits for that may go.
  void WakeLeaving() FRESCO_REQUIRES(mutex_);

  void CountWaiting(const GenerationRequest& request, int change) FRESCO_REQUIRES(mutex_);
  void CountRunning(int change) FRESCO_REQUIRES(mutex_);

  const SchedulerOptions& options_;
  Clock* const clock_;
  SchedulerObserver* const observer_;
  OrderedCalls notices_;  // to the observer, of what changed under the lock

  mutable Mutex mutex_;
  CondVar changed_;
  CostModel costs_ FRESCO_GUARDED_BY(mutex_);
  const std::unique_ptr<SchedulingCore> core_ FRESCO_PT_GUARDED_BY(mutex_);
  std::vector<Worker> workers_ FRESCO_GUARDED_BY(mutex_);  // by the core's DeviceId
  // That have not ended; of one key, those before the last have been given up.
  std::multimap<RequestKey, RequestPtr> requests_ FRESCO_GUARDED_BY(mutex_);
  std::unordered_map<JobId, Image> images_ FRESCO_GUARDED_BY(mutex_);  // that the core knows
  std::map<int64_t, Entry> queue_ FRESCO_GUARDED_BY(mutex_);           // by arrival
  // Of those in queue_ that have one.
  std::set<std::pair<absl::Time, int64_t>> deadlines_ FRESCO_GUARDED_BY(mutex_);
  int64_t asked_ FRESCO_GUARDED_BY(mutex_) = 0;  // from this one of queue_ on DropEnding asks next
  std::unordered_map<const EventChannel*, RequestPtr> by_channel_ FRESCO_GUARDED_BY(mutex_);  // requests_ once more
  std::map<std::pair<std::string, RequestPriority>, int> depths_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, absl::Time> last_used_ FRESCO_GUARDED_BY(mutex_);  // by model
  std::map<int64_t, LoadUnderWay> loads_ FRESCO_GUARDED_BY(mutex_);
  int64_t loads_begun_ FRESCO_GUARDED_BY(mutex_) = 0;
  int leaving_ FRESCO_GUARDED_BY(mutex_) = 0;               // engines, of all workers
  bool may_be_stranded_ FRESCO_GUARDED_BY(mutex_) = false;  // a device has lost a model
  int64_t arrivals_ FRESCO_GUARDED_BY(mutex_) = 0;
  int waiting_ FRESCO_GUARDED_BY(mutex_) = 0;                                   // requests of which nothing has started
  int running_ FRESCO_GUARDED_BY(mutex_) = 0;                                   // requests of which something has
  int unfinished_ FRESCO_GUARDED_BY(mutex_) = 0;                                // requests whose last event is not out
  bool positions_stale_ FRESCO_GUARDED_BY(mutex_) = false;                      // the timer is to update them
  absl::Time positions_from_ FRESCO_GUARDED_BY(mutex_) = absl::InfinitePast();  // and not before then
  absl::Time positions_at_ FRESCO_GUARDED_BY(mutex_) = absl::InfinitePast();    // when they were updated last
  int64_t first_told_ FRESCO_GUARDED_BY(mutex_) = -1;  // of queue_, the first when positions were updated last
  bool draining_ FRESCO_GUARDED_BY(mutex_) = false;
  bool stopping_ FRESCO_GUARDED_BY(mutex_) = false;
};

}  // namespace fresco
