#include "server/rpc/profile_reactor.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/layer_times.h"
#include "pipeline/engine/measured_limits.h"
#include "server/rpc/call.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/rpc/wire.h"
#include "server/scheduler/step_profiler.h"

namespace fresco {
namespace {

constexpr int kDefaultSteps = 5, kMostSteps = 64;
constexpr int kMostTracedSteps = 16;  // of a large model each is some 10 MB
// The message's other fields are a few numbers.
constexpr size_t kChunkBytes = (1 << 20) - (1 << 10);
constexpr char kStepStage[] = "step";

absl::StatusOr<StepProfiler::Order> OrderOf(const v1::ProfileRequest& request, const RpcDependencies& environment) {
  if (environment.profiler == nullptr) return absl::UnimplementedError("this server has no profiler");
  StepProfiler::Order order;
  order.model = environment.models->NameOf(request.model());
  FRESCO_RETURN_IF_ERROR(environment.models->Find(order.model).status());
  const int most = request.trace() ? kMostTracedSteps : kMostSteps;
  if (request.steps() < 0 || request.steps() > most)
    return InvalidRequest({{"steps", absl::StrCat("must be from 1 to ", most, ", or 0 for ", kDefaultSteps)}});
  order.steps = request.steps() == 0 ? kDefaultSteps : request.steps();
  order.detail = request.trace() ? RecordedDetail::kOperations : RecordedDetail::kLayers;
  order.device = request.device();
  const std::vector<std::string> devices = environment.models->Describe(order.model).devices;
  if (!order.device.empty() && std::find(devices.begin(), devices.end(), order.device) == devices.end()) {
    return InvalidRequest({{"device", absl::StrCat("'", Excerpt(order.device), "' does not have the model, but ",
                                                   absl::StrJoin(devices, ", "))}});
  }
  return order;
}

void SetSeconds(double seconds, google::protobuf::Duration* out) {
  SetDuration(absl::Seconds(seconds), out);
}

// With one of the limits alone nothing is said of which holds a layer up, unless it has nothing to do with the other.
std::string_view BoundOf(const LayerTime& layer, const LeastTimes& least) {
  return least.memory > 0 && (least.products > 0 || layer.flops == 0) ? least.bound() : "";
}

void SetLayer(const LayerTime& layer, const MeasuredLimits& limits, v1::ProfiledLayer* out) {
  out->set_name(layer.name);
  out->set_kind(std::string(LayerKindName(layer.kind)));
  out->set_dtype(layer.dtype);
  SetSeconds(layer.seconds, out->mutable_duration());
  out->set_flops(layer.flops);
  out->set_bytes(layer.bytes);
  const LeastTimes least = LeastTimesOf(layer, limits);
  if (least.products > 0 && layer.seconds > 0) out->set_share_of_peak(least.products / layer.seconds);
  if (least.memory > 0 && layer.seconds > 0) out->set_share_of_bandwidth(least.memory / layer.seconds);
  out->set_bound(std::string(BoundOf(layer, least)));
}

absl::Status SetProfile(const std::string& model, const StepsProfile& profile, v1::StepProfile* out) {
  const std::vector<StageTimes> stages = AddUpLayers(profile.recordings);
  const auto step =
      std::find_if(stages.begin(), stages.end(), [](const StageTimes& stage) { return stage.name == kStepStage; });
  if (step == stages.end()) return absl::InternalError("the profiler has recorded no step");
  out->set_model(model);
  out->set_device(profile.device);
  out->set_steps(static_cast<int>(profile.recordings.size()));
  SetSeconds(step->seconds, out->mutable_step());
  SetDuration(profile.recorded, out->mutable_recorded_step());
  SetDuration(profile.plain, out->mutable_plain_step());
  if (profile.overhead.has_value()) out->set_overhead(*profile.overhead);
  SetDuration(profile.pauses, out->mutable_pauses());
  SetSeconds(step->outside_seconds, out->mutable_outside_layers());
  SetSeconds(step->idle_seconds, out->mutable_device_idle());
  if (profile.limits.bandwidth > 0) out->set_memory_bandwidth(profile.limits.bandwidth);
  for (const LayerTime& layer : step->layers) SetLayer(layer, profile.limits, out->add_layers());
  return absl::OkStatus();
}

// Looks every now and then whether the steps are recorded, instead of keeping a thread; puts the answer together on
// gRPC's threads, since the device's has other things to do.
class ProfileReactor final : public grpc::ServerWriteReactor<v1::ProfileResponse> {
 public:
  ProfileReactor(const RpcDependencies& environment, const grpc::CallbackServerContext& context)
      : environment_(environment), answer_by_(DeadlineOf(context, *environment.clock) - 2 * kInterval) {}

  void Start(const v1::ProfileRequest& request, const absl::Status& refused) {
    const absl::Status begun = refused.ok() ? Begin(request) : refused;
    if (begun.ok()) {
      Look();
    } else {
      Finish(ToGrpcStatus(begun));
    }
  }

  void OnWriteDone(bool ok) override {
    Meet();
    if (!ok) {
      Finish(ToGrpcStatus(absl::CancelledError("the caller has gone")));
    } else if (sent_ < trace_.size()) {
      WriteChunk();
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnCancel() override { gone_ = true; }
  void OnDone() override {
    Meet();  // also Look, which may just have set the alarm that has led here
    delete this;
  }

 private:
  static constexpr absl::Duration kInterval = absl::Milliseconds(100);

  absl::Status Begin(const v1::ProfileRequest& request) {
    FRESCO_ASSIGN_OR_RETURN(const StepProfiler::Order order, OrderOf(request, environment_));
    model_ = order.model;
    wants_trace_ = request.trace();
    FRESCO_ASSIGN_OR_RETURN(number_, environment_.profiler->Start(order, [ready = ready_] { *ready = true; }));
    return absl::OkStatus();
  }

  // What gRPC's threads do for a call they do one after the other; that what one has written is there for the next is
  // said here too, since ThreadSanitizer does not see into gRPC's library.
  void Meet() { MutexLock lock(&mutex_); }

  void Look() {
    if (IsTime()) Answer();
  }

  // Whether to answer now; if not, sees to it that it is asked again.
  bool IsTime() {
    MutexLock lock(&mutex_);
    if (*ready_ || gone_ || environment_.clock->Now() >= answer_by_ || !environment_.models->Find(model_).ok())
      return true;
    // The old alarm is the one whose callback this may be.
    const auto old = std::exchange(alarm_, std::make_unique<grpc::Alarm>());
    alarm_->Set(SystemTimeIn(kInterval), [this](bool /*ok*/) { Look(); });
    return false;
  }

  void Answer() {
    absl::StatusOr<StepsProfile> profile = environment_.profiler->Take(number_);
    const absl::Status made = profile.ok() ? PutTogether(*profile) : profile.status();
    Meet();
    if (made.ok()) {
      StartWrite(&message_);
    } else {
      Finish(ToGrpcStatus(made));
    }
  }

  absl::Status PutTogether(const StepsProfile& profile) {
    if (gone_) return absl::CancelledError("the caller has gone");
    // It may have been unloaded meanwhile.
    if (profile.recordings.empty()) FRESCO_RETURN_IF_ERROR(environment_.models->Find(model_).status());
    if (profile.recordings.empty())
      return absl::DeadlineExceededError(
          absl::StrCat("no step of the model '", model_, "' was recorded by then: ", "it has made fewer than two"));
    FRESCO_RETURN_IF_ERROR(SetProfile(model_, profile, message_.mutable_profile()));
    if (wants_trace_) {
      FRESCO_ASSIGN_OR_RETURN(trace_, MergeTraces(profile.recordings));
    }
    return absl::OkStatus();
  }

  void WriteChunk() {
    v1::TraceChunk* const chunk = message_.mutable_trace();
    chunk->set_offset(static_cast<int64_t>(sent_));
    chunk->set_total_bytes(static_cast<int64_t>(trace_.size()));
    chunk->set_data(trace_.substr(sent_, kChunkBytes));
    sent_ += chunk->data().size();
    Meet();
    StartWrite(&message_);
  }

  const RpcDependencies& environment_;
  const absl::Time answer_by_;
  const std::shared_ptr<std::atomic<bool>> ready_ = std::make_shared<std::atomic<bool>>(false);
  std::atomic<bool> gone_ = false;
  // Set before the first look; then of whoever answers or writes, one after the other.
  std::string model_;
  bool wants_trace_ = false;
  int64_t number_ = 0;
  v1::ProfileResponse message_;
  std::string trace_;
  size_t sent_ = 0;  // of the trace

  Mutex mutex_;
  std::unique_ptr<grpc::Alarm> alarm_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<v1::ProfileResponse>* StartProfile(const RpcDependencies& environment,
                                                            const grpc::CallbackServerContext& context,
                                                            const v1::ProfileRequest& request,
                                                            const absl::Status& refused) {
  auto* reactor = new ProfileReactor(environment, context);
  reactor->Start(request, refused);
  return reactor;
}

}  // namespace fresco
