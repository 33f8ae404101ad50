// What the scheduler gives and takes on a real engine, as ratios measured in one run, in turn: a step's time for each
// image by the size of the batch (with and without guidance); the images a second of many requests at once against the
// same one at a time; and the share of its device's time that is neither a step nor another call of the engine, also
// while ten thousand requests wait.
//
//   scheduling_overhead [POLICY [REQUESTS [SIDE]]]   (deadline-fair, 16, all of 64, 128 and 256 pixels)
//
// Exit status: 0, 1 when many at once gain too little or scheduling takes too long, 2 for wrong usage. A batch shortens
// steps, not what goes before and after them (texts, decoding): requests at once are to gain kLeastGain where a step's
// best batch would give that much of the whole image.
//
// FRESCO_BENCH_MODEL, FRESCO_BENCH_PRECISION and FRESCO_BENCH_DEVICE choose what is measured (models/demo, fp32, cpu).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/bench_model.h"
#include "bench/scheduled_requests.h"
#include "bench/timed_engine.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/median.h"
#include "pipeline/engine/load.h"
#include "server/scheduler/scheduler.h"

namespace fresco {
namespace {

constexpr int kSides[] = {64, 128, 256};  // pixels
constexpr size_t kBatches[] = {1, 2, 4, 8};
constexpr int kCurveRounds = 7;
constexpr int kRounds = 3;
constexpr int kSteps = 20;
constexpr double kLeastGain = 1.5;      // images a second, at once against one at a time
constexpr double kMostOverhead = 0.01;  // of steps' time
constexpr int kCrowd = 10000;           // requests, of kCrowdTenants
constexpr int kCrowdTenants = 100;
constexpr int kCrowdSide = 64;                         // pixels
constexpr auto kCrowdTime = std::chrono::seconds(10);  // that they are watched for

LoadOptions Options() {
  return BenchModel("fp32");
}

ImageSpec Spec(const ModelInfo& info, int side, bool guided, uint64_t seed) {
  ImageSpec spec;
  spec.prompt = "a red apple on a light blue background";
  spec.width = spec.height = side;
  spec.steps = kSteps;
  spec.guidance_scale = guided ? 3.0F : 1.0F;
  spec.max_sequence_length = info.default_max_sequence_length;
  spec.seed = seed;
  return spec;
}

// ---- the batch curve -----------------------------------------------------------------------------------------------

// Seconds of one step of `count` images.
double TimeStep(Engine* engine, const ImageSpec& spec, size_t count) {
  std::vector<std::unique_ptr<ImageJob>> jobs;
  std::vector<ImageJob*> batch;
  for (size_t i = 0; i < count; ++i) {
    jobs.push_back(OrDie(engine->Prepare(spec)));
    batch.push_back(jobs.back().get());
  }
  const auto step = [&] {
    for (const absl::Status& status : engine->Step(batch)) {
      if (!status.ok()) Die(status);
    }
  };
  step();  // the texts are put together once
  const auto begin = std::chrono::steady_clock::now();
  step();
  return SecondsSince(begin);
}

// By size of the batch, in turn, so that what disturbs the machine disturbs all.
std::vector<double> BatchCurve(Engine* engine, const ImageSpec& spec) {
  std::vector<std::vector<double>> seconds(std::size(kBatches));
  for (int round = 0; round < kCurveRounds; ++round) {
    for (size_t i = 0; i < seconds.size(); ++i) seconds[i].push_back(TimeStep(engine, spec, kBatches[i]));
  }
  std::vector<double> medians;
  for (const std::vector<double>& of : seconds) medians.push_back(Median(of));
  return medians;
}

struct Curve {
  double alone = 0;      // seconds of a step of one image
  double best_gain = 1;  // the most that a batch gives, over one image at a time
};

Curve PrintCurve(int side, bool guided, const std::vector<double>& seconds) {
  std::printf("%4d x %-4d %-8s", side, side, guided ? "guided" : "plain");
  double best = 1;
  for (size_t i = 0; i < seconds.size(); ++i) {
    const double each = seconds[i] / static_cast<double>(kBatches[i]);
    best = std::max(best, seconds[0] / each);
    std::printf("  %8.2f ms (%.2f x)", 1e3 * each, seconds[0] / each);
  }
  std::printf("\n");
  return {seconds[0], best};
}

// ---- requests through the scheduler ---------------------------------------------------------------------------------

class Service {
 public:
  explicit Service(const std::string& policy) : scheduler_(OptionsOf(policy), &clock_, nullptr) {
    std::promise<void> loaded;
    scheduler_.AddModel(
        "bench", Options().device,
        [this]() -> absl::StatusOr<std::unique_ptr<Engine>> {
          return std::make_unique<TimedEngine>(OrDie(LoadEngine(Options())), &times_);
        },
        [&](const absl::StatusOr<EngineView>& engine) {
          info_ = OrDie(engine)->info();
          loaded.set_value();
        });
    loaded.get_future().wait();
  }

  struct Run {
    double seconds = 0;
    CallTimes times;
  };

  // `at_once`: else the next comes when the one before is done.
  Run Draw(int requests, int side, bool guided, bool at_once) {
    times_ = {};
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<EventChannel>> channels;
    for (int i = 0; i < requests; ++i) {
      channels.push_back(Submit(side, guided));
      if (!at_once) AwaitEnd(channels.back().get());
    }
    for (const auto& channel : channels) {
      if (at_once) AwaitEnd(channel.get());
    }
    return {SecondsSince(begin), times_};
  }

  struct CrowdRun {
    Run run;
    double submit_seconds = 0, cancel_seconds = 0;  // of each request
    int waiting = 0;                                // at the end
  };

  // Of far more requests than are drawn in the time.
  CrowdRun DrawOfCrowd() {
    times_ = {};
    CrowdRun crowd;
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<EventChannel>> channels;
    for (int i = 0; i < kCrowd; ++i) {
      channels.push_back(Submit(kCrowdSide, true, "tenant-" + std::to_string(i % kCrowdTenants)));
    }
    crowd.submit_seconds = SecondsSince(begin) / kCrowd;
    std::this_thread::sleep_until(begin + kCrowdTime);
    crowd.waiting = scheduler_.Snapshot().waiting;
    const auto end = std::chrono::steady_clock::now();
    for (const auto& channel : channels) scheduler_.Cancel(*channel, absl::OkStatus()).IgnoreError();
    crowd.cancel_seconds = SecondsSince(end) / kCrowd;
    while (!scheduler_.Snapshot().requests.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    crowd.run = {SecondsSince(begin), times_};
    return crowd;
  }

 private:
  static SchedulerOptions OptionsOf(const std::string& policy) {
    SchedulerOptions options;
    options.core.policy = policy;
    options.max_queue = kCrowd;
    // The device is what is measured, not what is let in.
    for (ClassOptions& of : options.core.classes) of.max_wait = absl::Hours(10);
    return options;
  }

  std::shared_ptr<EventChannel> Submit(int side, bool guided, const std::string& tenant = "") {
    GenerationRequest request;
    request.id = std::to_string(next_);
    request.tenant = tenant;
    request.model = "bench";
    request.images = {Spec(info_, side, guided, next_++)};
    return OrDie(scheduler_.Submit(std::move(request)));
  }

  SystemClock clock_;
  CallTimes times_;  // of the device's thread while something is drawn
  ModelInfo info_;
  uint64_t next_ = 0;
  Scheduler scheduler_;
};

double Images(const Service::Run& run) {
  return static_cast<double>(run.times.images) / run.times.steps;
}

// Where the time of an image went, on average of several runs.
void PrintParts(const char* how, int requests, const std::vector<Service::Run>& runs) {
  const auto each = [&](const auto& of) {
    double sum = 0;
    for (const Service::Run& run : runs) sum += of(run);
    return 1e3 * sum / (requests * static_cast<double>(runs.size()));
  };
  const double all = each([](const Service::Run& run) { return run.seconds; });
  const double steps = each([](const Service::Run& run) { return run.times.step_seconds; });
  const double texts = each([](const Service::Run& run) { return run.times.text_seconds; });
  const double decodes = each([](const Service::Run& run) { return run.times.decode_seconds; });
  std::printf("%24s%-14s %6.0f ms an image: steps %.0f, texts %.0f, decoding %.0f, all else %.0f\n", "", how, all,
              steps, texts, decodes, all - steps - texts - decodes);
}

double Share(const Service::Run& run) {
  return run.times.OverheadSeconds() / run.times.step_seconds;
}

struct Verdict {
  double gain = 0;           // images a second at once, over one at a time
  double alone_seconds = 0;  // of an image, one at a time
  double overhead = 0;       // of many requests, of steps' time
};

Verdict Compare(Service* service, int requests, int side, bool guided) {
  service->Draw(requests, side, guided, true);  // the cost model learns
  std::vector<double> gains, alone_rates, rates, batches, shares, alone_shares, gaps;
  std::vector<Service::Run> runs_alone, runs_together;
  for (int round = 0; round < kRounds; ++round) {
    const Service::Run alone = service->Draw(requests, side, guided, false);
    const Service::Run together = service->Draw(requests, side, guided, true);
    gains.push_back(alone.seconds / together.seconds);
    alone_rates.push_back(requests / alone.seconds);
    rates.push_back(requests / together.seconds);
    batches.push_back(Images(together));
    shares.push_back(Share(together));
    alone_shares.push_back(alone.times.between_steps.empty()
                               ? 0
                               : Median(alone.times.between_steps) * alone.times.steps / alone.times.step_seconds);
    gaps.insert(gaps.end(), together.times.between_steps.begin(), together.times.between_steps.end());
    runs_alone.push_back(alone);
    runs_together.push_back(together);
  }
  const Verdict verdict = {Median(gains), 1 / Median(alone_rates), Median(shares)};
  std::printf(
      "%4d x %-4d %-8s  %6.2f -> %6.2f images/s (%.2f x), mean batch %.2f; overhead %.2f %% of steps "
      "(one at a time %.2f %%), between steps %.0f us (median)\n",
      side, side, guided ? "guided" : "plain", Median(alone_rates), Median(rates), verdict.gain, Median(batches),
      100 * verdict.overhead, 100 * Median(alone_shares), 1e6 * Median(gaps));
  PrintParts("one at a time", requests, runs_alone);
  PrintParts("at once", requests, runs_together);
  std::fflush(stdout);
  return verdict;
}

// What the best batch would give of the whole image.
double PossibleGain(const Curve& curve, const Verdict& verdict) {
  const double saved = kSteps * curve.alone * (1 - 1 / curve.best_gain);
  return verdict.alone_seconds / std::max(verdict.alone_seconds - saved, 1e-9);
}

bool Keeps(const Curve& curve, const Verdict& verdict) {
  const double possible = PossibleGain(curve, verdict);
  const bool gains = possible < kLeastGain || verdict.gain >= kLeastGain;
  if (!gains) std::printf("MISSED  a batch would give %.2f x, the scheduler gives %.2f x\n", possible, verdict.gain);
  if (verdict.overhead > kMostOverhead) std::printf("MISSED  more than 1 %% of the steps' time\n");
  return gains && verdict.overhead <= kMostOverhead;
}

bool KeepsInCrowd(Service* service) {
  const Service::CrowdRun crowd = service->DrawOfCrowd();
  const double share = Share(crowd.run);
  std::printf(
      "%4d x %-4d guided, %d requests waiting: overhead %.2f %% of steps, between steps %.0f us (median); "
      "to submit one %.0f us, to cancel one %.0f us (means)\n",
      kCrowdSide, kCrowdSide, crowd.waiting, 100 * share, 1e6 * Median(crowd.run.times.between_steps),
      1e6 * crowd.submit_seconds, 1e6 * crowd.cancel_seconds);
  if (share > kMostOverhead) std::printf("MISSED  more than 1 %% of the steps' time\n");
  return share <= kMostOverhead;
}

int Main(const std::string& policy, int requests, const std::vector<int>& sides) {
  std::vector<Curve> curves;
  std::printf("A step's time for each image, by images in the step:\n%-21s", "");
  for (size_t batch : kBatches) std::printf("  %11zu        ", batch);
  std::printf("\n");
  {
    const auto engine = OrDie(LoadEngine(Options()));
    for (int side : sides) {
      for (bool guided : {true, false})
        curves.push_back(PrintCurve(side, guided, BatchCurve(engine.get(), Spec(engine->info(), side, guided, 1))));
    }
  }
  std::printf("\n%d requests of %d steps through the scheduler (%s), one at a time -> at once:\n", requests, kSteps,
              policy.c_str());
  Service service(policy);
  bool kept = true;
  size_t row = 0;
  for (int side : sides) {
    for (bool guided : {true, false}) kept = Keeps(curves[row++], Compare(&service, requests, side, guided)) && kept;
  }
  kept = KeepsInCrowd(&service) && kept;
  return kept ? 0 : 1;
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  const std::string policy = argc > 1 ? argv[1] : "deadline-fair";
  const int requests = argc > 2 ? std::atoi(argv[2]) : 16;
  std::vector<int> sides(std::begin(fresco::kSides), std::end(fresco::kSides));
  if (argc > 3) sides = {std::atoi(argv[3])};
  if (requests <= 0 || sides.front() <= 0 || argc > 4) {
    std::fprintf(stderr, "usage: scheduling_overhead [POLICY [REQUESTS [SIDE]]]\n");
    return 2;
  }
  return fresco::Main(policy, requests, sides);
}
