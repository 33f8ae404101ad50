#include "tests/server/rpc/service_fixture.h"

#include <grpcpp/generic/generic_stub.h>

#include <atomic>

namespace fresco {
namespace {

std::vector<ModelRegistry::Replica> OnCpu(const std::vector<std::string>& models) {
  std::vector<ModelRegistry::Replica> replicas;
  for (const std::string& model : models) replicas.push_back({model, "cpu"});
  return replicas;
}

}  // namespace

std::vector<v1::ImageChunk> Drawn::chunks() const {
  std::vector<v1::ImageChunk> found;
  for (const v1::GenerateEvent& event : events) {
    if (event.has_image()) found.push_back(event.image());
  }
  return found;
}

std::map<int, std::string> Drawn::images() const {
  std::map<int, std::string> found;
  for (const v1::ImageChunk& chunk : chunks()) {
    std::string& image = found[chunk.image_index()];
    EXPECT_EQ(static_cast<int64_t>(image.size()), chunk.offset());
    image += chunk.data();
  }
  return found;
}

std::map<int, uint64_t> Drawn::seeds() const {
  std::map<int, uint64_t> found;
  for (const v1::ImageChunk& chunk : chunks()) found[chunk.image_index()] = chunk.seed();
  return found;
}

std::string Drawn::order() const {
  static constexpr char kLetters[] = "?qspic";
  std::string order;
  for (const v1::GenerateEvent& event : events) {
    const char letter = kLetters[event.event_case()];
    if (order.empty() || order.back() != letter) order += letter;
  }
  return order;
}

RawCall::RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method)
    : call_(grpc::GenericStub(channel).PrepareCall(&context_, method, &queue_)) {
  call_->StartCall(nullptr);
  Wait();
}

void RawCall::Send(const std::string& message) {
  const grpc::Slice slice(message);
  call_->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  Wait();
}

void RawCall::SendNothing() {
  call_->WritesDone(nullptr);
  Wait();
}

grpc::Status RawCall::Rest(std::string* last) {
  grpc::ByteBuffer message;
  for (call_->Read(&message, nullptr); Wait(); call_->Read(&message, nullptr)) {
    grpc::Slice bytes;
    EXPECT_TRUE(message.DumpToSingleSlice(&bytes).ok());
    if (last != nullptr) last->assign(bytes.begin(), bytes.end());
  }
  grpc::Status status;
  call_->Finish(&status, nullptr);
  Wait();
  return status;
}

bool RawCall::Wait() {
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue_.Next(&tag, &ok));
  return ok;
}

ServiceTest::~ServiceTest() {
  script_->prepare_gate()->Open();
  script_->step_gate()->Open();
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  scheduler_.reset();  // its threads tell the server what has loaded
  MutexLock lock(&mutex_);
}

void ServiceTest::Start(Options options) {
  logger_ = std::make_unique<Logger>(options.log, &clock_, [this](std::string_view line) {
    MutexLock lock(&mutex_);
    lines_.emplace_back(line);
    changed_.NotifyAll();
  });
  registry_ = std::make_unique<ModelRegistry>(OnCpu(options.models));
  options.scheduler.on_device_lost = [this](const DeviceLoss& loss) {
    registry_->SetLost(loss.device, loss.reason);
    server_->RefreshHealth();
  };
  scheduler_ = std::make_unique<Scheduler>(options.scheduler, &clock_, nullptr);
  RpcDependencies dependencies;
  dependencies.scheduler = scheduler_.get();
  dependencies.models = registry_.get();
  dependencies.logger = logger_.get();
  dependencies.clock = &clock_;
  dependencies.random = [next = std::make_shared<std::atomic<uint64_t>>(1000)] { return (*next)++; };
  dependencies.on_call_done = [this](const std::string& model, const std::string& code) {
    MutexLock lock(&mutex_);
    calls_.push_back(model + " " + code);
    changed_.NotifyAll();
  };
  options.rpc.version = "1.2.3";
  options.rpc.max_queue = options.scheduler.max_queue;
  auto server = RpcServer::Start(options.rpc, dependencies);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials());
  stub_ = v1::ImageGeneration::NewStub(channel_);
  operations_ = v1::Operations::NewStub(channel_);
  for (const std::string& model : options.models) {
    Scheduler::EngineLoader fake = [this, model]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<FakeEngine>(FakeModelInfo(model), script_, nullptr);
    };
    const bool special = options.loader != nullptr && model == options.models.front();
    scheduler_->AddModel(model, "cpu", special ? options.loader : fake,
                         [this, model](const absl::StatusOr<const Engine*>& engine) {
                           registry_->SetLoaded(model, "cpu", engine);
                           server_->RefreshHealth();
                           MutexLock lock(&mutex_);
                           changed_.NotifyAll();
                         });
  }
  if (options.loader == nullptr) AwaitLoaded();
}

void ServiceTest::AwaitLoaded() {
  MutexLock lock(&mutex_);
  while (registry_->Loading()) changed_.Wait(&mutex_);
}

Drawn ServiceTest::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(stub_->Generate(&context, request).get());
}

Drawn ReadAll(grpc::ClientReader<v1::GenerateEvent>* reader) {
  Drawn drawn;
  for (v1::GenerateEvent event; reader->Read(&event);) drawn.events.push_back(event);
  drawn.status = reader->Finish();
  return drawn;
}

grpc::Status ServiceTest::CallRaw(const std::string& method, const std::string& request, std::string* response) {
  RawCall call(channel_, method);
  call.Send(request);
  return call.Rest(response);
}

std::string ServiceTest::Health(const std::string& service) {
  // message HealthCheckRequest { string service = 1; } message HealthCheckResponse { ServingStatus status = 1; }
  std::string response;
  const std::string request = service.empty() ? "" : std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Status status = CallRaw("/grpc.health.v1.Health/Check", request, &response);
  if (!status.ok()) return std::to_string(status.error_code());
  if (response == "\x08\x01") return "SERVING";
  return response == "\x08\x02" ? "NOT_SERVING" : "?";
}

void ServiceTest::AwaitHealth(const std::string& service, const std::string& status) {
  while (Health(service) != status) absl::SleepFor(absl::Milliseconds(5));
}

std::vector<std::string> ServiceTest::AwaitCalls(size_t count) {
  MutexLock lock(&mutex_);
  while (calls_.size() < count) changed_.Wait(&mutex_);
  return calls_;
}

std::vector<std::string> ServiceTest::AwaitLog(size_t count) {
  MutexLock lock(&mutex_);
  while (lines_.size() < count) changed_.Wait(&mutex_);
  return lines_;
}

}  // namespace fresco
