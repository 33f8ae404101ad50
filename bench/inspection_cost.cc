// What looking on costs: steps of a model that nobody looks into beside steps of the same model with everything that
// `fresco-model inspect --activations` records, and of one with a recorder that is there and at rest, in turns: what
// nobody looks into has less to do than that. It fails where looking on makes a step more than twice as long
// (docs/DEBUGGING.md). inspection_cost [SIZE [STEPS]]: of a picture's side in pixels (256), and of each (20).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench_model.h"
#include "pipeline/base/median.h"
#include "pipeline/engine/activation_recorder.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/observers.h"

namespace {

using fresco::OrDie;

constexpr double kMost = 2;  // times as long

// A model whose layers tell `recorder`, and the picture it draws; null: nobody.
struct Drawing {
  std::unique_ptr<fresco::Engine> engine;
  std::unique_ptr<fresco::ImageJob> job;
  std::vector<double> seconds = {};
};

Drawing Begin(const char* precision, int size, int steps, std::shared_ptr<fresco::ActivationRecorder> recorder) {
  fresco::LoadOptions options = fresco::BenchModel(precision);
  if (recorder != nullptr) {
    auto observers = std::make_shared<fresco::EngineObservers>();
    observers->probe = recorder;
    observers->stages = [recorder](std::string_view name, const at::Tensor& value) { recorder->Stage(name, value); };
    options.observers = observers;
  }
  Drawing drawing{OrDie(fresco::LoadEngine(options)), nullptr};
  fresco::ImageSpec spec;
  spec.prompt = "a red apple on a light blue background";
  spec.width = spec.height = size;
  spec.steps = steps;
  spec.guidance_scale = 4.5F;
  spec.max_sequence_length = drawing.engine->info().default_max_sequence_length;
  drawing.job = OrDie(drawing.engine->Prepare(spec));
  return drawing;
}

void Step(Drawing* drawing) {
  const auto begin = std::chrono::steady_clock::now();
  const absl::Status status = drawing->engine->Step({drawing->job.get()}).front();
  if (!status.ok()) fresco::Die(status);
  drawing->seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

// How many times as long a step takes. The two take turns, so that a slow moment of the machine is both's.
double Measure(const char* precision, int size, int steps) {
  auto recorder = std::make_shared<fresco::ActivationRecorder>(static_cast<size_t>(steps), false);
  Drawing off = Begin(precision, size, steps, nullptr), on = Begin(precision, size, steps, recorder);
  Drawing rest = Begin(precision, size, steps, std::make_shared<fresco::ActivationRecorder>(1, false));
  for (int step = 0; step < steps; ++step) {
    Step(&off);
    recorder->Record(static_cast<size_t>(step));
    Step(&on);
    recorder->Rest();
    Step(&rest);
  }
  const double plain = fresco::Median(off.seconds), recorded = fresco::Median(on.seconds);
  std::printf("%-16s %4d x %-4d  %8.1f ms a step, looked into %8.1f ms: %.2f x; by somebody at rest %.3f x\n",
              precision, size, size, 1e3 * plain, 1e3 * recorded, recorded / plain,
              fresco::Median(rest.seconds) / plain);
  return recorded / plain;
}

}  // namespace

int main(int argc, char** argv) {
  const int size = argc > 1 ? std::atoi(argv[1]) : 256, steps = argc > 2 ? std::atoi(argv[2]) : 20;
  double most = 0;
  for (const char* precision : {"fp32", "bf16", "fp8", "fp8-weight-only", "int8"})
    most = std::max(most, Measure(precision, size, steps));
  std::printf("%s looking on makes a step at most %.2f x as long (goal: at most %.0f)\n",
              most <= kMost ? "ok    " : "SHORT ", most, kMost);
  return most <= kMost ? 0 : 1;
}
