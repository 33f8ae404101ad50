// Whether pictures are better decoded beside the steps, on a thread of their own, or between them: when a crowd of
// images of different numbers of steps comes at once; and when an image of many steps is drawn while short ones come,
// one after another, and are done and decoded.
//
//   decode_overlap [ROUNDS]   (5)
//
// Printed for each size, as medians of the rounds, which take turns, and the two as a ratio: how many images of the
// crowd are drawn in a second; how long the long image's steps take (with what lies between them), the short ones' time
// from call to picture, and how many of them are drawn in a second.
// FRESCO_BENCH_MODEL, FRESCO_BENCH_PRECISION and FRESCO_BENCH_DEVICE choose what is measured (models/demo, fp32, cpu).
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/bench_model.h"
#include "bench/scheduled_requests.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/median.h"
#include "pipeline/engine/load.h"
#include "server/scheduler/scheduler.h"

namespace fresco {
namespace {

constexpr int kSides[] = {64, 128, 256};  // pixels
constexpr int kLongSteps = 40;
constexpr int kShortSteps = 2;
constexpr int kCrowd = 8;  // images, of 2, 3, … steps

struct Run {
  double crowd_rate = 0;  // images a second
  double step_ms = 0;     // of the long image
  double short_ms = 0;    // from call to picture, median
  double short_rate = 0;
};

class Service {
 public:
  explicit Service(Decoding decoding) : scheduler_(OptionsOf(decoding), &clock_, nullptr) {
    const LoadOptions options = BenchModel("fp32");
    std::promise<absl::Status> loaded;
    scheduler_.AddModel(
        "bench", options.device, [options] { return LoadEngine(options); },
        [&](const auto& engine) { loaded.set_value(engine.status()); });
    if (const absl::Status status = loaded.get_future().get(); !status.ok()) Die(status);
  }

  Run Draw(int side) {
    Run run = DrawLongAndShort(side);
    run.crowd_rate = DrawCrowd(side);
    return run;
  }

 private:
  double DrawCrowd(int side) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<EventChannel>> crowd;
    for (int i = 0; i < kCrowd; ++i) crowd.push_back(Submit(side, 2 + i));
    for (const auto& channel : crowd) AwaitEnd(channel.get());
    return kCrowd / SecondsSince(begin);
  }

  Run DrawLongAndShort(int side) {
    const auto long_image = Submit(side, kLongSteps);
    const auto begin = std::chrono::steady_clock::now();
    std::vector<double> short_ms;
    std::future<CompletedEvent> end = std::async(std::launch::async, [&] { return AwaitEnd(long_image.get()); });
    while (end.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      short_ms.push_back(1e3 * absl::ToDoubleSeconds(AwaitEnd(Submit(side, kShortSteps).get()).timings.total));
    }
    const double seconds = SecondsSince(begin);
    Run run;
    run.step_ms = 1e3 * absl::ToDoubleSeconds(end.get().timings.denoise) / kLongSteps;
    run.short_ms = Median(short_ms);
    run.short_rate = static_cast<double>(short_ms.size()) / seconds;
    return run;
  }

  static SchedulerOptions OptionsOf(Decoding decoding) {
    SchedulerOptions options;
    options.decoding = decoding;
    options.measure_at_load = absl::Minutes(1);
    for (ClassOptions& of : options.core.classes) of.max_wait = absl::Hours(10);
    return options;
  }

  std::shared_ptr<EventChannel> Submit(int side, int steps) {
    ImageSpec spec;
    spec.prompt = "a red apple on a light blue background";
    spec.width = spec.height = side;
    spec.steps = steps;
    spec.guidance_scale = 3;
    spec.max_sequence_length = 32;
    spec.seed = next_;
    GenerationRequest request;
    request.id = std::to_string(next_++);
    request.model = "bench";
    request.images = {spec};
    return OrDie(scheduler_.Submit(std::move(request)));
  }

  SystemClock clock_;
  uint64_t next_ = 0;
  Scheduler scheduler_;
};

double MedianOf(const std::vector<Run>& runs, double Run::*figure) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(run.*figure);
  return Median(values);
}

void Print(int side, const std::vector<Run>& between, const std::vector<Run>& beside) {
  std::printf("%d x %d: between steps -> beside steps\n", side, side);
  const std::pair<const char*, double Run::*> figures[] = {
      {"images/s, a crowd at once", &Run::crowd_rate},
      {"ms, a step of the long image and what lies before the next", &Run::step_ms},
      {"ms, a short image from call to picture", &Run::short_ms},
      {"short images/s", &Run::short_rate}};
  for (const auto& [name, figure] : figures) {
    const double from = MedianOf(between, figure), to = MedianOf(beside, figure);
    std::printf("  %8.2f -> %8.2f  (%.2f x)  %s\n", from, to, to / from, name);
  }
  std::fflush(stdout);
}

void Main(int rounds) {
  Service between(Decoding::kBetweenSteps), beside(Decoding::kBesideSteps);
  for (int side : kSides) {
    std::vector<Run> of_between, of_beside;
    between.Draw(side);  // warm
    beside.Draw(side);
    for (int round = 0; round < rounds; ++round) {
      of_between.push_back(between.Draw(side));
      of_beside.push_back(beside.Draw(side));
    }
    Print(side, of_between, of_beside);
  }
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  if (rounds <= 0) {
    std::fprintf(stderr, "usage: decode_overlap [ROUNDS]\n");
    return 2;
  }
  fresco::Main(rounds);
}
