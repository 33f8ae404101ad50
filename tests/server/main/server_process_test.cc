// The real program with the real model: what an operator sees of it.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "fresco/v1/image_generation.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/image/codec.h"
#include "tests/server/main/process.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string ReadFile(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void Nap() {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

class ServerProcessTest : public ::testing::Test {
 protected:
  ServerProcessTest() : server_(FRESCO_SERVER_BINARY), model_(fs::absolute(FRESCO_TEST_MODEL)) {
    std::string name = (fs::temp_directory_path() / "fresco-process-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~ServerProcessTest() override { fs::remove_all(folder_); }

  std::string File(const std::string& name) const { return (folder_ / name).string(); }

  // On free ports, with the model of the tests unless the arguments name another.
  std::unique_ptr<Process> Start(const std::vector<std::string>& arguments = {}) { return StartUnder({}, arguments); }
  // As the program that `command` (env and its arguments) becomes.
  std::unique_ptr<Process> StartUnder(std::vector<std::string> command, std::vector<std::string> arguments = {}) {
    command.insert(command.end(), {server_, "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0",
                                   "--port-file", File("ports")});
    if (arguments.empty()) arguments = {"--model-path", model_.string()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return std::make_unique<Process>(command, File("server.log"));
  }
  // Only flags, to its end; the exit code.
  int RunToEnd(std::vector<std::string> command, std::string* output) {
    command.insert(command.begin(), server_);
    Process process(command, File("run.log"));
    const int code = process.Wait();
    *output = process.Output();
    return code;
  }

  // Waits until the server listens.
  nlohmann::json AwaitPorts(Process* server) {
    while (server->Running() && !fs::exists(File("ports"))) Nap();
    EXPECT_TRUE(fs::exists(File("ports"))) << server->Output();
    return nlohmann::json::parse(ReadFile(File("ports")), nullptr, false);
  }
  std::unique_ptr<v1::ImageGeneration::Stub> Connect(Process* server) {
    const std::string address = AwaitPorts(server).value("address", "");
    auto stub = v1::ImageGeneration::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
    v1::Model::State state = v1::Model::LOADING;
    while (server->Running() && state == v1::Model::LOADING) {
      grpc::ClientContext context;
      v1::ListModelsResponse models;
      if (stub->ListModels(&context, {}, &models).ok() && models.models_size() > 0) state = models.models(0).state();
      Nap();
    }
    EXPECT_EQ(state, v1::Model::READY) << server->Output();
    return stub;
  }

  // Reads to the end.
  static grpc::Status Generate(v1::ImageGeneration::Stub* stub, const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    v1::GenerateEvent event;
    while (reader->Read(&event)) continue;
    return reader->Finish();
  }

  static v1::GenerateRequest Request(int steps) {
    v1::GenerateRequest request;
    request.set_prompt("a red apple on a white background");
    request.set_steps(steps);
    request.set_seed(1);
    return request;
  }

  const std::string server_;
  const fs::path model_;
  fs::path folder_;
};

TEST_F(ServerProcessTest, FlagsExplainThemselves) {
  std::string output;
  EXPECT_EQ(RunToEnd({"--version"}, &output), 0);
  EXPECT_THAT(output, ::testing::MatchesRegex("fresco-server [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  EXPECT_EQ(RunToEnd({"--help"}, &output), 0);
  EXPECT_THAT(output, AllOf(HasSubstr("--config"), HasSubstr("--port-file"), HasSubstr("--check-config")));
  EXPECT_EQ(RunToEnd({"--no-such-flag"}, &output), 2);
  EXPECT_EQ(RunToEnd({"--address", "nowhere"}, &output), 1);
  EXPECT_THAT(output, HasSubstr("--address: expected host:port"));
  EXPECT_EQ(RunToEnd({"--metrics-address", "metrics.example:9500"}, &output), 1);
  EXPECT_THAT(output, HasSubstr("--metrics-address: expected an IP address or localhost"));
}

TEST_F(ServerProcessTest, ABadConfigurationIsRefusedWithEveryMistake) {
  std::ofstream(File("bad.yaml")) << "scheduler: {max_batch: 0}\nmodels:\n  - path: nowhere\nserverr: {}\n";
  std::string output;
  EXPECT_EQ(RunToEnd({"--check-config", "--config", File("bad.yaml")}, &output), 1);
  EXPECT_THAT(output, AllOf(HasSubstr("bad.yaml:1: scheduler.max_batch:"), HasSubstr("bad.yaml:3: models[0].path:"),
                            HasSubstr("bad.yaml:4: serverr: unknown setting; did you mean 'server'?")));
  std::ofstream(File("good.yaml")) << "models: [{path: " << model_ << "}]\n";
  EXPECT_EQ(RunToEnd({"--check-config", "--config", File("good.yaml")}, &output), 0) << output;
}

TEST_F(ServerProcessTest, DrawsAndFinishesRunningWorkOnSigterm) {
  const auto server = Start();
  const auto stub = Connect(server.get());
  grpc::ClientContext context;
  v1::GenerateRequest request = Request(8);
  request.set_request_id("last");
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  while (reader->Read(&event) && !event.has_progress()) continue;
  ASSERT_TRUE(event.has_progress());
  server->Signal(SIGTERM);
  server->AwaitOutput("stopping");
  grpc::ClientContext late;
  EXPECT_EQ(stub->Generate(&late, Request(1))->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  std::string png;
  bool completed = false;
  while (reader->Read(&event)) {
    if (event.has_image()) png += event.image().data();
    completed = completed || event.has_completed();
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(completed);
  EXPECT_TRUE(DecodeImage(png).ok());
  EXPECT_EQ(server->Wait(), 0) << server->Output();
  EXPECT_THAT(server->Output(), AllOf(HasSubstr("request id=last"), HasSubstr("code=OK"), HasSubstr("stopped")));
}

TEST_F(ServerProcessTest, ASecondSignalEndsItAtOnce) {
  const auto server = Start();
  const auto stub = Connect(server.get());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, Request(150));
  v1::GenerateEvent event;
  while (reader->Read(&event) && !event.has_progress()) continue;
  server->Signal(SIGINT);
  server->AwaitOutput("stopping");
  server->Signal(SIGINT);
  EXPECT_EQ(server->Wait(), 128 + SIGINT);
  context.TryCancel();
}

TEST_F(ServerProcessTest, ASignalThatItDoesNotKnowEndsItInsteadOfMakingItDeaf) {
  const auto server = Start();
  AwaitPorts(server.get());
  server->Signal(SIGUSR2);
  EXPECT_EQ(server->Wait(), 128 + SIGUSR2);
}

// What a program was started with.
std::vector<std::string> EnvironmentOf(pid_t pid) {
  std::istringstream text(ReadFile("/proc/" + std::to_string(pid) + "/environ"));
  std::vector<std::string> variables;
  for (std::string variable; std::getline(text, variable, '\0');) variables.push_back(variable);
  return variables;
}

TEST_F(ServerProcessTest, OpenMpsThreadsSleepWhileTheyWait) {
  const auto server = StartUnder({"env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT"});
  EXPECT_EQ(AwaitPorts(server.get()).value("pid", 0), server->pid());
  EXPECT_THAT(EnvironmentOf(server->pid()), Contains("OMP_WAIT_POLICY=passive"));
  EXPECT_EQ(ReadFile("/proc/" + std::to_string(server->pid()) + "/comm"), "fresco-server\n");
}

TEST_F(ServerProcessTest, HowAnOperatorHasOpenMpWaitStaysSo) {
  auto server = StartUnder({"env", "OMP_WAIT_POLICY=active"});
  AwaitPorts(server.get());
  EXPECT_THAT(EnvironmentOf(server->pid()), Contains("OMP_WAIT_POLICY=active"));
  server.reset();
  fs::remove(File("ports"));
  server = StartUnder({"env", "-u", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT=1000"});
  AwaitPorts(server.get());
  EXPECT_THAT(EnvironmentOf(server->pid()),
              AllOf(Contains("GOMP_SPINCOUNT=1000"), Not(Contains(StartsWith("OMP_WAIT_POLICY=")))));
}

// No device answers within so short a time: as if it hung, in the model's warm-up.
TEST_F(ServerProcessTest, ADeviceThatHangsEndsTheServerSoThatItIsStartedAnew) {
  std::ofstream(File("hasty.yaml"))
      << "scheduler: {measure_at_load: 0s, watchdog: {floor: 1ms, first: 1ms, factor: 1}}\n"
      << "models: [{path: " << model_ << "}]\n";
  const auto server = Start({"--config", File("hasty.yaml")});
  EXPECT_EQ(server->Wait(), 75) << server->Output();
  EXPECT_THAT(server->Output(),
              AllOf(HasSubstr("device_lost device=cpu"), HasSubstr("cause=device_lost"), HasSubstr("stopped")));
}

TEST_F(ServerProcessTest, ALostDeviceNeedNotEndTheServer) {
  std::ofstream(File("stays.yaml"))
      << "server: {exit_when_device_lost: false}\n"
      << "scheduler: {measure_at_load: 0s, watchdog: {floor: 1ms, first: 1ms, factor: 1}}\n"
      << "models: [{path: " << model_ << "}]\n";
  const auto server = Start({"--config", File("stays.yaml")});
  const std::string address = AwaitPorts(server.get()).value("address", "");
  const auto stub = v1::ImageGeneration::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::Status status;
  while (status.error_message().find("is lost") == std::string::npos) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    status = Generate(stub.get(), Request(8));
    ASSERT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();  // LOADING, then lost
  }
  EXPECT_TRUE(server->Running());
  server->Signal(SIGTERM);
  EXPECT_EQ(server->Wait(), 0) << server->Output();
}

TEST_F(ServerProcessTest, TheGracePeriodEndsWhatRunsTooLong) {
  std::ofstream(File("short.yaml")) << "server: {grace_period: 100ms}\nmodels: [{path: " << model_ << "}]\n";
  const auto server = Start({"--config", File("short.yaml")});
  const auto stub = Connect(server.get());
  grpc::ClientContext context;
  v1::GenerateRequest request = Request(150);
  request.set_image_count(8);
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  while (reader->Read(&event) && !event.has_progress()) continue;
  server->Signal(SIGTERM);
  while (reader->Read(&event)) EXPECT_FALSE(event.has_completed());
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the server is shutting down");
  EXPECT_THAT(status.error_details(), HasSubstr("google.rpc.RetryInfo"));
  EXPECT_EQ(server->Wait(), 0);
  EXPECT_THAT(server->Output(), AllOf(HasSubstr("requests_cut_off=1"), HasSubstr("code=UNAVAILABLE")));
}

// A call's picture, as bytes of its file.
std::string PictureOf(grpc::ClientReader<v1::GenerateEvent>* reader) {
  std::string file;
  for (v1::GenerateEvent event; reader->Read(&event);) {
    if (event.has_image()) file += event.image().data();
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  return file;
}

TEST_F(ServerProcessTest, APreemptedPictureIsTheSameAsAlone) {
  std::ofstream(File("one.yaml")) << "scheduler: {max_resident: 1}\nmodels: [{path: " << model_ << "}]\n";
  const auto server = Start({"--config", File("one.yaml")});
  const auto stub = Connect(server.get());
  v1::GenerateRequest patient = Request(40);
  patient.set_priority(v1::PRIORITY_BATCH);
  grpc::ClientContext alone_context, preempted_context, urgent_context;
  const std::string alone = PictureOf(stub->Generate(&alone_context, patient).get());
  const auto preempted = stub->Generate(&preempted_context, patient);
  v1::GenerateEvent event;
  while (preempted->Read(&event) && !event.has_progress()) continue;
  v1::GenerateRequest urgent = Request(4);
  urgent.set_width(64);
  urgent.set_height(64);
  urgent.set_priority(v1::PRIORITY_INTERACTIVE);
  PictureOf(stub->Generate(&urgent_context, urgent).get());
  EXPECT_EQ(PictureOf(preempted.get()), alone);
  const std::string metrics = HttpGet(AwaitPorts(server.get()).value("metrics_port", 0), "/metrics");
  EXPECT_THAT(metrics,
              HasSubstr("fresco_preemptions_total{device=\"cpu\",model=\"" + model_.filename().string() + "\"} 1\n"));
}

TEST_F(ServerProcessTest, WhatIsLearnedOfStepsIsKept) {
  std::ofstream(File("kept.yaml")) << "scheduler: {cost_model: costs.json, measure_at_load: 0s}\nmodels: [{path: "
                                   << model_ << "}]\n";
  const auto counts = [&] {
    const nlohmann::json file = nlohmann::json::parse(ReadFile(File("costs.json")), nullptr, false);
    int64_t steps = 0;
    for (const nlohmann::json& cell : file.value("steps", nlohmann::json::array())) {
      // Texts and decodes have curves of their own.
      const bool of_step = cell.value("model", "").find('/') == std::string::npos;
      if (of_step) steps += cell.value("count", 0);
    }
    return steps;
  };
  for (const int64_t steps : {2, 4}) {
    const auto server = Start({"--config", File("kept.yaml")});
    const auto stub = Connect(server.get());
    grpc::ClientContext context;
    PictureOf(stub->Generate(&context, Request(2)).get());
    server->Signal(SIGTERM);
    EXPECT_EQ(server->Wait(), 0) << server->Output();
    EXPECT_EQ(counts(), steps);
    fs::remove(File("ports"));
  }
  // A file that is none is no reason not to serve.
  std::ofstream(File("costs.json")) << "{";
  const auto server = Start({"--config", File("kept.yaml")});
  Connect(server.get());
  EXPECT_THAT(server->Output(), AllOf(HasSubstr("cost_model_not_read"), HasSubstr("costs.json: is not JSON")));
}

// Nothing of a request outlives its server, and nothing needs to: its caller asks the next one for the same.
TEST_F(ServerProcessTest, AfterAKillARetryGetsTheSamePicture) {
  auto server = Start();
  auto stub = Connect(server.get());
  v1::GenerateRequest request = Request(60);
  request.set_request_id("undisturbed");
  grpc::ClientContext before, killed, after, again;
  const std::string undisturbed = PictureOf(stub->Generate(&before, request).get());
  request.set_request_id("disturbed");
  const auto reader = stub->Generate(&killed, request);
  v1::GenerateEvent event;
  while (reader->Read(&event) && event.progress().step() < 2) continue;
  ASSERT_TRUE(event.has_progress());
  server->Signal(SIGKILL);
  while (reader->Read(&event)) EXPECT_FALSE(event.has_image());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(server->Wait(), 128 + SIGKILL);
  fs::remove(File("ports"));
  server = Start();
  stub = Connect(server.get());
  EXPECT_TRUE(PictureOf(stub->Generate(&after, request).get()) == undisturbed);
  // From here on it is kept: a client that has lost only its connection need not wait.
  EXPECT_TRUE(PictureOf(stub->Generate(&again, request).get()) == undisturbed);
  EXPECT_THAT(HttpGet(AwaitPorts(server.get()).value("metrics_port", 0), "/metrics"),
              AllOf(HasSubstr("fresco_images_total{model=\"demo\"} 1\n"),
                    HasSubstr("fresco_results_served_total{model=\"demo\"} 1\n")));
}

// The model of the tests by links, but for the transformer's weights, which `change` has edited.
fs::path BrokenModel(const fs::path& model, const fs::path& folder, const std::function<void(std::string*)>& change) {
  fs::create_directories(folder);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(model)) {
    const fs::path there = folder / entry.path().lexically_relative(model);
    if (entry.is_directory()) fs::create_directories(there);
    if (!entry.is_directory()) fs::create_symlink(entry.path(), there);
  }
  const fs::path weights = folder / "transformer/diffusion_pytorch_model.safetensors";
  std::string bytes = ReadFile(weights);
  EXPECT_FALSE(bytes.empty());
  change(&bytes);
  fs::remove(weights);
  std::ofstream(weights, std::ios::binary) << bytes;
  return folder;
}

TEST_F(ServerProcessTest, AMissingTensorStopsTheStartWithItsNameAndFile) {
  const fs::path broken = BrokenModel(model_, folder_ / "broken", [](std::string* bytes) {
    const size_t at = bytes->find("\"norm_out.linear.weight\"");
    ASSERT_NE(at, std::string::npos);
    (*bytes)[at + 1] = 'x';
  });
  const auto server = Start({"--model-path", broken.string()});
  EXPECT_EQ(server->Wait(), 1);
  EXPECT_THAT(server->Output(),
              AllOf(HasSubstr("no model can be served"), HasSubstr("diffusion_pytorch_model.safetensors"),
                    HasSubstr("norm_out.linear.weight")));
}

TEST_F(ServerProcessTest, ATruncatedCheckpointFailsThatModelAndTheOtherServes) {
  const fs::path broken =
      BrokenModel(model_, folder_ / "broken", [](std::string* bytes) { bytes->resize(bytes->size() - 1000); });
  std::ofstream(File("two.yaml")) << "models: [{name: good, path: " << model_ << "}, {path: " << broken << "}]\n";
  const auto server = Start({"--config", File("two.yaml")});
  const auto stub = Connect(server.get());
  v1::ListModelsResponse models;
  do {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->ListModels(&context, {}, &models).ok());
    Nap();
  } while (models.models(1).state() == v1::Model::LOADING);
  EXPECT_EQ(models.models(0).state(), v1::Model::READY);
  EXPECT_EQ(models.models(1).state(), v1::Model::FAILED);
  EXPECT_THAT(models.models(1).error(), HasSubstr("diffusion_pytorch_model.safetensors"));
  server->Signal(SIGTERM);
  EXPECT_EQ(server->Wait(), 0) << server->Output();
}

// The first sample of a PromQL query, or nothing.
std::optional<double> Query(int port, const std::string& query) {
  const std::string answer = HttpGet(port, "/api/v1/query?query=" + query);
  const nlohmann::json json =
      nlohmann::json::parse(answer.substr(std::min(answer.size(), answer.find("\r\n\r\n") + 4)), nullptr, false);
  const auto sample = nlohmann::json::json_pointer("/data/result/0/value/1");
  if (json.is_discarded() || !json.contains(sample)) return std::nullopt;
  return std::stod(json.at(sample).get<std::string>());
}

TEST_F(ServerProcessTest, ARealPrometheusScrapesTheMetrics) {
  const std::string prometheus = FRESCO_PROMETHEUS_BINARY;
  ASSERT_TRUE(fs::exists(prometheus)) << prometheus << " is not there: ./dev test unpacks it";
  const auto server = Start();
  const auto stub = Connect(server.get());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, Request(2));
  for (v1::GenerateEvent event; reader->Read(&event);) continue;
  ASSERT_TRUE(reader->Finish().ok());
  std::ofstream(File("prometheus.yml")) << "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
                                        << "scrape_configs: [{job_name: fresco, static_configs: [{targets: [\""
                                        << AwaitPorts(server.get()).value("metrics_address", "") << "\"]}]}]\n";
  Process scraper({prometheus, "--config.file=" + File("prometheus.yml"), "--storage.tsdb.path=" + File("tsdb"),
                   "--web.listen-address=127.0.0.1:0"},
                  File("prometheus.log"));
  const std::string listening = "msg=\"Listening on\" address=127.0.0.1:";
  scraper.AwaitOutput("Server is ready to receive web requests");
  const std::string log = scraper.Output();
  ASSERT_NE(log.find(listening), std::string::npos) << log;
  const int port = std::stoi(log.substr(log.find(listening) + listening.size()));
  while (scraper.Running() && Query(port, "fresco_images_total") != 1.0) Nap();
  EXPECT_EQ(Query(port, "up"), 1.0);
  EXPECT_EQ(Query(port, "fresco_requests_total{code=\"OK\"}"), 1.0);
  EXPECT_EQ(Query(port, "fresco_stage_duration_seconds_count{stage=\"denoise\"}"), 1.0);
  EXPECT_EQ(Query(port, "sum(fresco_step_duration_seconds_count)"), 2.0);
  EXPECT_EQ(Query(port, "sum(fresco_prompt_cache_misses_total)>bool+0"), 1.0);
  for (const char* positive :
       {"fresco_device_memory_bytes{kind=\"weights\"}", "fresco_device_memory_bytes{kind=\"allocated\"}",
        "fresco_device_memory_bytes{kind=\"peak\"}", "fresco_weights_bytes{component=\"transformer\"}",
        "fresco_model_load_seconds", "fresco_build_info", "fresco_queue_wait_seconds_count",
        "fresco_request_duration_seconds_count", "fresco_batch_size_sum", "process_resident_memory_bytes"}) {
    EXPECT_GT(Query(port, positive).value_or(0), 0) << positive;
  }
  for (const char* zero :
       {"fresco_nonfinite_outputs_total", "fresco_requests_running", "sum(fresco_queue_depth)",
        "sum(fresco_refusals_total)", "fresco_requests_joined_total", "fresco_results_served_total",
        "fresco_results_kept_bytes", "fresco_preemptions_total", "fresco_batch_splits_total",
        "fresco_images_moved_total", "fresco_saturated_activations_total", "fresco_guarded_activations_total"}) {
    EXPECT_EQ(Query(port, zero), 0.0) << zero;
  }
  // docs/CONFIGURATION.md's list and the usual ones of a process; a histogram is there as its count.
  for (const char* name : {"fresco_requests_total",
                           "fresco_requests_running",
                           "fresco_queue_depth",
                           "fresco_queue_wait_seconds_count",
                           "fresco_predicted_queue_wait_seconds_count",
                           "fresco_queue_wait_error_seconds_count",
                           "fresco_step_prediction_error_ratio_count",
                           "fresco_refusals_total",
                           "fresco_request_duration_seconds_count",
                           "fresco_stage_duration_seconds_count",
                           "fresco_step_duration_seconds_count",
                           "fresco_batch_size_count",
                           "fresco_images_total",
                           "fresco_device_memory_bytes",
                           "fresco_weights_bytes",
                           "fresco_prompt_cache_hits_total",
                           "fresco_prompt_cache_misses_total",
                           "fresco_nonfinite_outputs_total",
                           "fresco_saturated_activations_total",
                           "fresco_guarded_activations_total",
                           "fresco_model_load_seconds",
                           "fresco_build_info",
                           "fresco_device_lost",
                           "process_cpu_seconds_total",
                           "process_resident_memory_bytes",
                           "process_virtual_memory_bytes",
                           "process_start_time_seconds",
                           "process_open_fds",
                           "process_max_fds"}) {
    EXPECT_TRUE(Query(port, name).has_value()) << name;
  }
}

}  // namespace
}  // namespace fresco
