#include "tests/server/rpc/service_fixture.h"

#include <grpcpp/generic/generic_stub.h>

#include <atomic>

namespace fresco {
namespace {

std::vector<ManagedModel> OnCpu(const std::vector<std::string>& names) {
  std::vector<ManagedModel> models;
  for (const std::string& name : names) models.push_back({name, {"cpu"}});
  return models;
}

std::vector<ModelRegistry::Replica> ReplicasOf(const std::vector<ManagedModel>& models) {
  std::vector<ModelRegistry::Replica> replicas;
  for (const ManagedModel& model : models) {
    for (const std::string& device : model.devices)
      replicas.push_back({model.name, device, model.load == LoadPolicy::kStartup});
  }
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

RawCall::RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                 const std::string& authorization)
    : call_(grpc::GenericStub(channel).PrepareCall(&context_, method, &queue_)) {
  if (!authorization.empty()) context_.AddMetadata("authorization", authorization);
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
  if (checker_ != nullptr) checker_->AwaitAnswers();
  if (manager_ != nullptr) manager_->StopWaiting();
  scheduler_.reset();  // its threads tell the manager, and that the server, what has loaded
  MutexLock lock(&mutex_);
}

void ServiceTest::Start(Options options) {
  logger_ = std::make_unique<Logger>(options.log, &clock_, [this](std::string_view line) {
    MutexLock lock(&mutex_);
    lines_.emplace_back(line);
    changed_.NotifyAll();
  });
  if (options.managed.empty()) options.managed = OnCpu(options.models);
  registry_ = std::make_unique<ModelRegistry>(ReplicasOf(options.managed));
  options.scheduler.on_device_lost = [this](const DeviceLoss& loss) {
    manager_->LoseDevice(loss.device, loss.reason);
    server_->RefreshHealth();
  };
  if (options.content_check.has_value()) {
    checker_ = std::make_unique<ContentChecker>(*options.content_check);
    if (options.content_check->pictures) {
      options.scheduler.check_picture = [this](const GenerationRequest& request, int index,
                                               const EncodedImage& picture) {
        return checker_->CheckPicture(request, index, picture);
      };
    }
  }
  scheduler_ = std::make_unique<Scheduler>(options.scheduler, &clock_, nullptr);
  manager_ = std::make_unique<ModelManager>(
      ModelManagerOptions{options.managed, options.budgets, options.scheduler.max_queue},
      ModelManagerDependencies{scheduler_.get(), registry_.get(), &clock_, &observer_,
                               [this, options](const std::string& model, const std::string& device) {
                                 return Load(options, model, device);
                               }});
  RpcDependencies dependencies;
  dependencies.scheduler = scheduler_.get();
  dependencies.models = registry_.get();
  dependencies.logger = logger_.get();
  dependencies.clock = &clock_;
  dependencies.manager = manager_.get();
  dependencies.profiler = options.scheduler.step_profiler.get();
  dependencies.callers = options.callers;
  dependencies.checker = checker_.get();
  dependencies.random = [next = std::make_shared<std::atomic<uint64_t>>(1000)] { return (*next)++; };
  dependencies.on_health = [this](bool serving, bool draining, const auto& models) {
    MutexLock lock(&mutex_);
    health_told_ = std::string(serving ? "serving" : "not serving") + (draining ? " draining" : "");
    for (const auto& [model, served] : models) health_told_ += served ? " " + model : "";
  };
  dependencies.on_call_done = [this](const std::string& model, const std::string& code) {
    MutexLock lock(&mutex_);
    calls_.push_back(model + " " + code);
    changed_.NotifyAll();
  };
  dependencies.on_joined = [this](const std::string&) { OnShared("joined"); };
  dependencies.on_result_served = [this](const std::string&) { OnShared("served"); };
  dependencies.on_results_held = [this](int64_t bytes) {
    MutexLock lock(&mutex_);
    held_ = bytes;
  };
  options.rpc.version = "1.2.3";
  options.rpc.max_queue = options.scheduler.max_queue;
  auto server = RpcServer::Start(options.rpc, dependencies);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  if (options.credentials == nullptr) options.credentials = grpc::InsecureChannelCredentials();
  channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()), options.credentials);
  stub_ = v1::ImageGeneration::NewStub(channel_);
  operations_ = v1::Operations::NewStub(channel_);
  manager_->LoadAtStart();
  if (options.loader == nullptr && options.load == nullptr) AwaitLoaded();
}

absl::StatusOr<std::unique_ptr<Engine>> ServiceTest::Load(const Options& options, const std::string& model,
                                                          const std::string& device) {
  if (options.load != nullptr) return options.load(model, device);
  if (options.loader != nullptr && model == options.models.front()) return options.loader();
  return std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, nullptr);
}

void ServiceTest::OnChanged() {
  if (server_ != nullptr) server_->RefreshHealth();
  MutexLock lock(&mutex_);
  changed_.NotifyAll();
}

void ServiceTest::OnShared(const std::string& how) {
  MutexLock lock(&mutex_);
  shares_.push_back(how);
  changed_.NotifyAll();
}

std::vector<std::string> ServiceTest::Shares() const {
  MutexLock lock(&mutex_);
  return shares_;
}

void ServiceTest::AwaitShares(size_t count) {
  MutexLock lock(&mutex_);
  while (shares_.size() < count) changed_.Wait(&mutex_);
}

int64_t ServiceTest::held() const {
  MutexLock lock(&mutex_);
  return held_;
}

void ServiceTest::AwaitLoaded() {
  MutexLock lock(&mutex_);
  while (registry_->Loading()) changed_.Wait(&mutex_);
}

Drawn ServiceTest::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(stub_->Generate(&context, request).get());
}

grpc::StatusCode ServiceTest::CancelAs(const std::string& tenant, const std::string& id) {
  grpc::ClientContext context;
  if (!tenant.empty()) context.AddMetadata("fresco-tenant", tenant);
  v1::CancelRequest request;
  request.set_request_id(id);
  v1::CancelResponse response;
  return stub_->Cancel(&context, request, &response).error_code();
}

std::shared_ptr<grpc::Channel> ServiceTest::OwnChannel() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials(),
                                   arguments);
}

std::unique_ptr<v1::ImageGeneration::Stub> ServiceTest::OwnConnection() const {
  return v1::ImageGeneration::NewStub(OwnChannel());
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

std::string ServiceTest::HealthTold() {
  MutexLock lock(&mutex_);
  return health_told_;
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
