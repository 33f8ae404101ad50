#include "server/scheduler/policy/scheduling_core.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "pipeline/base/status.h"
#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

// Of a class's max_wait: how much work may wait for each device. Less than what is left of it when an image goes before
// those that have not waited as long (a third): predictions err, and a step that runs is not interrupted. It is also
// the share of the devices, over that third, that late images can take from others under lasting overload.
constexpr double kBacklogShare = 0.2;
constexpr double kWeightOfNewestSpeedup = 0.01;

// While more images than that, times the largest batch, wait to be decoded, none starts that has not before; and where
// they are decoded beside the steps no step is made at all.
constexpr size_t kManyFinished = 1, kMostFinished = 2;

constexpr std::string_view kDeadlineFair = "deadline-fair";

IndexOptions IndexOptionsOf(const CoreOptions& options) {
  IndexOptions index;
  for (int i = 0; i < kPriorityClasses; ++i) index.max_wait[i] = options.classes[i].max_wait;
  index.fairness_window = options.fairness_window;
  index.drop_hopeless = options.policy == kDeadlineFair;
  return index;
}

AdmissionOptions AdmissionOptionsOf(const CoreOptions& options) {
  AdmissionOptions admission;
  for (int i = 0; i < kPriorityClasses; ++i) {
    admission.max_waiting_seconds[i] = kBacklogShare * absl::ToDoubleSeconds(options.classes[i].max_wait);
  }
  admission.by_class_and_tenant = options.policy == kDeadlineFair;
  admission.refuse_hopeless = options.policy == kDeadlineFair;
  return admission;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SchedulingCore>> SchedulingCore::Create(const CoreOptions& options, CostModel* costs) {
  FRESCO_ASSIGN_OR_RETURN(auto policy, MakeBatchingPolicy(options.policy));
  return std::unique_ptr<SchedulingCore>(new SchedulingCore(options, std::move(policy), costs));
}

SchedulingCore::SchedulingCore(const CoreOptions& options, std::unique_ptr<const BatchingPolicy> policy,
                               CostModel* costs)
    : options_(options),
      policy_(std::move(policy)),
      admission_(AdmissionOptionsOf(options)),
      costs_(costs),
      index_(IndexOptionsOf(options), costs) {}

DeviceId SchedulingCore::AddDevice(const DeviceLimits& limits) {
  steps_.emplace_back();
  finished_.emplace_back();
  decoding_.emplace_back();
  return index_.AddDevice(limits);
}

void SchedulingCore::SetLoaded(DeviceId device, ModelId model, bool loaded) {
  index_.SetLoaded(device, model, loaded);
  TellPresent(index_.device(device).limits.cost_type, model);
}

void SchedulingCore::TellPresent(CostTypeId type, ModelId model) {
  if (type == 0) return;
  bool present = false;
  for (DeviceId device = 0; device < index_.devices(); ++device) {
    present = present || (index_.device(device).limits.cost_type == type && index_.IsLoaded(device, model));
  }
  const std::string& name = index_.model_name(model);
  for (const std::string& curves : {name, TextCurveName(name), DecodeCurveName(name)}) {
    costs_->SetPresent(type, curves, present);
  }
}

absl::Time SchedulingCore::DueOf(PriorityClass priority, absl::Time deadline, double seconds, absl::Time now) const {
  const ClassOptions& own = options_.classes[static_cast<int>(priority)];
  return std::min(deadline, now + own.target + absl::Seconds(own.stretch * seconds));
}

AdmissionRequest SchedulingCore::Translate(const RequestedJobs& request, absl::Time now) {
  const auto weight = options_.tenant_weights.find(request.tenant);
  AdmissionRequest translated;
  translated.tenant = index_.Tenant(request.tenant, weight == options_.tenant_weights.end() ? 1 : weight->second);
  translated.wait_factor = waits_.Factor(request.priority);
  translated.shares = !request.tenant.empty();
  translated.priority = request.priority;
  translated.deadline = request.deadline;
  translated.model = request.model;
  double alone = 0;
  for (const RequestedImage& image : request.images) {
    const CurveId curve = costs_->Curve(index_.model_name(request.model), image.tokens);
    const StageCurves stages = StagesOf(request.model, image);
    const double stage_seconds = StageSeconds(*costs_, stages.text, stages.decode);
    translated.images.push_back({curve, image.rows, image.steps, image.state_bytes, stage_seconds, stages.decode});
    alone += image.steps * costs_->StepSeconds(curve, image.rows) + stage_seconds;
  }
  translated.due = DueOf(request.priority, request.deadline, alone, now);
  return translated;
}

SchedulingCore::StageCurves SchedulingCore::StagesOf(ModelId model, const RequestedImage& image) {
  const std::string& name = index_.model_name(model);
  StageCurves curves;
  if (image.text_tokens > 0) curves.text = TextCurve(costs_, name, image.text_tokens);
  if (image.picture_tokens > 0) curves.decode = DecodeCurve(costs_, name, image.picture_tokens);
  return curves;
}

Admission SchedulingCore::Admit(const RequestedJobs& request, absl::Time now) {
  return fresco::Admit(index_, *costs_, admission_, Translate(request, now), now);
}

std::vector<JobId> SchedulingCore::Add(const RequestedJobs& request, absl::Time now) {
  const AdmissionRequest translated = Translate(request, now);
  std::vector<JobId> jobs;
  for (size_t i = 0; i < request.images.size(); ++i) {
    const RequestedImage& image = request.images[i];
    JobSpec spec;
    spec.tenant = translated.tenant;
    spec.priority = request.priority;
    spec.group = index_.GroupOf(request.model, image.batch_key, image.tokens);
    spec.rows = image.rows;
    spec.steps = image.steps;
    spec.state_bytes = image.state_bytes;
    spec.alone = image.alone;
    spec.one_type = image.one_type;
    spec.sequence = request.sequence;
    spec.image_index = static_cast<int>(i);
    spec.received = now;
    spec.due = translated.due;
    spec.deadline = request.deadline;
    const StageCurves stages = StagesOf(request.model, image);
    spec.text_curve = stages.text;
    spec.decode_curve = stages.decode;
    spec.predicted_wait = i == 0 ? PredictWait(index_, QuestionOf(request.model, spec), now) : absl::ZeroDuration();
    jobs.push_back(index_.Add(spec, now));
  }
  return jobs;
}

std::vector<JobId> SchedulingCore::DropHopeless(DeviceId device, absl::Time now) {
  index_.AdvanceTo(now);
  std::vector<JobId> hopeless = index_.Hopeless(device, now);
  for (JobId job : hopeless) index_.Remove(job);
  return hopeless;
}

void SchedulingCore::Remove(JobId job) {
  RemoveFinished(job);
  index_.Remove(job);
}

void SchedulingCore::Displace(JobId job, int steps_left, absl::Time now) {
  RemoveFinished(job);
  index_.Displace(job, steps_left, now);
}

void SchedulingCore::RemoveFinished(JobId job) {
  const DeviceId device = index_.job(job).device;
  if (device < 0) return;
  const auto is_it = [&](const FinishedImage& image) { return image.id == job; };
  std::erase_if(finished_[device], is_it);
  std::erase_if(decoding_[device], is_it);
  CountFinished(device);
}

void SchedulingCore::CountFinished(DeviceId device) {
  int64_t bytes = 0, activations = 0;
  for (const FinishedImage& image : finished_[device]) bytes += image.spec.state_bytes;
  for (const FinishedImage& image : decoding_[device]) {
    bytes += image.spec.state_bytes;
    // One after another.
    if (image.spec.decode_curve >= 0) {
      activations = std::max(activations, CostsOf(device).ActivationBytes(image.spec.decode_curve, 1));
    }
  }
  index_.SetFinished(device, static_cast<int>(finished_[device].size() + decoding_[device].size()), bytes);
  index_.SetDecoding(device, activations);
}

Decision SchedulingCore::Decide(DeviceId device, absl::Time now) {
  return Decide(device, now, [](absl::Span<const JobId> images) { return std::vector<int>(images.size(), 0); });
}

Decision SchedulingCore::Decide(DeviceId device, absl::Time now, TextCount texts) {
  index_.AdvanceTo(now);
  std::vector<JobId> handed;
  if (HandToDecoder(device, &handed)) {
    Decision decision;
    decision.decode = std::move(handed);
    ChargeStages(device, decision, texts);
    return decision;
  }
  const bool beside = index_.device(device).limits.decoding > 0;
  const auto between = beside ? absl::Span<const FinishedImage>() : absl::MakeConstSpan(finished_[device]);
  // Where decodes take longer than steps, what is finished would pile up, and be held up by what came after it.
  index_.SetBegunOnly(device, MoreFinished(device, kManyFinished));
  Decision decision = policy_->Decide(index_, CostsOf(device), device, now);
  BoundStages(index_, CostsOf(device), between, texts, options_.policy == kDeadlineFair, &decision);
  for (JobId job : decision.decode) RemoveFinished(job);
  decision.decode.insert(decision.decode.end(), handed.begin(), handed.end());
  ChargeStages(device, decision, texts);
  Apply(device, decision, now);
  return decision;
}

bool SchedulingCore::HandToDecoder(DeviceId device, std::vector<JobId>* decode) {
  const DeviceLimits& limits = index_.device(device).limits;
  std::vector<FinishedImage>& decoding = decoding_[device];
  const auto most = static_cast<size_t>(limits.decoding);
  if (most == 0) return false;
  if (decoding.size() < most) {
    *decode = NextDecodes(CostsOf(device), finished_[device], options_.policy == kDeadlineFair, most - decoding.size());
  }
  for (JobId job : *decode) {
    const FinishedImage image = {job, index_.job(job).spec};
    RemoveFinished(job);
    decoding.push_back(image);
  }
  CountFinished(device);
  return MoreFinished(device, kMostFinished);
}

bool SchedulingCore::MoreFinished(DeviceId device, size_t batches) const {
  return finished_[device].size() > batches * static_cast<size_t>(index_.device(device).limits.max_batch);
}

// By the model's times: what one call took tells too little of each of those that shared it.
void SchedulingCore::ChargeStages(DeviceId device, const Decision& decision, TextCount texts) {
  const CostModel& costs = CostsOf(device);
  std::vector<JobId> fresh;
  for (JobId id : decision.start) {
    const Job& job = index_.job(id);
    if (job.steps_left == job.spec.steps) fresh.push_back(id);
  }
  for (const auto& [id, seconds] : TextShares(index_, costs, fresh, texts)) {
    index_.Charge(index_.job(id).spec.tenant, seconds);
  }
  for (JobId id : decision.decode) {
    const JobSpec& spec = index_.job(id).spec;
    index_.Charge(spec.tenant, StageSeconds(costs, -1, spec.decode_curve));
  }
}

void SchedulingCore::Apply(DeviceId device, const Decision& decision, absl::Time now) {
  for (JobId job : decision.preempt) index_.Preempt(job);
  for (JobId job : decision.start) {
    LearnWait(job, now);
    index_.Start(job, device);
  }
  index_.SetBatch(device, decision.batch, !decision.decode.empty() && index_.device(device).limits.decoding == 0);
  RunningStep step;
  for (JobId id : decision.batch) {
    index_.AddRows(index_.job(id), &step.batch.emplace_back(RunningStep::Image{id, {}}).rows);
  }
  steps_[device] = std::move(step);
}

void SchedulingCore::RecordTexts(DeviceId device, ModelId model, int text_tokens, int texts, absl::Duration duration) {
  const CurveId curve = TextCurve(costs_, index_.model_name(model), text_tokens);
  costs_->MutableOf(index_.device(device).limits.cost_type)->RecordStep(curve, texts, duration);
}

void SchedulingCore::RecordDecode(DeviceId device, ModelId model, int picture_tokens, absl::Duration duration,
                                  int64_t activation_bytes) {
  const CurveId curve = DecodeCurve(costs_, index_.model_name(model), picture_tokens);
  CostModel* const costs = costs_->MutableOf(index_.device(device).limits.cost_type);
  costs->RecordStep(curve, 1, duration);
  if (activation_bytes > 0) costs->RecordMemory(curve, 1, activation_bytes);
}

std::vector<JobId> SchedulingCore::StepDone(DeviceId device, absl::Duration duration, DoneJobs done) {
  Forward all;
  for (const RunningStep::Image& image : steps_[device].batch) all.images.push_back(image.id);
  all.duration = duration;
  return StepDone(device, {all}, done);
}

void SchedulingCore::Record(DeviceId device, const RunningStep& step, const std::vector<Forward>& forwards) {
  CostModel* const costs = costs_->MutableOf(index_.device(device).limits.cost_type);
  std::vector<StepSize> out_of_memory;
  for (const Forward& forward : forwards) {
    const StepSize size = SizeOf(step, forward.images);
    if (size.rows() == 0) continue;
    if (forward.out_of_memory) {
      out_of_memory.push_back(size);
      continue;
    }
    if (!forward.timed_later) costs->RecordStep(size, forward.duration);
    if (forward.activation_bytes > 0) costs->RecordMemory(size, forward.activation_bytes);
  }
  // By what the parts that did fit have needed.
  index_.RaiseBatchMemory(device);
  for (const StepSize& size : out_of_memory) index_.LowerBatchMemory(device, costs->ActivationBytes(size));
}

StepSize SchedulingCore::SizeOf(const RunningStep& step, absl::Span<const JobId> images) {
  StepSize size;
  for (const RunningStep::Image& image : step.batch) {
    if (std::find(images.begin(), images.end(), image.id) != images.end()) size.Add(image.rows);
  }
  return size;
}

StepSize SchedulingCore::SizeOf(DeviceId device, absl::Span<const JobId> images) const {
  return SizeOf(steps_[device], images);
}

void SchedulingCore::StepTimed(DeviceId device, const StepSize& size, absl::Duration duration) {
  if (size.rows() == 0) return;
  costs_->MutableOf(index_.device(device).limits.cost_type)->RecordStep(size, duration);
}

void SchedulingCore::StepTooLarge(JobId id, absl::Time now) {
  const Job& job = index_.job(id);
  if (job.state != JobState::kResident) return;  // displaced meanwhile
  index_.AddTooLarge(job.device, {index_.group(job.spec.group).curve, job.spec.rows, true, now + kTooLargeFor}, now);
}

// Larger ones may be decoded in tiles.
void SchedulingCore::DecodeTooLarge(DeviceId device, ModelId model, int picture_tokens, absl::Time now) {
  const CurveId curve = DecodeCurve(costs_, index_.model_name(model), picture_tokens);
  index_.AddTooLarge(device, {curve, 1, false, now + kTooLargeFor}, now);
}

std::vector<JobId> SchedulingCore::StepDone(DeviceId device, const std::vector<Forward>& forwards, DoneJobs keep) {
  const RunningStep step = std::exchange(steps_[device], {});
  if (step.batch.empty()) return {};
  Record(device, step, forwards);
  double seconds = 0;
  for (const Forward& forward : forwards) seconds += absl::ToDoubleSeconds(forward.duration);
  double work = 0;
  for (const RunningStep::Image& image : step.batch) work += image.rows.work();
  double alone = 0;
  std::vector<JobId> done;
  for (const auto& [id, rows] : step.batch) {
    if (!index_.Contains(id)) continue;
    const Job& job = index_.job(id);
    if (job.state != JobState::kResident || job.device != device) continue;  // displaced while the step was made
    alone += job.seconds_left / job.steps_left;
    index_.Charge(job.spec.tenant, seconds * rows.work() / work);
    index_.Advanced(id);
    if (job.steps_left == 0) done.push_back(id);
  }
  if (seconds > 0 && std::isfinite(seconds) && alone > 0) {
    index_.SetSpeedup(index_.speedup() + kWeightOfNewestSpeedup * (alone / seconds - index_.speedup()));
  }
  for (JobId id : done) {
    if (keep == DoneJobs::kKeep) {
      finished_[device].push_back({id, index_.job(id).spec});
      index_.Preempt(id);
    } else {
      index_.Remove(id);
    }
  }
  CountFinished(device);
  return done;
}

void SchedulingCore::RemoveDevice(DeviceId device) {
  index_.SetBatch(device, {});
  steps_[device] = {};
  index_.RemoveDevice(device);
  const QueueIndex::Device& lost = index_.device(device);
  for (size_t model = 0; model < lost.models.size(); ++model) {
    TellPresent(lost.limits.cost_type, static_cast<ModelId>(model));
  }
}

SchedulingCore::StepForecast SchedulingCore::Forecast(DeviceId device, absl::Span<const JobId> images) const {
  StepSize size;
  for (JobId id : images) {
    if (index_.Contains(id)) index_.AddRows(index_.job(id), &size);
  }
  if (size.rows() == 0) return {};
  const CostModel& costs = CostsOf(device);
  return {absl::Seconds(costs.StepSeconds(size)), costs.ActivationBytes(size)};
}

absl::Duration SchedulingCore::Remaining(JobId id, absl::Duration step) const {
  return index_.job(id).steps_left * step;
}

Rank SchedulingCore::OrderOf(JobId id, absl::Time now) const {
  const Job& job = index_.job(id);
  if (options_.policy == kDeadlineFair) return index_.RankOf(job, now);
  Rank order;
  order.sequence = job.spec.sequence;
  order.image_index = job.spec.image_index;
  return order;
}

absl::Duration SchedulingCore::PredictedWait(JobId id, const WaitingWork& ahead, absl::Time now) const {
  const Job& job = index_.job(id);
  if (job.state != JobState::kWaiting) return absl::ZeroDuration();
  const WaitQuestion question = QuestionOf(index_.group(job.spec.group).model, job.spec);
  return PredictWaitBehind(index_, question, ahead, now) * waits_.Factor(job.spec.priority);
}

WaitingWork SchedulingCore::WorkOf(JobId id) const {
  const Job& job = index_.job(id);
  return {1, job.seconds_left + job.stage_seconds};
}

WaitQuestion SchedulingCore::QuestionOf(ModelId model, const JobSpec& spec) const {
  return {model, spec.tenant, spec.priority, spec.due, admission_.by_class_and_tenant};
}

// A request's first image tells, as the prediction is for that.
void SchedulingCore::LearnWait(JobId id, absl::Time now) {
  const Job& job = index_.job(id);
  if (job.spec.image_index > 0 || job.begun) return;
  waits_.Record(job.spec.priority, job.spec.predicted_wait, now - job.spec.received);
}

}  // namespace fresco
