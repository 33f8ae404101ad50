// Many clients at once of the real server with the model that ships: every picture is the one that the same request
// gets by itself, whoever else comes, leaves, is cancelled or is late; and then nothing is left of any of them.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fresco/v1/image_generation.grpc.pb.h"
#include "fresco/v1/operations.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/image/codec.h"
#include "tests/server/main/process.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using Pictures = std::vector<std::vector<uint8_t>>;  // pixels, by index in the request

constexpr int kDrawing = 46, kCancelled = 6, kGone = 4, kKilled = 2, kLate = 6;
static_assert(kDrawing + kCancelled + kGone + kKilled + kLate == 64);
constexpr int kSpecs = 24;    // of different pictures
constexpr int kLastSpec = 1;  // of one picture alone, so that the last step is always the same
constexpr char kKilledPrompt[] = "a fox";
constexpr int kEndless = 900;  // steps of what is not to be finished: a minute and more
// Of a server's resident memory from a round to the next: allocators keep some of what many threads have freed.
constexpr double kRoundBytes = 48 << 20;

std::string ReadFile(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// Polls: what happens in another process has no other sign here. The test's own limit ends it.
void Await(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own for each
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

v1::GenerateRequest Request(int spec) {
  static constexpr const char* kPrompts[] = {"a red apple on a white background", "a fox on a green background",
                                             "a sunflower", "", "a robot on a light blue background"};
  static constexpr int kSizes[][2] = {{64, 64}, {64, 128}, {128, 64}, {96, 128}, {192, 64}, {128, 192}};
  static constexpr float kGuidance[] = {3, 1, 5, 0};
  static constexpr v1::Priority kPriorities[] = {v1::PRIORITY_INTERACTIVE, v1::PRIORITY_STANDARD, v1::PRIORITY_BATCH};
  v1::GenerateRequest request;
  request.set_prompt(kPrompts[spec % std::size(kPrompts)]);
  request.set_negative_prompt(spec % 3 == 0 ? "a fox" : "");
  request.set_width(kSizes[spec % std::size(kSizes)][0]);
  request.set_height(kSizes[spec % std::size(kSizes)][1]);
  request.set_steps(1 + spec % 8);
  request.set_guidance_scale(kGuidance[(spec / 2) % std::size(kGuidance)]);
  request.set_seed(static_cast<uint64_t>(spec) * 10);
  request.set_image_count(spec % 7 == 0 ? 2 : 1);
  request.set_max_sequence_length(spec % 5 == 0 ? 32 : 16);
  request.set_preview_every(spec % 4 == 0 ? 2 : 0);
  request.set_deterministic(spec % 2 == 0);
  request.set_priority(kPriorities[spec % std::size(kPriorities)]);
  return request;
}

// What is not finished before somebody ends it.
v1::GenerateRequest Endless(const std::string& id) {
  v1::GenerateRequest request = Request(5);
  request.set_steps(kEndless);
  request.set_guidance_scale(4);
  request.set_priority(v1::PRIORITY_INTERACTIVE);
  request.set_request_id(id);
  return request;
}

struct Drawn {
  grpc::Status status;
  Pictures pictures;
  int largest_batch = 0;
};

Drawn Draw(v1::ImageGeneration::Stub* stub, const v1::GenerateRequest& request, grpc::ClientContext* context) {
  std::map<int, std::string> files;
  Drawn drawn;
  const auto reader = stub->Generate(context, request);
  for (v1::GenerateEvent event; reader->Read(&event);) {
    if (event.has_image()) files[event.image().image_index()] += event.image().data();
    if (event.has_completed()) drawn.largest_batch = event.completed().batch_sizes().max();
  }
  drawn.status = reader->Finish();
  for (const auto& [index, bytes] : files) {
    const auto decoded = DecodeImage(bytes);
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    if (decoded.ok()) drawn.pictures.push_back(decoded->image.rgb);
  }
  return drawn;
}

// The real server, on free ports, in fp32. It is stopped by SIGTERM, and must end well.
class Server {
 public:
  Server(const std::string& policy, const std::string& decoding) {
    std::string name = (fs::temp_directory_path() / "fresco-clients-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    std::ofstream(File("server.yaml"))
        << "models: [{path: " << fs::absolute("models/demo") << ", precision: fp32, devices: [cpu]}]\n"
        << "limits: {max_steps: 1000}\n"
        << "compute: {threads: 2}\n"
        // More than fits onto the device at once, so that images are moved away and back.
        << "scheduler: {policy: " << policy << ", decoding: " << decoding
        << ", max_batch: 8, max_resident: 4, classes: {interactive: {max_wait: 10h}"
        << ", standard: {max_wait: 10h}, batch: {max_wait: 10h}}}\n";
    process_ = std::make_unique<Process>(
        std::vector<std::string>{FRESCO_SERVER_BINARY, "--config", File("server.yaml"), "--address", "127.0.0.1:0",
                                 "--metrics-address", "127.0.0.1:0", "--port-file", File("ports")},
        File("server.log"));
    Await([&] { return !process_->Running() || fs::exists(File("ports")); });
    EXPECT_TRUE(process_->Running()) << process_->Output();
    const nlohmann::json ports = nlohmann::json::parse(ReadFile(File("ports")), nullptr, false);
    address_ = ports.value("address", "");
    metrics_port_ = ports.value("metrics_port", 0);
    Await([&] { return !process_->Running() || Status().models(0).state() != v1::Model::LOADING; });
    EXPECT_EQ(Status().models(0).state(), v1::Model::READY) << process_->Output();
  }
  ~Server() {
    process_->Signal(SIGTERM);
    EXPECT_EQ(process_->Wait(), 0) << process_->Output();
    process_.reset();
    fs::remove_all(folder_);
  }

  const std::string& address() const { return address_; }
  std::string File(const std::string& name) const { return (folder_ / name).string(); }

  v1::GetStatusResponse Status() const {
    const auto operations = v1::Operations::NewStub(Connect(address_));
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::GetStatusResponse status;
    EXPECT_TRUE(operations->GetStatus(&context, {}, &status).ok());
    if (status.models_size() == 0) status.add_models();
    if (status.devices_size() == 0) status.add_devices();
    return status;
  }

  // The sum over all lines of a metric; `labels`: only those that hold the text.
  double Metric(const std::string& name, const std::string& labels = "") const {
    double sum = 0;
    std::istringstream lines(HttpGet(metrics_port_, "/metrics"));
    for (std::string line; std::getline(lines, line);) {
      const size_t end = line.find_first_of(" {");
      if (line.substr(0, end) != name || line.find(labels) == std::string::npos) continue;
      sum += std::strtod(line.c_str() + line.rfind(' '), nullptr);
    }
    return sum;
  }

 private:
  fs::path folder_;
  std::unique_ptr<Process> process_;
  std::string address_;
  int metrics_port_ = 0;
};

struct Case {
  const char* name;
  const char* policy;
  const char* decoding;  // of finished images
};

class ClientsTest : public ::testing::TestWithParam<Case> {
 protected:
  // Each by itself, from a server that does nothing else. What is ended early later on is begun too, so that all texts
  // are in the prompt cache from now on.
  void DrawAlone() {
    WarmPrompts();
    const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
    for (int spec = 0; spec < kSpecs; ++spec) {
      v1::GenerateRequest request = Request(spec);
      const int count = request.image_count();
      Pictures& alone = alone_.emplace_back();
      // A request's own images share steps too.
      for (int i = 0; i < count; ++i) {
        request.set_image_count(1);
        grpc::ClientContext context;
        const Drawn drawn = Draw(stub.get(), request, &context);
        ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
        ASSERT_EQ(drawn.largest_batch, 1);
        alone.push_back(drawn.pictures.at(0));
        request.set_seed(request.seed() + 1);
      }
    }
  }

  void WarmPrompts() {
    const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
    v1::GenerateRequest killed;
    killed.set_prompt(kKilledPrompt);
    for (v1::GenerateRequest request : {Endless("warm"), killed}) {
      request.set_steps(1);
      grpc::ClientContext context;
      ASSERT_TRUE(Draw(stub.get(), request, &context).status.ok());
    }
  }

  void DrawOne(int client) {
    const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
    const int spec = client % kSpecs;
    grpc::ClientContext context;
    // Some have a deadline that can be met.
    if (client % 3 == 0) context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(10));
    const Drawn drawn = Draw(stub.get(), Request(spec), &context);
    EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
    ASSERT_EQ(drawn.pictures.size(), alone_[spec].size());
    for (size_t i = 0; i < drawn.pictures.size(); ++i)
      EXPECT_TRUE(drawn.pictures[i] == alone_[spec][i]) << "client " << client << ", picture " << i;
    largest_batch_ = std::max(largest_batch_.load(), drawn.largest_batch);
  }

  // Cancelled by its owner, from elsewhere: while it waits or after its first step.
  void CancelOne(const std::string& id, bool running) {
    const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, Endless(id));
    AwaitEvent(reader.get(), running);
    grpc::ClientContext other;
    v1::CancelRequest cancel;
    cancel.set_request_id(id);
    v1::CancelResponse response;
    EXPECT_TRUE(stub->Cancel(&other, cancel, &response).ok());
    EXPECT_EQ(DiscardRest(reader.get()).error_code(), grpc::StatusCode::CANCELLED) << id;
  }

  // Hangs up.
  void LeaveOne(const std::string& id, bool running) {
    const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, Endless(id));
    AwaitEvent(reader.get(), running);
    context.TryCancel();
    EXPECT_EQ(DiscardRest(reader.get()).error_code(), grpc::StatusCode::CANCELLED) << id;
  }

  // A client's whole process dies; nobody says goodbye.
  void KillOne(const std::string& id) {
    Process client(
        {FRESCO_CLIENT_BINARY, "generate", "--server", server_.address(), "--prompt", kKilledPrompt, "--steps",
         std::to_string(kEndless), "--guidance", "4", "--request-id", id, "--output", server_.File(id + ".png")},
        server_.File(id + ".log"));
    Await([&] {
      const v1::GetStatusResponse status = server_.Status();
      return !client.Running() ||
             std::any_of(status.requests().begin(), status.requests().end(),
                         [&](const auto& request) { return request.request_id() == id && request.steps_done() > 0; });
    });
    EXPECT_TRUE(client.Running()) << client.Output();
    client.Signal(SIGKILL);
    client.Wait();
  }

  // Wants more within its deadline than the device could do in it.
  void BeLate(const std::string& id) {
    const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
    const Drawn drawn = Draw(stub.get(), Endless(id), &context);
    EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << drawn.status.error_message();
    EXPECT_TRUE(drawn.pictures.empty());
  }

  // All 64 at once.
  void Round(const std::string& name) {
    std::vector<std::function<void()>> clients;
    const auto id = [&](const char* kind, int i) { return name + "-" + kind + "-" + std::to_string(i); };
    for (int i = 0; i < kCancelled; ++i) clients.emplace_back([=, this] { CancelOne(id("cancelled", i), i % 2 == 0); });
    for (int i = 0; i < kGone; ++i) clients.emplace_back([=, this] { LeaveOne(id("gone", i), i % 2 == 0); });
    for (int i = 0; i < kKilled; ++i) clients.emplace_back([=, this] { KillOne(id("killed", i)); });
    for (int i = 0; i < kLate; ++i) clients.emplace_back([=, this] { BeLate(id("late", i)); });
    for (int i = 0; i < kDrawing; ++i) clients.emplace_back([=, this] { DrawOne(i); });
    std::latch start(static_cast<ptrdiff_t>(clients.size()));
    std::vector<std::jthread> threads;
    for (const auto& client : clients) {
      threads.emplace_back([&start, &client] {
        start.arrive_and_wait();
        client();
      });
    }
  }

  static void AwaitEvent(grpc::ClientReader<v1::GenerateEvent>* reader, bool progress) {
    for (v1::GenerateEvent event; reader->Read(&event);) {
      if (event.has_progress() || !progress) return;
    }
    ADD_FAILURE() << "the call ended first";
  }
  static grpc::Status DiscardRest(grpc::ClientReader<v1::GenerateEvent>* reader) {
    for (v1::GenerateEvent event; reader->Read(&event);) {
    }
    return reader->Finish();
  }

  // What the server has when nobody is there, after one more picture: the engine keeps the texts of its last step.
  struct Left {
    int64_t tensor_bytes = 0;
    double resident_bytes = 0, open_files = 0;
  };
  Left AwaitNothingLeft() {
    Await([&] {
      const v1::GetStatusResponse status = server_.Status();
      return status.requests_size() == 0 && status.requests_waiting() == 0 && status.requests_running() == 0 &&
             status.devices(0).batch_size() == 0;
    });
    {
      const auto stub = v1::ImageGeneration::NewStub(Connect(server_.address()));
      grpc::ClientContext context;
      EXPECT_TRUE(Draw(stub.get(), Request(kLastSpec), &context).status.ok());
    }
    Await([&] { return server_.Status().requests_size() == 0; });
    EXPECT_EQ(server_.Metric("fresco_requests_running"), 0);
    EXPECT_EQ(server_.Metric("fresco_queue_depth"), 0);
    // Connections are closed by their clients; the server hears of it a little later.
    const auto open_files = [&] { return server_.Metric("process_open_fds"); };
    if (idle_files_ > 0) Await([&] { return open_files() <= idle_files_; });
    Left left;
    left.tensor_bytes = server_.Status().devices(0).memory_allocated_bytes();
    left.resident_bytes = server_.Metric("process_resident_memory_bytes");
    left.open_files = open_files();
    return left;
  }

  Server server_{GetParam().policy, GetParam().decoding};
  std::vector<Pictures> alone_;
  std::atomic<int> largest_batch_ = 0;
  double idle_files_ = 0;
};

TEST_P(ClientsTest, SixtyFourGetTheirPicturesAndNothingIsLeft) {
  ASSERT_NO_FATAL_FAILURE(DrawAlone());
  const Left before = AwaitNothingLeft();
  idle_files_ = before.open_files;
  const double drawn_before = server_.Metric("fresco_images_total");
  Round("first");
  const Left first = AwaitNothingLeft();
  Round("second");
  const Left second = AwaitNothingLeft();
  // Every image of those who waited for theirs, and no other, was finished.
  int64_t images = 2 * Request(kLastSpec).image_count();
  for (int client = 0; client < kDrawing; ++client) images += 2 * Request(client % kSpecs).image_count();
  EXPECT_EQ(server_.Metric("fresco_images_total") - drawn_before, images);
  EXPECT_GE(server_.Metric("fresco_requests_total", "code=\"CANCELLED\""), 2 * (kCancelled + kGone + kKilled));
  // The device's memory is as before to the byte, and the process does not grow from a round to the next.
  EXPECT_EQ(first.tensor_bytes, before.tensor_bytes);
  EXPECT_EQ(second.tensor_bytes, before.tensor_bytes);
  EXPECT_LE(second.resident_bytes, first.resident_bytes + kRoundBytes);
  // Else all this has shown little.
  EXPECT_GT(largest_batch_, 1);
  if (std::string(GetParam().policy) == "deadline-fair") {
    EXPECT_GT(server_.Metric("fresco_preemptions_total"), 0);
  }
  RecordProperty("largest_batch", largest_batch_);
  RecordProperty("preemptions", std::to_string(server_.Metric("fresco_preemptions_total")));
  RecordProperty("resident_mib_by_round", std::to_string(before.resident_bytes / (1 << 20)) + " " +
                                              std::to_string(first.resident_bytes / (1 << 20)) + " " +
                                              std::to_string(second.resident_bytes / (1 << 20)));
}

INSTANTIATE_TEST_SUITE_P(Policies, ClientsTest,
                         ::testing::Values(Case{"deadline_fair", "deadline-fair", "between-steps"},
                                           Case{"fifo", "fifo", "between-steps"},
                                           Case{"decodes_beside", "deadline-fair", "beside-steps"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fresco
