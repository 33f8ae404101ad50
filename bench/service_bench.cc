// What the service adds to the engine: the same images drawn by the bare engine and through gRPC on loopback, in turn.
// Includes validation, queue, events for every step, PNG encoding and the stream. FRESCO_BENCH_MODEL and
// FRESCO_BENCH_PRECISION choose what is measured (models/demo, auto).
#include <benchmark/benchmark.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/bench_model.h"
#include "fresco/v1/image_generation.grpc.pb.h"
#include "pipeline/base/median.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "server/rpc/server.h"

namespace fresco {
namespace {

constexpr char kPrompt[] = "a red apple on a light blue background";

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

LoadOptions Options() {
  LoadOptions options = BenchModel("auto");
  options.device = "cpu";  // as the service's model is announced
  return options;
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// A whole server in this process, on a free port, and a client of it.
class Service {
 public:
  Service()
      : scheduler_(SchedulerOptions(), &clock_, nullptr),
        models_(std::vector<ModelRegistry::Replica>{{"bench", "cpu"}}),
        logger_(LogConfig{.level = LogLevel::kError}, &clock_) {
    std::promise<void> loaded;
    scheduler_.AddModel(
        "bench", "cpu", [] { return LoadEngine(Options()); },
        [&](const absl::StatusOr<EngineView>& engine) {
          models_.SetLoaded("bench", "cpu", engine);
          if (!engine.ok()) Die(engine.status().ToString());
          loaded.set_value();
        });
    loaded.get_future().wait();
    RpcDependencies dependencies{&scheduler_,
                                 &models_,
                                 &logger_,
                                 &clock_,
                                 [this] { return random_(); },
                                 [](const std::string&, const std::string&) {}};
    auto server = RpcServer::Start(RpcOptions{.version = "bench"}, dependencies);
    if (!server.ok()) Die(server.status().ToString());
    server_ = *std::move(server);
    const std::string address = "127.0.0.1:" + std::to_string(server_->port());
    stub_ = v1::ImageGeneration::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }

  void Draw(int steps, uint64_t seed) {
    v1::GenerateRequest request;
    request.set_prompt(kPrompt);
    request.set_steps(steps);
    request.set_seed(seed);
    grpc::ClientContext context;
    const auto stream = stub_->Generate(&context, request);
    v1::GenerateEvent event;
    while (stream->Read(&event)) benchmark::DoNotOptimize(event);
    if (const grpc::Status status = stream->Finish(); !status.ok()) Die(status.error_message());
  }

 private:
  SystemClock clock_;
  std::mt19937_64 random_{1};
  Scheduler scheduler_;
  ModelRegistry models_;
  Logger logger_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::ImageGeneration::Stub> stub_;
};

void DrawBare(Engine& engine, int steps, uint64_t seed) {
  ImageSpec spec;
  spec.prompt = kPrompt;
  spec.width = engine.info().default_width;
  spec.height = engine.info().default_height;
  spec.steps = steps;
  spec.guidance_scale = engine.info().default_guidance_scale;
  spec.max_sequence_length = engine.info().default_max_sequence_length;
  spec.seed = seed;
  auto job = engine.Prepare(spec);
  if (!job.ok()) Die(job.status().ToString());
  std::vector<ImageJob*> batch = {job->get()};
  while (!batch[0]->done()) {
    if (absl::Status status = engine.Step(batch)[0]; !status.ok()) Die(status.ToString());
  }
  benchmark::DoNotOptimize(engine.Finish(**job));
}

void Overhead(benchmark::State& state) {
  const int steps = static_cast<int>(state.range(0));
  auto bare = LoadEngine(Options());
  if (!bare.ok()) Die(bare.status().ToString());
  Service service;
  std::vector<double> bare_seconds, service_seconds;
  uint64_t seed = 0;
  for (auto _ : state) {
    auto begin = std::chrono::steady_clock::now();
    DrawBare(**bare, steps, seed);
    bare_seconds.push_back(Seconds(begin));
    begin = std::chrono::steady_clock::now();
    service.Draw(steps, seed++);
    service_seconds.push_back(Seconds(begin));
  }
  state.counters["bare_ms"] = 1e3 * Median(bare_seconds);
  state.counters["service_ms"] = 1e3 * Median(service_seconds);
  state.counters["overhead_ms"] = 1e3 * (Median(service_seconds) - Median(bare_seconds));
}

BENCHMARK(Overhead)->ArgName("steps")->Arg(1)->Arg(20)->Iterations(40)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace fresco

BENCHMARK_MAIN();
