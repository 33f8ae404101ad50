// The engine alone on a model: loading, preparing, one denoising step by batch size, finishing. FRESCO_BENCH_MODEL,
// FRESCO_BENCH_PRECISION and FRESCO_BENCH_DEVICE choose what is measured (models/demo, auto, cpu).
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "bench/bench_model.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"

namespace fresco {
namespace {

LoadOptions Options() {
  return BenchModel("auto");
}

ImageSpec Spec(const Engine& engine, uint64_t seed) {
  ImageSpec spec;
  spec.prompt = "a red apple on a light blue background";
  spec.width = engine.info().default_width;
  spec.height = engine.info().default_height;
  spec.steps = engine.info().default_steps;
  spec.guidance_scale = engine.info().default_guidance_scale;
  spec.max_sequence_length = engine.info().default_max_sequence_length;
  spec.seed = seed;
  return spec;
}

void Load(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(OrDie(LoadEngine(Options())));
}

void Prepare(benchmark::State& state) {
  const auto engine = OrDie(LoadEngine(Options()));
  const bool cached = state.range(0) != 0;
  uint64_t count = 0;
  for (auto _ : state) {
    ImageSpec spec = Spec(*engine, 1);
    if (!cached) spec.prompt += std::to_string(count++);
    benchmark::DoNotOptimize(OrDie(engine->Prepare(spec)));
  }
}

void Step(benchmark::State& state) {
  const auto engine = OrDie(LoadEngine(Options()));
  std::vector<std::unique_ptr<ImageJob>> jobs(static_cast<size_t>(state.range(0)));
  std::vector<ImageJob*> batch;
  int64_t images = 0;
  for (auto _ : state) {
    state.PauseTiming();
    if (batch.empty() || batch[0]->done()) {
      batch.clear();
      for (size_t i = 0; i < jobs.size(); ++i) {
        jobs[i] = OrDie(engine->Prepare(Spec(*engine, i)));
        batch.push_back(jobs[i].get());
      }
    }
    state.ResumeTiming();
    for (const absl::Status& status : engine->Step(batch)) {
      if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
    }
    images += static_cast<int64_t>(batch.size());
  }
  state.counters["image_steps/s"] = benchmark::Counter(static_cast<double>(images), benchmark::Counter::kIsRate);
}

void Finish(benchmark::State& state) {
  const auto engine = OrDie(LoadEngine(Options()));
  const auto job = OrDie(engine->Prepare(Spec(*engine, 1)));
  std::vector<ImageJob*> batch = {job.get()};
  while (!job->done()) {
    if (absl::Status status = engine->Step(batch)[0]; !status.ok()) {
      return state.SkipWithError(std::string(status.message()).c_str());
    }
  }
  for (auto _ : state) benchmark::DoNotOptimize(OrDie(engine->Finish(*job)));
}

BENCHMARK(Load)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(Prepare)->ArgName("cached")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(Step)->ArgName("images")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(Finish)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace fresco

BENCHMARK_MAIN();
