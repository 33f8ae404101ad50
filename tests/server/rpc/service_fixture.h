// A whole server in this process, on a port of its own, with engines that draw nothing but a colour.
#pragma once

#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fresco/v1/image_generation.grpc.pb.h"
#include "fresco/v1/operations.grpc.pb.h"
#include "gtest/gtest.h"
#include "pipeline/base/clock.h"
#include "server/log/logger.h"
#include "server/rpc/content_checker.h"
#include "server/rpc/model_manager.h"
#include "server/rpc/model_registry.h"
#include "server/rpc/server.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/fake_engine.h"

namespace fresco {

// What a Generate call gave.
struct Drawn {
  grpc::Status status;
  std::vector<v1::GenerateEvent> events;

  std::vector<v1::ImageChunk> chunks() const;
  std::map<int, std::string> images() const;  // by index, put together
  std::map<int, uint64_t> seeds() const;
  std::string order()
      const;  // a letter per event, repeats once: "qspic" for queued, started, progress, image, completed
};

// The rest of a call.
Drawn ReadAll(grpc::ClientReader<v1::GenerateEvent>* reader);

inline v1::GenerateRequest Request(const std::string& prompt) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  return request;
}

// The first detail of this type.
template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status all;
  EXPECT_TRUE(all.ParseFromString(status.error_details()));
  EXPECT_EQ(all.code(), static_cast<int>(status.error_code()));
  Detail detail;
  for (const google::protobuf::Any& any : all.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

// A call that goes on while the test does something else.
class OpenCall {
 public:
  OpenCall(v1::ImageGeneration::Stub* stub, const v1::GenerateRequest& request,
           absl::Duration timeout = absl::InfiniteDuration(), const std::string& tenant = "") {
    if (timeout != absl::InfiniteDuration()) context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    if (!tenant.empty()) context_.AddMetadata("fresco-tenant", tenant);
    reader_ = stub->Generate(&context_, request);
  }
  v1::GenerateEvent Next() {
    v1::GenerateEvent event;
    EXPECT_TRUE(reader_->Read(&event));
    return event;
  }
  // False: there is none, the call has ended.
  bool TryNext(v1::GenerateEvent* event) { return reader_->Read(event); }
  Drawn Rest() { return ReadAll(reader_.get()); }
  void Hangup() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader_;
};

// A call by bytes, of whatever method ("/package.Service/Method"), that does nothing by itself.
class RawCall {
 public:
  // `authorization`: the metadata of that name; empty: none.
  RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
          const std::string& authorization = "");
  // The one message, or that there is none.
  void Send(const std::string& message);
  void SendNothing();
  // Reads to the end. `last` (may be null) becomes the last message, if there is any.
  grpc::Status Rest(std::string* last = nullptr);

 private:
  bool Wait();  // for what was begun last; whether it has gone well

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> call_;
};

class ServiceTest : public ::testing::Test {
 protected:
  ModelRegistry& models() { return *registry_; }

  struct Options {
    std::vector<std::string> models = {"fake"};
    SchedulerOptions scheduler;
    RpcOptions rpc;
    LogConfig log;
    std::optional<ContentCheckConfig> content_check;
    Authenticator* callers = nullptr;                       // outlives the test's server; null: anybody may call
    std::shared_ptr<grpc::ChannelCredentials> credentials;  // of the test's own channel; null: plaintext
    Scheduler::EngineLoader loader;                         // for the first model; empty: a FakeEngine
    std::vector<ManagedModel> managed;       // instead of `models`, which are on the CPU and loaded at the start
    std::map<std::string, int64_t> budgets;  // by device
    // For all models; empty: as above.
    std::function<absl::StatusOr<std::unique_ptr<Engine>>(const std::string&, const std::string&)> load;
  };

  ~ServiceTest() override;

  void Start(Options options);
  void Start() { Start(Options()); }
  void AwaitLoaded();

  Drawn Generate(const v1::GenerateRequest& request);

  // Of the tenant's request of that id; empty: of nobody's.
  grpc::StatusCode CancelAs(const std::string& tenant, const std::string& id);

  // Whose connection, and with it its window, is shared with no other's, and which takes answers of any size.
  std::shared_ptr<grpc::Channel> OwnChannel() const;
  std::unique_ptr<v1::ImageGeneration::Stub> OwnConnection() const;

  // A unary call by bytes, for services whose protos the distribution does not ship.
  grpc::Status CallRaw(const std::string& method, const std::string& request, std::string* response);
  // "SERVING", "NOT_SERVING", or the error's code.
  std::string Health(const std::string& service);
  void AwaitHealth(const std::string& service, const std::string& status);
  // What whoever measures was told last: "serving" or "not serving", "draining" where it does, and the models that
  // serve.
  std::string HealthTold();

  // Waits until the server has counted this many calls, and returns them as "model code".
  std::vector<std::string> AwaitCalls(size_t count);
  // "joined" and "served": calls that have shared a request with an earlier one.
  std::vector<std::string> Shares() const;
  // Waits until this many have.
  void AwaitShares(size_t count);
  // Bytes held for calls that may come.
  int64_t held() const;
  // Waits until this many lines have been logged, and returns them.
  std::vector<std::string> AwaitLog(size_t count);

  const std::shared_ptr<FakeScript> script_ = std::make_shared<FakeScript>();
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ImageGeneration::Stub> stub_;
  std::unique_ptr<v1::Operations::Stub> operations_;
  std::unique_ptr<RpcServer> server_;

 private:
  // Not the test itself: its destructors change what a call of it would be, while the scheduler's threads still call.
  class Observer final : public ModelManagerObserver {
   public:
    explicit Observer(ServiceTest* test) : test_(*test) {}
    void OnChanged() override { test_.OnChanged(); }

   private:
    ServiceTest& test_;
  };

  void OnChanged();
  void OnShared(const std::string& how);
  absl::StatusOr<std::unique_ptr<Engine>> Load(const Options& options, const std::string& model,
                                               const std::string& device);

  SystemClock clock_;
  Observer observer_{this};
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> calls_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::string> lines_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::string> shares_ FRESCO_GUARDED_BY(mutex_);
  int64_t held_ FRESCO_GUARDED_BY(mutex_) = 0;
  std::string health_told_ FRESCO_GUARDED_BY(mutex_);
  std::unique_ptr<Logger> logger_;
  std::unique_ptr<ContentChecker> checker_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<ModelManager> manager_;
};

}  // namespace fresco
