#include "server/rpc/services.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"
#include "server/rpc/authorize.h"
#include "server/rpc/call.h"
#include "server/rpc/create_image_reactor.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/model_manager.h"
#include "server/rpc/model_reactors.h"
#include "server/rpc/profile_reactor.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/shared_requests.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/rpc/waiting_requests.h"
#include "server/rpc/wire.h"
#include "server/rpc/wire_bytes.h"

namespace fresco {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

void AddSaturation(const ModelInfo& info, const EngineStats& stats, v1::Device* out) {
  for (const EngineStats::SaturatedLayer& layer : stats.saturated_layers) {
    std::vector<std::string> kinds;
    if (layer.saturated > 0) kinds.push_back(StrCat(layer.saturated, " clamped"));
    if (layer.guarded > 0) kinds.push_back(StrCat(layer.guarded, " kept by the overflow guard"));
    out->add_notes(StrCat(info.name, ": saturated: ", layer.name, ": of ", layer.elements, " activations ",
                          absl::StrJoin(kinds, ", "), " (docs/PRECISION.md)"));
  }
}

void SetDevice(const DeviceSnapshot& snapshot, const RpcDependencies& environment, v1::Device* out) {
  out->set_name(snapshot.device);
  out->set_batch_size(snapshot.batch_size);
  out->set_lost(snapshot.lost);
  for (const std::string& model : snapshot.models) out->add_models(model);
  for (const std::string& note : environment.models->Notes(snapshot.device)) out->add_notes(note);
  for (const SlowLoad& load : snapshot.slow_loads) {
    out->add_notes(
        absl::StrCat("the model '", load.model, "' has been loading for ", absl::FormatDuration(load.since)));
  }
  int64_t weights = 0, allocated = 0, peak = 0;
  for (const ModelStatus& model : environment.models->List()) {
    for (const EngineView& engine : model.engines) {
      if (engine->info().device != snapshot.device) continue;
      const EngineStats stats = engine->stats();
      weights += stats.weight_bytes;
      AddSaturation(engine->info(), stats, out);
      // These two are the process's on the device, and the same from each of its engines.
      allocated = std::max(allocated, stats.allocated_bytes);
      peak = std::max(peak, stats.peak_bytes);
    }
  }
  if (environment.manager != nullptr)
    out->set_memory_budget_bytes(environment.manager->BudgetOf(snapshot.device).value_or(0));
  out->set_memory_weights_bytes(weights);
  out->set_memory_allocated_bytes(allocated);
  out->set_memory_peak_bytes(peak);
}

int RequestsLeft(const Scheduler& scheduler) {
  const SchedulerSnapshot snapshot = scheduler.Snapshot();
  return snapshot.waiting + snapshot.running;
}

// Answers when no request is left, or just before the caller's deadline. Looks every now and then instead of keeping a
// thread.
class DrainReactor final : public grpc::ServerUnaryReactor {
 public:
  DrainReactor(const RpcDependencies& environment, grpc::CallbackServerContext* context, v1::DrainResponse* response)
      : environment_(environment),
        answer_by_(AnswerBy(DeadlineOf(*context, *environment.clock), environment.clock->Now())),
        response_(response) {}

  void Look() {
    if (IsTime()) Finish(grpc::Status::OK);
  }

  void OnCancel() override { gone_ = true; }
  void OnDone() override { delete this; }

 private:
  static constexpr absl::Duration kInterval = absl::Milliseconds(100);

  // So that the answer is there in time: the caller's own timer ends the call up to a hundredth of its time before ours
  // (call.cc), and either side may be busy.
  static absl::Time AnswerBy(absl::Time deadline, absl::Time now) {
    return deadline - std::max(5 * kInterval, (deadline - now) / 20);
  }

  // Whether to answer now; if not, sees to it that it is asked again.
  bool IsTime() {
    MutexLock lock(&mutex_);
    const int left = RequestsLeft(*environment_.scheduler);
    response_->set_requests_left(left);
    if (left == 0 || gone_ || environment_.clock->Now() >= answer_by_) return true;
    // The old alarm is the one whose callback this may be.
    const auto old = std::exchange(alarm_, std::make_unique<grpc::Alarm>());
    alarm_->Set(SystemTimeIn(kInterval), [this](bool /*ok*/) { Look(); });
    return false;
  }

  const RpcDependencies& environment_;
  const absl::Time answer_by_;
  std::atomic<bool> gone_ = false;
  Mutex mutex_;
  v1::DrainResponse* const response_ FRESCO_PT_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> alarm_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* ImageGenerationService::Generate(grpc::CallbackServerContext* context,
                                                                             const grpc::ByteBuffer* request) {
  return StartGenerate(options_, environment_, context, request);
}

grpc::ServerUnaryReactor* ImageGenerationService::CreateImage(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  return StartCreateImage(options_, environment_, context, request, response);
}

grpc::ServerUnaryReactor* ImageGenerationService::ListModels(grpc::CallbackServerContext* context,
                                                             const v1::ListModelsRequest* /*request*/,
                                                             v1::ListModelsResponse* response) {
  const absl::StatusOr<Caller> caller = Authorize(*context, "ListModels", std::nullopt, options_, environment_);
  if (!caller.ok()) return Answer(context, caller.status());
  for (const ModelStatus& model : environment_.models->List()) SetModel(model, options_.limits, response->add_models());
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ImageGenerationService::Cancel(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* bytes, grpc::ByteBuffer* response) {
  *response = ToBytes(v1::CancelResponse());
  const absl::StatusOr<Caller> caller = Authorize(*context, "Cancel", Scope::kGenerate, options_, environment_);
  if (!caller.ok()) return Answer(context, caller.status());
  v1::CancelRequest request;
  const auto bad_texts = ParseRequest(*bytes, &request);
  if (!bad_texts.ok()) return Answer(context, bad_texts.status());
  if (!bad_texts->empty()) return Answer(context, InvalidRequest(*bad_texts));
  if (!IsRequestId(request.request_id())) {
    return Answer(context,
                  InvalidRequest({{"request_id", "must be the id of a request, as its queued event says it"}}));
  }
  const absl::Status reason = absl::CancelledError("cancelled by its caller's Cancel");
  absl::Status status = environment_.scheduler->Cancel(caller->tenant, request.request_id(), reason);
  // The scheduler does not know what waits for its model, or for the answer to what it asks for.
  if (absl::IsNotFound(status)) status = environment_.shared->Cancel(caller->tenant, request.request_id(), reason);
  if (absl::IsNotFound(status)) {
    status = environment_.waiting->Cancel(caller->tenant, request.request_id(), reason, environment_.clock->Now());
  }
  return Answer(context, status);
}

void OperationsService::Audit(std::string_view event, const grpc::CallbackServerContext& context, const Caller& caller,
                              LogFields fields) const {
  if (!caller.token.empty()) fields.emplace_back("token", caller.token);
  fields.emplace_back("peer", std::string(context.peer()));
  environment_.audit->Log(LogLevel::kWarning, event, fields);
}

grpc::ServerUnaryReactor* OperationsService::GetStatus(grpc::CallbackServerContext* context,
                                                       const v1::GetStatusRequest* /*request*/,
                                                       v1::GetStatusResponse* response) {
  const absl::StatusOr<Caller> caller = Authorize(*context, "GetStatus", Scope::kOperate, options_, environment_);
  if (!caller.ok()) return Answer(context, caller.status());
  const absl::Time now = environment_.clock->Now();
  const SchedulerSnapshot snapshot = environment_.scheduler->Snapshot();
  response->set_version(options_.version);
  response->mutable_started_at()->set_seconds(absl::ToUnixSeconds(started_at_));
  SetDuration(now - started_, response->mutable_uptime());
  response->set_draining(snapshot.draining || environment_.models->draining());
  for (const DeviceSnapshot& device : snapshot.devices) SetDevice(device, environment_, response->add_devices());
  for (const ModelStatus& model : environment_.models->List()) SetModel(model, options_.limits, response->add_models());
  response->set_requests_waiting(snapshot.waiting);
  response->set_requests_running(snapshot.running);
  response->set_max_queue(options_.max_queue);
  for (const RequestSnapshot& request : snapshot.requests) SetRequest(request, now, response->add_requests());
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OperationsService::Drain(grpc::CallbackServerContext* context,
                                                   const v1::DrainRequest* /*request*/, v1::DrainResponse* response) {
  const absl::StatusOr<Caller> caller = Authorize(*context, "Drain", Scope::kOperate, options_, environment_);
  if (!caller.ok()) return Answer(context, caller.status());
  environment_.models->SetDraining();
  if (environment_.manager != nullptr) environment_.manager->StopWaiting();
  on_drain_();
  // The past: only says that nothing new is taken.
  environment_.scheduler->Drain(absl::InfinitePast());
  Audit("draining", *context, *caller, {{"requests_left", int64_t{RequestsLeft(*environment_.scheduler)}}});
  auto* reactor = new DrainReactor(environment_, context, response);
  reactor->Look();
  return reactor;
}

grpc::ServerUnaryReactor* OperationsService::LoadModel(grpc::CallbackServerContext* context,
                                                       const v1::LoadModelRequest* request,
                                                       v1::LoadModelResponse* response) {
  const absl::StatusOr<Caller> caller = Authorize(*context, "LoadModel", Scope::kOperate, options_, environment_);
  if (!caller.ok()) return Answer(context, caller.status());
  Audit("load_model", *context, *caller, {{"model", Excerpt(request->model())}});
  return StartLoadModel(options_, environment_, *request, response);
}

grpc::ServerUnaryReactor* OperationsService::UnloadModel(grpc::CallbackServerContext* context,
                                                         const v1::UnloadModelRequest* request,
                                                         v1::UnloadModelResponse* response) {
  const absl::StatusOr<Caller> caller = Authorize(*context, "UnloadModel", Scope::kOperate, options_, environment_);
  if (!caller.ok()) return Answer(context, caller.status());
  Audit("unload_model", *context, *caller, {{"model", Excerpt(request->model())}});
  return StartUnloadModel(options_, environment_, *request, response);
}

grpc::ServerWriteReactor<v1::ProfileResponse>* OperationsService::Profile(grpc::CallbackServerContext* context,
                                                                          const v1::ProfileRequest* request) {
  const absl::StatusOr<Caller> caller = Authorize(*context, "Profile", Scope::kOperate, options_, environment_);
  if (caller.ok()) {
    Audit("profile", *context, *caller, {{"model", Excerpt(request->model())}, {"steps", int64_t{request->steps()}}});
  }
  return StartProfile(environment_, *context, *request, caller.status());
}

}  // namespace fresco
