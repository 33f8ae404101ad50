#include "server/scheduler/policy/admission.h"

#include <algorithm>
#include <cmath>

#include "pipeline/base/format_bytes.h"
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

// A quarter more than what there is may have been seen, and fit all the same: engines take memory for speed where they
// find it (workspaces, texts that they keep). What does not fit after all is known from then on.
constexpr double kSeenMayBeMore = 1.25;

// What an image needs by itself, as far as has been seen. Steps and decodes have the device to themselves where both
// together would not fit; large pictures are decoded in tiles, so that of decodes each size tells of itself alone.
struct ImageMemory {
  int64_t activation_bytes = 0;
  int64_t state_bytes = 0;
};

ImageMemory MemoryOf(const CostModel& costs, const AdmissionRequest::Image& image) {
  const int64_t decode = image.decode_curve < 0 ? 0 : costs.SeenActivationBytes(image.decode_curve, 1);
  return {std::max(costs.LeastActivationBytes(image.curve, image.rows), decode), image.state_bytes};
}

bool FailedOn(const QueueIndex& index, DeviceId device, const AdmissionRequest::Image& image, absl::Time now) {
  return index.IsTooLarge(device, image.curve, image.rows, now) ||
         (image.decode_curve >= 0 && index.IsTooLarge(device, image.decode_curve, 1, now));
}

// What other images hold there does not count: it can go.
bool FitsInto(const DeviceLimits& limits, const ImageMemory& memory) {
  return static_cast<double>(memory.activation_bytes) <=
             kSeenMayBeMore * static_cast<double>(limits.memory_bytes - memory.state_bytes) &&
         memory.state_bytes <= limits.state_bytes;
}

std::string WhyTooLarge(const ImageMemory& memory, const DeviceLimits& most, bool failed) {
  std::string has = most.memory_bytes >= kNoMemoryLimit
                        ? std::string()
                        : StrCat(FormatBytes(most.memory_bytes), " beside the models' weights and ");
  const std::string why = StrCat(FormatBytes(memory.activation_bytes), " for a step or its decoding and ",
                                 FormatBytes(memory.state_bytes), " for its latents and texts, where a device has ",
                                 has, FormatBytes(most.state_bytes), " for latents and texts");
  return failed ? StrCat("an image of this size, whose steps took ", why,
                         ", has run out of memory by itself: ask for a smaller width or height")
                : StrCat("an image of this size needs about ", why, ": ask for a smaller width or height");
}

// Refused where no device with the model is known to have room for each image.
void CheckMemory(const QueueIndex& index, const CostModel& costs, const AdmissionRequest& request, absl::Time now,
                 Admission* admission) {
  for (const AdmissionRequest::Image& image : request.images) {
    ImageMemory memory;
    const DeviceLimits* most = nullptr;
    bool fits = false, failed = false;
    for (DeviceId device = 0; device < index.devices() && !fits; ++device) {
      if (!index.IsLoaded(device, request.model)) continue;
      const DeviceLimits& limits = index.device(device).limits;
      memory = MemoryOf(costs.Of(limits.cost_type), image);
      admission->activation_bytes = std::max(admission->activation_bytes, memory.activation_bytes);
      const bool failed_here = FailedOn(index, device, image, now);
      fits = FitsInto(limits, memory) && !failed_here;
      failed = failed || failed_here;
      if (most == nullptr || limits.memory_bytes > most->memory_bytes) most = &limits;
    }
    if (fits) continue;
    admission->refusal = Admission::Refusal::kMemory;
    admission->message = most == nullptr ? "no device has the model" : WhyTooLarge(memory, *most, failed);
    return;
  }
}

void CheckBacklog(const QueueIndex& index, const AdmissionOptions& options, const AdmissionRequest& request,
                  double seconds, Admission* admission) {
  const int last = options.by_class_and_tenant ? static_cast<int>(request.priority) : kPriorityClasses - 1;
  double waiting = 0;
  double of_tenant = 0;
  for (int i = 0; i <= last; ++i) {
    waiting += index.waiting_work(request.model, Class(i)).seconds;
    of_tenant += index.waiting_work(request.model, request.tenant, Class(i)).seconds;
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

// Seconds of what waits that goes before one that comes now.
double WorkAhead(const QueueIndex& index, const WaitQuestion& question, absl::Time now) {
  const ModelId model = question.model;
  const bool beyond = question.by_rank && index.shares().beyond(question.tenant);
  double ahead = 0;
  for (int i = 0; i < kPriorityClasses; ++i) {
    if (question.by_rank && !beyond) {  // those that are late already come after it
      ahead += index.WorkDue(model, Class(i), now, question.due);
      continue;
    }
    ahead += index.waiting_work(model, Class(i)).seconds;
    // Others' go first, whatever their class.
    if (beyond) ahead -= index.waiting_work(model, question.tenant, Class(i)).seconds;
  }
  return std::max(0.0, ahead);
}

// Until so much of what waits has been done, and what is on the devices before that.
absl::Duration WaitFor(const QueueIndex& index, const WaitQuestion& question, double ahead, absl::Time now) {
  const double rate = Rate(index, question.model);
  const int own = static_cast<int>(question.priority);
  double resident = 0;
  double arriving = 0;
  for (int i = 0; i < kPriorityClasses; ++i) {
    if (!question.by_rank || i <= own) resident += index.resident_work(question.model, Class(i));
    if (question.by_rank && i < own) arriving += index.ArrivingWork(question.model, Class(i), now);
  }
  // The first of the devices to be done with what it has is so after its share of a device's share.
  const double devices = std::max(1, index.devices(question.model));
  const double left = std::max(kLeastShareLeft, 1 - arriving / rate);
  return absl::Seconds((ahead + resident / devices) / (rate * left));
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
  return WaitFor(index, question, WorkAhead(index, question, now), now);
}

absl::Duration PredictWaitBehind(const QueueIndex& index, const WaitQuestion& question, const WaitingWork& ahead,
                                 absl::Time now) {
  if (index.idle_devices(question.model) > ahead.jobs) return absl::ZeroDuration();
  return WaitFor(index, question, ahead.seconds, now);
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
  CheckMemory(index, costs, request, now, &admission);
  if (admission.refusal == Admission::Refusal::kNone) CheckBacklog(index, options, request, seconds, &admission);
  if (admission.refusal == Admission::Refusal::kNone && options.refuse_hopeless) {
    CheckDeadline(request, now, &admission);
  }
  return admission;
}

}  // namespace fresco
