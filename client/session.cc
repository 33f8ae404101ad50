#include "client/session.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <functional>
#include <future>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/assembly.h"
#include "client/rpc_status.h"
#include "fresco/v1/image_generation.grpc.pb.h"
#include "fresco/v1/operations.grpc.pb.h"
#include "pipeline/base/status.h"
#include "pipeline/base/tenant.h"

namespace fresco {
namespace {

constexpr char kTraceparent[] = "traceparent";

constexpr absl::Duration kUnavailablePause = absl::Milliseconds(250);

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

v1::ImageFormat ToWire(ImageFormat format) {
  switch (format) {
    case ImageFormat::kPng:
      return v1::IMAGE_FORMAT_PNG;
    case ImageFormat::kJpeg:
      return v1::IMAGE_FORMAT_JPEG;
    case ImageFormat::kWebp:
      return v1::IMAGE_FORMAT_WEBP;
  }
  return v1::IMAGE_FORMAT_UNSPECIFIED;
}

v1::Priority ToWire(DrawPriority priority) {
  switch (priority) {
    case DrawPriority::kStandard:
      return v1::PRIORITY_STANDARD;
    case DrawPriority::kInteractive:
      return v1::PRIORITY_INTERACTIVE;
    case DrawPriority::kBatch:
      return v1::PRIORITY_BATCH;
  }
  return v1::PRIORITY_UNSPECIFIED;
}

v1::GenerateRequest ToWire(const DrawRequest& request) {
  v1::GenerateRequest wire;
  wire.set_model(request.model);
  wire.set_prompt(request.prompt);
  wire.set_negative_prompt(request.negative_prompt);
  if (request.prompt_2) wire.set_prompt_2(*request.prompt_2);
  if (request.prompt_3) wire.set_prompt_3(*request.prompt_3);
  wire.set_clip_skip(request.clip_skip);
  if (request.noise_correction) wire.set_noise_correction(*request.noise_correction);
  wire.set_deterministic(request.deterministic);
  wire.set_max_sequence_length(request.max_sequence_length);
  wire.set_width(request.width);
  wire.set_height(request.height);
  wire.set_steps(request.steps);
  if (request.guidance) wire.set_guidance_scale(*request.guidance);
  if (request.seed) wire.set_seed(*request.seed);
  wire.set_image_count(request.count);
  wire.set_format(ToWire(request.format));
  wire.set_preview_every(request.preview_every);
  wire.set_priority(ToWire(request.priority));
  wire.set_request_id(request.request_id);
  wire.set_quality(request.quality);
  return wire;
}

DrawnProvenance FromWire(const v1::Provenance& wire) {
  return {wire.model(),   wire.weights_digest(),     wire.precision(), wire.device(),        wire.software(),
          wire.sampler(), wire.calibration_digest(), wire.steps(),     wire.guidance_scale()};
}

DrawSummary FromWire(const v1::Completed& wire) {
  DrawSummary summary;
  const v1::Timings& timings = wire.timings();
  summary.queue = ToDuration(timings.queue());
  summary.prepare = ToDuration(timings.prepare());
  summary.denoise = ToDuration(timings.denoise());
  summary.decode = ToDuration(timings.decode());
  summary.encode = ToDuration(timings.encode());
  summary.total = ToDuration(timings.total());
  summary.batch_size_min = wire.batch_sizes().min();
  summary.batch_size_max = wire.batch_sizes().max();
  summary.batch_size_mean = wire.batch_sizes().mean();
  summary.peak_memory_bytes = wire.peak_memory_bytes();
  for (const v1::Warning& warning : wire.warnings()) summary.warnings.push_back(warning.message());
  return summary;
}

// Turns a stream's events into an observer's calls.
class EventReader {
 public:
  EventReader(DrawObserver* observer, DrawSummary* summary) : observer_(observer), summary_(summary) {}

  absl::Status Take(const v1::GenerateEvent& event) {
    switch (event.event_case()) {
      case v1::GenerateEvent::kQueued:
        if (!event.queued().request_id().empty()) request_id_ = event.queued().request_id();
        observer_->OnQueued(event.queued().position(), ToDuration(event.queued().estimated_wait()));
        break;
      case v1::GenerateEvent::kStarted:
        observer_->OnStarted(event.started().device());
        break;
      case v1::GenerateEvent::kProgress:
        TakeProgress(event.progress());
        break;
      case v1::GenerateEvent::kImage:
        return TakeChunk(event.image());
      case v1::GenerateEvent::kCompleted:
        *summary_ = FromWire(event.completed());
        summary_->request_id = request_id_;
        break;
      case v1::GenerateEvent::EVENT_NOT_SET:  // of a newer server
        break;
    }
    return absl::OkStatus();
  }

  absl::Status CheckComplete(int count) const { return assembler_.CheckComplete(count); }

 private:
  void TakeProgress(const v1::Progress& wire) {
    observer_->OnProgress(
        {wire.image_index(), wire.step(), wire.total_steps(), ToDuration(wire.remaining()), wire.preview()});
  }

  absl::Status TakeChunk(const v1::ImageChunk& chunk) {
    if (chunk.has_provenance()) provenances_[chunk.image_index()] = FromWire(chunk.provenance());
    FRESCO_ASSIGN_OR_RETURN(std::optional<std::string> bytes,
                            assembler_.Add(chunk.image_index(), chunk.data(), chunk.offset(), chunk.total_bytes()));
    if (!bytes) return absl::OkStatus();
    return observer_->OnImage({chunk.image_index(), chunk.seed(), chunk.width(), chunk.height(), chunk.mime_type(),
                               *std::move(bytes), provenances_[chunk.image_index()]});
  }

  DrawObserver* const observer_;
  DrawSummary* const summary_;
  ImageAssembler assembler_;
  std::map<int, DrawnProvenance> provenances_;
  std::string request_id_;
};

std::shared_ptr<grpc::ChannelCredentials> CredentialsFor(const std::optional<TlsOptions>& tls) {
  if (!tls.has_value()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = tls->authorities;
  options.pem_cert_chain = tls->certificate;
  options.pem_private_key = tls->key;
  return grpc::SslCredentials(options);
}

// What the server has said of the place of a call that has ended in its trace, with the first message or, of a call
// without one, with the status; empty: nothing.
std::string AnsweredTraceparent(const grpc::ClientContext& context) {
  for (const auto* metadata : {&context.GetServerInitialMetadata(), &context.GetServerTrailingMetadata()}) {
    const auto found = metadata->find(kTraceparent);
    if (found != metadata->end()) return std::string(found->second.data(), found->second.size());
  }
  return "";
}

std::shared_ptr<grpc::Channel> Connect(const std::string& server, const std::optional<TlsOptions>& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  // A person waits for a server that is just coming up.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Nobody's proxy stands between a person and a server on the same machine.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(server, CredentialsFor(tls), arguments);
}

}  // namespace

class Session::Impl {
 public:
  Impl(const ConnectionOptions& options, Clock* clock, std::function<uint64_t()> random)
      : options_(options),
        clock_(clock),
        random_(std::move(random)),
        wait_until_(clock->Now() + options.wait),
        channel_(Connect(options.server, options.tls)),
        images_(v1::ImageGeneration::NewStub(channel_)),
        operations_(v1::Operations::NewStub(channel_)) {}

  // Runs `call`, again while the server is unavailable, it may be waited for and `call` has not begun to bear fruit.
  absl::Status Call(const std::function<absl::Status(grpc::ClientContext*)>& call) {
    const bool begun = false;
    return Call(call, NewTraceId(), &begun);
  }
  absl::Status Call(const std::function<absl::Status(grpc::ClientContext*)>& call, const std::string& trace_id,
                    const bool* begun) {
    for (;;) {
      absl::Status status = CallOnce(call, trace_id);
      if (!status.ok() && !IsUnreachable(status)) MarkTrace(trace_id, &status);
      const absl::Duration left = wait_until_ - clock_->Now();
      if (!absl::IsUnavailable(status) || left <= absl::ZeroDuration() || *begun) return status;
      if (!Sleep(std::min(left, RetryAfter(status).value_or(kUnavailablePause))))
        return absl::CancelledError("cancelled");
    }
  }

  absl::Status Draw(const DrawRequest& request, DrawObserver* observer, DrawSummary* summary) {
    bool begun = false;
    const std::string trace_id = NewTraceId();
    return Call(
        [&](grpc::ClientContext* context) {
          EventReader events(observer, summary);
          absl::Status taken;
          const std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> stream =
              images_->Generate(context, ToWire(request));
          for (v1::GenerateEvent event; taken.ok() && stream->Read(&event);) {
            begun = true;
            taken = events.Take(event);
          }
          if (!taken.ok()) context->TryCancel();
          absl::Status finished = FromGrpc(stream->Finish());
          summary->trace_id = trace_id;
          summary->traceparent = AnsweredTraceparent(*context);
          if (begun && !finished.ok()) MarkAnswered(&finished);
          if (!taken.ok()) return taken;
          return finished.ok() ? events.CheckComplete(request.count) : finished;
        },
        trace_id, &begun);
  }

  void CancelAll() {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : running_) context->TryCancel();
    changed_.NotifyAll();
  }

  bool cancelled() {
    MutexLock lock(&mutex_);
    return cancelled_;
  }

  bool Sleep(absl::Duration duration) {
    MutexLock lock(&mutex_);
    const absl::Time until = clock_->Now() + duration;
    while (!cancelled_ && clock_->Now() < until) clock_->WaitUntil(&changed_, &mutex_, until);
    return !cancelled_;
  }

  // A call of a service that there is no generated code for; blocks.
  template <typename Request, typename Response>
  grpc::Status CallUnary(const std::string& method, grpc::ClientContext* context, const Request& request,
                         Response* response) {
    grpc::TemplatedGenericStub<Request, Response> stub(channel_);
    const auto done = std::make_shared<std::promise<grpc::Status>>();  // set_value may still run when get() returns
    stub.UnaryCall(context, method, {}, &request, response,
                   [done](grpc::Status status) { done->set_value(std::move(status)); });
    return done->get_future().get();
  }

  v1::ImageGeneration::Stub* images() { return images_.get(); }
  v1::Operations::Stub* operations() { return operations_.get(); }

 private:
  // 16 digits, not all 0.
  std::string NewSpanId() const { return absl::StrFormat("%016x", std::max<uint64_t>(random_(), 1)); }
  std::string NewTraceId() const { return NewSpanId() + NewSpanId(); }

  absl::Status CallOnce(const std::function<absl::Status(grpc::ClientContext*)>& call, const std::string& trace_id) {
    grpc::ClientContext context;
    context.AddMetadata(kTraceparent, "00-" + trace_id + "-" + NewSpanId() + "-01");  // 01: it is worth keeping
    if (options_.timeout != absl::InfiniteDuration()) {
      context.set_deadline(SystemTimeIn(options_.timeout));
    }
    if (!options_.tenant.empty()) context.AddMetadata(kTenantHeader, options_.tenant);
    if (!options_.token.empty()) context.AddMetadata("authorization", "Bearer " + options_.token);
    {
      MutexLock lock(&mutex_);
      if (cancelled_) return absl::CancelledError("cancelled");
      running_.insert(&context);
    }
    absl::Status status = call(&context);
    MutexLock lock(&mutex_);
    running_.erase(&context);
    return status;
  }

  const ConnectionOptions options_;
  Clock* const clock_;
  const std::function<uint64_t()> random_;
  const absl::Time wait_until_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::ImageGeneration::Stub> images_;
  const std::unique_ptr<v1::Operations::Stub> operations_;

  Mutex mutex_;
  CondVar changed_;
  bool cancelled_ FRESCO_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> running_ FRESCO_GUARDED_BY(mutex_);
};

Session::Session(const ConnectionOptions& options, Clock* clock, std::function<uint64_t()> random)
    : impl_(std::make_unique<Impl>(options, clock, std::move(random))) {}
Session::~Session() = default;

absl::Status Session::Draw(const DrawRequest& request, DrawObserver* observer, DrawSummary* summary) {
  return impl_->Draw(request, observer, summary);
}

absl::Status Session::ListModels(v1::ListModelsResponse* response) {
  return impl_->Call([&](grpc::ClientContext* context) {
    return FromGrpc(impl_->images()->ListModels(context, v1::ListModelsRequest(), response));
  });
}

absl::Status Session::GetStatus(v1::GetStatusResponse* response) {
  return impl_->Call([&](grpc::ClientContext* context) {
    return FromGrpc(impl_->operations()->GetStatus(context, v1::GetStatusRequest(), response));
  });
}

absl::Status Session::CheckHealth(const std::string& model) {
  return impl_->Call([&](grpc::ClientContext* context) {
    // The distribution has no generated code for grpc.health.v1. On the wire HealthCheckRequest is a StringValue, and
    // HealthCheckResponse, whose one field is an enumeration, an Int32Value.
    constexpr int kServing = 1;
    google::protobuf::StringValue request;
    request.set_value(model);
    google::protobuf::Int32Value response;
    absl::Status status = FromGrpc(impl_->CallUnary("/grpc.health.v1.Health/Check", context, request, &response));
    if (absl::IsNotFound(status)) return absl::NotFoundError(StrCat("the server has no model \"", model, "\""));
    if (status.ok() && response.value() != kServing) {
      status = absl::UnavailableError(
          StrCat(model.empty() ? "the server" : model, " does not serve now: it loads, drains or has lost a device"));
      MarkAnswered(&status);
    }
    return status;
  });
}

absl::Status Session::Cancel(const std::string& request_id) {
  return impl_->Call([&](grpc::ClientContext* context) {
    v1::CancelRequest request;
    request.set_request_id(request_id);
    v1::CancelResponse response;
    return FromGrpc(impl_->images()->Cancel(context, request, &response));
  });
}

absl::Status Session::LoadModel(const std::string& model, const std::vector<std::string>& devices,
                                v1::LoadModelResponse* response) {
  return impl_->Call([&](grpc::ClientContext* context) {
    v1::LoadModelRequest request;
    request.set_model(model);
    for (const std::string& device : devices) request.add_devices(device);
    return FromGrpc(impl_->operations()->LoadModel(context, request, response));
  });
}

absl::Status Session::UnloadModel(const std::string& model, const std::vector<std::string>& devices,
                                  v1::UnloadModelResponse* response) {
  return impl_->Call([&](grpc::ClientContext* context) {
    v1::UnloadModelRequest request;
    request.set_model(model);
    for (const std::string& device : devices) request.add_devices(device);
    return FromGrpc(impl_->operations()->UnloadModel(context, request, response));
  });
}

absl::Status Session::Profile(const v1::ProfileRequest& request, v1::StepProfile* profile, std::string* trace) {
  return impl_->Call([&](grpc::ClientContext* context) {
    profile->Clear();
    trace->clear();
    int64_t total = 0;
    const auto stream = impl_->operations()->Profile(context, request);
    v1::ProfileResponse part;
    while (stream->Read(&part)) {
      if (part.has_profile()) *profile = std::move(*part.mutable_profile());
      if (!part.has_trace()) continue;
      *trace += part.trace().data();
      total = part.trace().total_bytes();
    }
    FRESCO_RETURN_IF_ERROR(FromGrpc(stream->Finish()));
    if (!profile->model().empty() && static_cast<int64_t>(trace->size()) == total) return absl::OkStatus();
    return absl::DataLossError("the server's profile is not whole");
  });
}

void Session::CancelAll() {
  impl_->CancelAll();
}
bool Session::cancelled() const {
  return impl_->cancelled();
}
bool Session::Sleep(absl::Duration duration) {
  return impl_->Sleep(duration);
}

}  // namespace fresco
