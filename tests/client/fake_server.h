// A Fresco server whose answers a test writes down, on a loopback port of its own.
#pragma once

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fresco/v1/image_generation.grpc.pb.h"
#include "fresco/v1/operations.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "pipeline/base/mutex.h"
#include "pipeline/image/codec.h"

namespace fresco {

using EventWriter = grpc::ServerWriter<v1::GenerateEvent>;
// What Generate does; on gRPC's threads, several at a time.
using GenerateScript = std::function<grpc::Status(grpc::ServerContext*, const v1::GenerateRequest&, EventWriter*)>;

inline grpc::Status Refuse(grpc::StatusCode code, const std::string& message,
                           const std::vector<const google::protobuf::Message*>& details) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  for (const google::protobuf::Message* detail : details) status.add_details()->PackFrom(*detail);
  return {code, message, status.SerializeAsString()};
}

inline grpc::Status RefuseFor(grpc::StatusCode code, const std::string& message, int retry_milliseconds) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(retry_milliseconds * 1000000);
  return Refuse(code, message, {&retry});
}

// A picture that tells its seed: its first pixel's red is seed % 256.
inline std::string PictureOf(uint64_t seed, ImageFormat format = ImageFormat::kPng) {
  Image image{16, 8, std::vector<uint8_t>(16 * 8 * 3, static_cast<uint8_t>(seed % 256))};
  EncodeOptions options;
  options.format = format;
  return EncodeImage(image, options).value();
}

inline void WriteChunks(const std::string& file, int index, uint64_t seed, size_t chunk_bytes, EventWriter* writer) {
  for (size_t at = 0; at < file.size(); at += chunk_bytes) {
    v1::GenerateEvent event;
    v1::ImageChunk* chunk = event.mutable_image();
    chunk->set_image_index(index);
    chunk->set_seed(seed);
    chunk->set_mime_type("image/png");
    chunk->set_data(file.substr(at, chunk_bytes));
    chunk->set_offset(static_cast<int64_t>(at));
    chunk->set_total_bytes(static_cast<int64_t>(file.size()));
    chunk->set_width(16);
    chunk->set_height(8);
    if (at == 0) chunk->mutable_provenance()->set_model("demo");
    writer->Write(event);
  }
}

inline void WriteStep(int index, int step, int steps, const std::string& preview, EventWriter* writer) {
  v1::GenerateEvent event;
  event.mutable_progress()->set_image_index(index);
  event.mutable_progress()->set_step(step);
  event.mutable_progress()->set_total_steps(steps);
  event.mutable_progress()->mutable_remaining()->set_seconds(steps - step);
  event.mutable_progress()->set_preview(preview);
  writer->Write(event);
}

// queued, started, four steps, the image in chunks of 50 bytes for each image, completed. An unset seed is 1000.
inline grpc::Status DrawWell(grpc::ServerContext*, const v1::GenerateRequest& request, EventWriter* writer) {
  v1::GenerateEvent queued, started, completed;
  queued.mutable_queued()->set_position(2);
  queued.mutable_queued()->set_request_id("r-1");
  writer->Write(queued);
  started.mutable_started()->set_device("cpu");
  writer->Write(started);
  const uint64_t seed = request.has_seed() ? request.seed() : 1000;
  for (int i = 0; i < request.image_count(); ++i) {
    for (int step = 1; step <= 4; ++step)
      WriteStep(i, step, 4, request.preview_every() > 0 ? PictureOf(seed) : "", writer);
    WriteChunks(PictureOf(seed + i), i, seed + i, 50, writer);
  }
  completed.mutable_completed()->mutable_timings()->mutable_total()->set_seconds(3);
  completed.mutable_completed()->add_warnings()->set_message("the prompt was cut");
  writer->Write(completed);
  return grpc::Status::OK;
}

// Thread-safe.
class FakeServer : public v1::ImageGeneration::Service, public v1::Operations::Service {
 public:
  explicit FakeServer(GenerateScript script = DrawWell) : script_(std::move(script)) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::ImageGeneration::Service*>(this));
    builder.RegisterService(static_cast<v1::Operations::Service*>(this));
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  const std::string& address() const { return address_; }

  // What grpc.health.v1.Health says of a model; empty: of the whole server, which serves until told otherwise.
  void SetServing(const std::string& model, bool serving) {
    server_->GetHealthCheckService()->SetServingStatus(model, serving);
  }

  // All Generate requests so far.
  std::vector<v1::GenerateRequest> requests() {
    MutexLock lock(&mutex_);
    return requests_;
  }
  std::string tenant() {
    MutexLock lock(&mutex_);
    return tenant_;
  }
  std::string authorization() {
    MutexLock lock(&mutex_);
    return authorization_;
  }
  // Of each Generate; "" where there was none.
  std::vector<std::string> traceparents() {
    MutexLock lock(&mutex_);
    return traceparents_;
  }

 private:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        EventWriter* writer) override {
    {
      MutexLock lock(&mutex_);
      requests_.push_back(*request);
      const auto token = context->client_metadata().find("authorization");
      if (token != context->client_metadata().end()) authorization_.assign(token->second.begin(), token->second.end());
      const auto trace = context->client_metadata().find("traceparent");
      const bool traced = trace != context->client_metadata().end();
      traceparents_.push_back(traced ? std::string(trace->second.begin(), trace->second.end()) : "");
      const auto tenant = context->client_metadata().find("fresco-tenant");
      if (tenant != context->client_metadata().end()) tenant_.assign(tenant->second.begin(), tenant->second.end());
    }
    return script_(context, *request, writer);
  }

  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    v1::Model* model = response->add_models();
    model->set_name("demo");
    model->set_state(v1::Model::READY);
    model->set_default_width(256);
    model->set_default_height(256);
    return grpc::Status::OK;
  }

  grpc::Status Cancel(grpc::ServerContext*, const v1::CancelRequest* request, v1::CancelResponse*) override {
    if (request->request_id() == "r-1") return grpc::Status::OK;
    return {grpc::StatusCode::NOT_FOUND, "there is no request \"" + request->request_id() + "\""};
  }

  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*, v1::GetStatusResponse* response) override {
    response->set_version("0.1.0");
    response->set_requests_running(1);
    response->add_requests()->set_request_id("r-1");
    return grpc::Status::OK;
  }

  grpc::Status LoadModel(grpc::ServerContext*, const v1::LoadModelRequest* request,
                         v1::LoadModelResponse* response) override {
    if (request->model() == "demo") return {grpc::StatusCode::ALREADY_EXISTS, "demo is loaded already"};
    response->mutable_model()->set_name(request->model());
    for (const std::string& device : request->devices()) response->mutable_model()->add_devices(device);
    response->add_evicted("demo");
    return grpc::Status::OK;
  }

  // The model is on cuda:0 too.
  grpc::Status UnloadModel(grpc::ServerContext*, const v1::UnloadModelRequest* request,
                           v1::UnloadModelResponse* response) override {
    response->mutable_model()->set_name(request->model());
    if (!request->devices().empty()) response->mutable_model()->add_devices("cuda:0");
    return grpc::Status::OK;
  }

  // A step of 20 ms, of which a layer takes 15.
  grpc::Status Profile(grpc::ServerContext*, const v1::ProfileRequest* request,
                       grpc::ServerWriter<v1::ProfileResponse>* writer) override {
    if (request->model() == "large") return {grpc::StatusCode::DEADLINE_EXCEEDED, "no step of the model 'large'"};
    constexpr int kMillisecond = 1000000;
    v1::ProfileResponse part;
    v1::StepProfile& profile = *part.mutable_profile();
    profile.set_model("demo");
    profile.set_device("cpu");
    profile.set_steps(request->steps());
    profile.mutable_step()->set_nanos(20 * kMillisecond);
    profile.mutable_plain_step()->set_nanos(19 * kMillisecond);
    profile.set_overhead(0.05);
    profile.mutable_pauses()->set_nanos(7 * kMillisecond);
    profile.mutable_outside_layers()->set_nanos(5 * kMillisecond);
    profile.set_memory_bandwidth(20e9);
    v1::ProfiledLayer& layer = *profile.add_layers();
    layer.set_name("transformer.ff.net.2");
    layer.set_kind("MLP");
    layer.set_dtype("fp8");
    layer.mutable_duration()->set_nanos(15 * kMillisecond);
    layer.set_flops(30'000'000'000);
    layer.set_bytes(105'000'000);
    layer.set_share_of_peak(0.4);
    layer.set_share_of_bandwidth(0.35);
    layer.set_bound("compute");
    writer->Write(part);
    const std::string trace = "{\"traceEvents\":[]}";
    for (size_t offset = 0; request->trace() && offset < trace.size(); offset += 10) {
      part.mutable_trace()->set_data(trace.substr(offset, 10));
      part.mutable_trace()->set_offset(static_cast<int64_t>(offset));
      part.mutable_trace()->set_total_bytes(static_cast<int64_t>(trace.size()));
      writer->Write(part);
    }
    return grpc::Status::OK;
  }

  const GenerateScript script_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  Mutex mutex_;
  std::vector<v1::GenerateRequest> requests_ FRESCO_GUARDED_BY(mutex_);
  std::string authorization_ FRESCO_GUARDED_BY(mutex_);
  std::string tenant_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::string> traceparents_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
