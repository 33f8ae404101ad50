#include "server/scheduler/policy/admission.h"

#include <algorithm>
#include <cmath>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr absl::Duration kMinRetry = absl::Seconds(1);
// Higher classes are never taken to leave less than this of the devices: a burst of them ends.
constexpr double kLeastShareLeft = 0.1;

constexpr double kMemoryOfWaits = 0.98;  // the last fifty or so count
constexpr double kLeastFactor = 0.05, kMostFactor = 4;

PriorityClass Class(int index) {
  return static_cast<PriorityClass>(index);
}

// Seconds of work a second that the devices of a model do.
double Rate(const QueueIndex& index, ModelId model) {
  return std::max(1, index.devices(model)) * index.speedup();
}

double ImageSeconds(const CostModel& costs, const AdmissionRequest::Image& image) {
  return image.steps * costs.StepSeconds(image.curve, image.rows) + image.stage_seconds;
}

absl::Duration AtLeastMinRetry(double seconds) {
  return std::max(kMinRetry, absl::Seconds(seconds));
}

// The most that any device with the model has of a limit; -1: none has the model.
template <typename Limit>
int64_t MostOfDevices(const QueueIndex& index, ModelId model, Limit limit) {
  int64_t most = -1;
  for (DeviceId device = 0; device < index.devices(); ++device) {
    if (index.IsLoaded(device, model)) most = std::max(most, limit(index.device(device).limits));
  }
  return most;
}

void CheckMemory(const QueueIndex& index, const CostModel& costs, const AdmissionRequest& request,
                 Admission* admission) {
  int64_t state = 0;
  for (const AdmissionRequest::Image& image : request.images) {
    // Steps and decodes have the device to themselves where both together would not fit.
    admission->activation_bytes =
        std::max({admission->activation_bytes, costs.ActivationBytes(image.curve, image.rows), image.decode_bytes});
    state = std::max(state, image.state_bytes);
  }
  const int64_t most_activations =
      MostOfDevices(index, request.model, [](const DeviceLimits& limits) { return limits.activation_bytes; });
  const int64_t most_state =
      MostOfDevices(index, request.model, [](const DeviceLimits& limits) { return limits.state_bytes; });
  if (admission->activation_bytes <= most_activations && state <= most_state) return;
  admission->refusal = Admission::Refusal::kMemory;
  admission->message =
      StrCat("an image of this size needs about ", admission->activation_bytes,
             " bytes for a step or its decoding and ", state, " for its latents and texts, where devices have ",
             most_activations, " and ", most_state, ": ask for a smaller width or height");
}

void CheckBacklog(const QueueIndex& index, const AdmissionOptions& options, const AdmissionRequest& request,
                  double seconds, Admission* admission) {
  const int last = options.by_class_and_tenant ? static_cast<int>(request.priority) : kPriorityClasses - 1;
  double waiting = 0;
  double of_tenant = 0;
  for (int i = 0; i <= last; ++i) {
    waiting += index.waiting_work(Class(i)).seconds;
    of_tenant += index.waiting_work(request.tenant, Class(i)).seconds;
  }
  const double limit = options.max_waiting_seconds[last] * std::max(1, index.devices(request.model));
  const double rate = Rate(index, request.model);
  // A single request may be larger than the bound: with nothing before it, it is taken.
  if (waiting > 0 && waiting + seconds > limit) {
    admission->refusal = Admission::Refusal::kQueueFull;
    admission->message = StrCat("the queue is full: work of about ", std::ceil(waiting / rate), " s is waiting");
    admission->retry_after = AtLeastMinRetry((waiting + seconds - limit) / rate);
    return;
  }
  const double weight = index.shares().weight(request.tenant);
  const double share = weight / std::max(index.shares().backlogged_weight(), weight);
  const double allowed = index.shares().beyond(request.tenant) ? share * limit : weight * (limit - waiting);
  if (options.by_class_and_tenant && request.shares && of_tenant > 0 && of_tenant + seconds > allowed) {
    admission->refusal = Admission::Refusal::kTenantShare;
    admission->message = StrCat("too much of this caller is waiting: work of about ", std::ceil(of_tenant / rate),
                                " s, where others need the room");
    // Of its own, so much must be done, with what its share of the devices is now.
    admission->retry_after = AtLeastMinRetry((of_tenant + seconds - allowed) / (rate * share));
  }
}

void CheckDeadline(const AdmissionRequest& request, absl::Time now, Admission* admission) {
  if (now + admission->finish <= request.deadline) return;
  admission->refusal = Admission::Refusal::kDeadline;
  admission->message =
      StrCat("it would be done in about ", std::ceil(absl::ToDoubleSeconds(admission->finish)),
             " s, after its deadline in ", std::floor(absl::ToDoubleSeconds(request.deadline - now) * 10) / 10, " s");
  // By itself it could be in time: once so much less is waiting. Else it must ask for less.
  const absl::Duration alone = admission->finish - admission->wait;
  if (now + alone <= request.deadline) {
    admission->retry_after = std::max(kMinRetry, now + admission->finish - request.deadline);
  }
}

}  // namespace

void WaitCorrection::Record(PriorityClass priority, absl::Duration predicted, absl::Duration actual) {
  // Nobody was before it, and nobody was thought to be.
  if (predicted <= absl::ZeroDuration() && actual <= absl::ZeroDuration()) return;
  Sums& sums = sums_[static_cast<int>(priority)];
  sums.predicted = kMemoryOfWaits * sums.predicted + absl::ToDoubleSeconds(predicted);
  sums.actual = kMemoryOfWaits * sums.actual + absl::ToDoubleSeconds(actual);
}

double WaitCorrection::Factor(PriorityClass priority) const {
  const Sums& sums = sums_[static_cast<int>(priority)];
  return std::clamp(sums.actual / std::max(sums.predicted, 1e-9), kLeastFactor, kMostFactor);
}

absl::Duration PredictWait(const QueueIndex& index, const WaitQuestion& question, absl::Time now) {
  if (index.idle_devices(question.model) > 0) return absl::ZeroDuration();
  const double rate = Rate(index, question.model);
  const bool by_rank = question.by_rank;
  const int own = static_cast<int>(question.priority);
  double ahead = 0;
  double resident = 0;
  double arriving = 0;
  for (int i = 0; i < kPriorityClasses; ++i) {
    if (!by_rank || i <= own) resident += index.resident_work(Class(i)).seconds;
    // Those that are late already come after it.
    ahead += by_rank ? index.WorkDue(Class(i), now, question.due) : index.waiting_work(Class(i)).seconds;
    if (by_rank && i < own) arriving += index.ArrivingWork(Class(i), now);
  }
  if (by_rank && index.shares().beyond(question.tenant)) {  // others' go first, whatever their class
    ahead = 0;
    for (int i = 0; i < kPriorityClasses; ++i) {
      const double others =
          index.waiting_work(Class(i)).seconds - index.waiting_work(question.tenant, Class(i)).seconds;
      ahead += std::max(0.0, others);
    }
  }
  // The first of the devices to be done with what it has is so after its share of a device's share.
  const double devices = std::max(1, index.devices(question.model));
  const double left = std::max(kLeastShareLeft, 1 - arriving / rate);
  return absl::Seconds((ahead + resident / devices) / (rate * left));
}

Admission Admit(const QueueIndex& index, const CostModel& costs, const AdmissionOptions& options,
                const AdmissionRequest& request, absl::Time now) {
  Admission admission;
  double seconds = 0;
  double longest = 0;
  for (const AdmissionRequest::Image& image : request.images) {
    seconds += ImageSeconds(costs, image);
    longest = std::max(longest, ImageSeconds(costs, image));
  }
  admission.wait = PredictWait(
      index, {request.model, request.tenant, request.priority, request.due, options.by_class_and_tenant}, now);
  admission.wait *= request.wait_factor;
  // Its images spread over the devices.
  const double spread = seconds / std::max(1, index.devices(request.model));
  admission.finish = admission.wait + absl::Seconds(std::max(longest, spread));
  CheckMemory(index, costs, request, &admission);
  if (admission.refusal == Admission::Refusal::kNone) CheckBacklog(index, options, request, seconds, &admission);
  if (admission.refusal == Admission::Refusal::kNone && options.refuse_hopeless) {
    CheckDeadline(request, now, &admission);
  }
  return admission;
}

}  // namespace fresco
