// The whole of scheduling but its threads: queue, shares, cost model, admission and policy behind one interface, which
// the service's threads and the simulator (bench/scheduler) drive alike. A state machine: no thread, lock or clock of
// its own; the same calls give the same answers.
//
//   JobId job = core.Add(request, now);
//   // At every step boundary, and for an idle device when something has come:
//   for (JobId job : core.DropHopeless(device, now)) ... fail its request, core.Remove(its other images) ...
//   Decision next = core.Decide(device, now);
//   ... move next.preempt to host memory, then core.Parked(each); prepare or bring back next.start ...
//   ... one step of next.batch; core.Remove(those that failed) ...
//   for (JobId job : core.StepDone(device, duration)) ... decode it ...
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/scheduler/policy/admission.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/job.h"
#include "server/scheduler/policy/policy.h"
#include "server/scheduler/policy/queue_index.h"
#include "server/scheduler/policy/stage_plan.h"

namespace fresco {

// What ran out of memory by itself is refused for so long, or until its device has more; then one may try.
inline constexpr absl::Duration kTooLargeFor = absl::Minutes(5);

// A request is late when `target` and, for each second that its images take by themselves, `stretch` have passed since
// it came. None waits for longer than max_wait to start, however busy the devices are: those who would are refused.
struct ClassOptions {
  absl::Duration target;
  double stretch = 0;
  absl::Duration max_wait;
};

struct CoreOptions {
  std::string policy = "deadline-fair";
  absl::Duration fairness_window = absl::Seconds(40);  // a tenant may be ahead by so long of all devices
  std::array<ClassOptions, kPriorityClasses> classes = {ClassOptions{absl::Milliseconds(500), 1.5, absl::Seconds(8)},
                                                        ClassOptions{absl::Seconds(2), 3, absl::Minutes(5)},
                                                        ClassOptions{absl::Seconds(30), 10, absl::Minutes(10)}};
  std::map<std::string, double, std::less<>> tenant_weights;  // those not named: 1
};

struct RequestedImage {
  std::string_view batch_key;  // images of one key can share steps, whatever their tokens
  int tokens = 0;              // of each row: image and text
  int rows = 1;
  int steps = 1;
  int64_t state_bytes = 0;
  // What else it needs of the device; 0: nothing that takes time.
  int text_tokens = 0;     // of each of its texts
  int picture_tokens = 0;  // of what is decoded
  bool alone = false;      // shares no step; so do all of its batch_key
  bool one_type = false;   // begun, it goes on only on devices of the type of the one that began it
};

struct RequestedJobs {
  std::string_view tenant;  // empty: everybody's, and bound by no share
  PriorityClass priority = PriorityClass::kStandard;
  ModelId model = 0;
  int64_t sequence = 0;
  absl::Time deadline = absl::InfiniteFuture();
  std::vector<RequestedImage> images;
};

// What a step was computed in: one forward or, where memory ran out, one after another for parts of its batch.
struct Forward {
  std::vector<JobId> images;  // of the step's, whatever has become of them
  absl::Duration duration;
  int64_t activation_bytes = 0;  // that the device held for it beyond weights and jobs' state; 0: not known
  bool out_of_memory = false;    // it came to nothing
  bool timed_later = false;      // `duration` is no measurement of it: StepTimed gives that
};

// Not thread-safe. Times given do not go back.
class SchedulingCore {
 public:
  // INVALID_ARGUMENT for an unknown policy. `costs` outlives it.
  static absl::StatusOr<std::unique_ptr<SchedulingCore>> Create(const CoreOptions& options, CostModel* costs);

  DeviceId AddDevice(const DeviceLimits& limits);
  ModelId Model(std::string_view name) { return index_.Model(name); }
  void SetLoaded(DeviceId device, ModelId model, bool loaded);

  // What the device has beside its models' weights (QueueIndex::SetMemory).
  void SetMemory(DeviceId device, int64_t bytes) { index_.SetMemory(device, bytes); }

  // The device is lost, for good. What was on it has been removed or displaced: that waits again, for any device, with
  // so many of its steps to go.
  void RemoveDevice(DeviceId device);
  void Displace(JobId job, int steps_left, absl::Time now);

  // Whether Add should follow, and what to expect. Changes nothing that is seen.
  Admission Admit(const RequestedJobs& request, absl::Time now);
  // The request's images, in order.
  std::vector<JobId> Add(const RequestedJobs& request, absl::Time now);
  // Cancelled or failed, in any state.
  void Remove(JobId job);
  // Its caller waits for so long, or another does; the order in which it is served stays as it is.
  void SetDeadline(JobId job, absl::Time deadline) { index_.SetDeadline(job, deadline); }

  // Those that wait, or are on this device, whose deadlines cannot be met any more: gone from the core.
  std::vector<JobId> DropHopeless(DeviceId device, absl::Time now);
  // Applied when it returns: what is preempted is moving, what starts is resident (Job::steps_left tells whether it has
  // run before). An empty batch: the device is idle until something comes or is parked.
  // What is prepared and decoded is held to about a step (BoundStages).
  Decision Decide(DeviceId device, absl::Time now, TextCount texts);
  // The same where no texts are to be encoded, or all are in the cache.
  Decision Decide(DeviceId device, absl::Time now);
  // Between two decisions: an image that is on a device is moving to host memory.
  void Preempt(JobId job) { index_.Preempt(job); }
  void Parked(JobId job, absl::Time now) { index_.Parked(job, now); }
  // The step of the device's last decision was made; `duration`: the step's own. Those that are done are returned, and
  // gone from the core or, where they are kept, `finished` on the device until Decide says that they are decoded, and
  // known until Remove or Displace. Where they are decoded beside the steps they count as on the device as long.
  enum class DoneJobs { kRemove, kKeep };
  std::vector<JobId> StepDone(DeviceId device, absl::Duration duration, DoneJobs done = DoneJobs::kRemove);
  std::vector<JobId> StepDone(DeviceId device, const std::vector<Forward>& forwards, DoneJobs done = DoneJobs::kRemove);

  // What these images of the device's step are, until StepDone; no rows where there is no step.
  StepSize SizeOf(DeviceId device, absl::Span<const JobId> images) const;
  // What a forward that is `timed_later` has taken, of that size.
  void StepTimed(DeviceId device, const StepSize& size, absl::Duration duration);

  // Images on the device that wait to be decoded.
  const std::vector<FinishedImage>& finished(DeviceId device) const { return finished_[device]; }
  // What was measured of the stages beside the steps.
  void RecordTexts(DeviceId device, ModelId model, int text_tokens, int texts, absl::Duration duration);
  // `activation_bytes`: that the device held for it beyond weights and jobs' state; 0: not known.
  void RecordDecode(DeviceId device, ModelId model, int picture_tokens, absl::Duration duration,
                    int64_t activation_bytes = 0);

  // A step of the image by itself, on its device, ran out of memory, though nothing else took any meanwhile.
  void StepTooLarge(JobId job, absl::Time now);
  // The same of a picture that was decoded.
  void DecodeTooLarge(DeviceId device, ModelId model, int picture_tokens, absl::Time now);

  // Until it starts, as predicted now, if `ahead` is what of all that waits goes before it (OrderOf); zero for what
  // does not wait.
  absl::Duration PredictedWait(JobId job, const WaitingWork& ahead, absl::Time now) const;
  // What it still takes by itself.
  WaitingWork WorkOf(JobId job) const;
  // Of its steps, if each takes so long; zero for what is done.
  absl::Duration Remaining(JobId job, absl::Duration step) const;
  // Of a step of these on the device, but for those that are gone. Zeros: nothing is known.
  struct StepForecast {
    absl::Duration duration;
    int64_t activation_bytes = 0;
  };
  StepForecast Forecast(DeviceId device, absl::Span<const JobId> images) const;
  // Sorts what waits as it would be served if nothing came any more.
  Rank OrderOf(JobId job, absl::Time now) const;
  const QueueIndex& index() const { return index_; }

 private:
  SchedulingCore(const CoreOptions& options, std::unique_ptr<const BatchingPolicy> policy, CostModel* costs);
  // -1: none.
  struct StageCurves {
    CurveId text = -1;
    CurveId decode = -1;
  };
  StageCurves StagesOf(ModelId model, const RequestedImage& image);
  AdmissionRequest Translate(const RequestedJobs& request, absl::Time now);
  struct RunningStep;
  static StepSize SizeOf(const RunningStep& step, absl::Span<const JobId> images);
  void Record(DeviceId device, const RunningStep& step, const std::vector<Forward>& forwards);
  absl::Time DueOf(PriorityClass priority, absl::Time deadline, double seconds, absl::Time now) const;

  WaitQuestion QuestionOf(ModelId model, const JobSpec& spec) const;
  void Apply(DeviceId device, const Decision& decision, absl::Time now);
  // For a device that decodes beside its steps: what its decoder gets. True: it is so far behind that what is finished
  // would pile up, and nothing else is decided.
  bool HandToDecoder(DeviceId device, std::vector<JobId>* decode);
  // More than so many of the largest batches wait to be decoded.
  bool MoreFinished(DeviceId device, size_t batches) const;
  // What is prepared and decoded takes the device's time as steps do.
  void ChargeStages(DeviceId device, const Decision& decision, TextCount texts);
  // Which types of devices have the model is what its waiting images are predicted by.
  void TellPresent(CostTypeId type, ModelId model);
  const CostModel& CostsOf(DeviceId device) const { return costs_->Of(index_.device(device).limits.cost_type); }
  void RemoveFinished(JobId job);
  void CountFinished(DeviceId device);
  // What starts for the first time tells how long it has waited.
  void LearnWait(JobId job, absl::Time now);

  // What a device is making: kept for images that are gone when it is made, too.
  struct RunningStep {
    struct Image {
      JobId id = 0;
      StepSize rows;
    };
    std::vector<Image> batch;
  };

  const CoreOptions options_;
  const std::unique_ptr<const BatchingPolicy> policy_;
  const AdmissionOptions admission_;
  CostModel* const costs_;
  QueueIndex index_;
  WaitCorrection waits_;
  std::vector<RunningStep> steps_;                    // by device
  std::vector<std::vector<FinishedImage>> finished_;  // by device
  std::vector<std::vector<FinishedImage>> decoding_;  // by device: beside its steps
};

}  // namespace fresco
