// scheduler_bench: the real scheduling code on simulated devices; prints what each policy makes of each load, draws the
// curves, measures a decision over a long queue, and checks what docs/SCHEDULING.md promises.
//
// Exit status: 0 when all is kept, 1 when something is not, 2 for wrong usage.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bench/scheduler/curves.h"
#include "bench/scheduler/decision_time.h"
#include "bench/scheduler/simulator.h"
#include "server/scheduler/policy/cost_model_file.h"

namespace fresco {
namespace {

constexpr std::array<const char*, 3> kPolicies = {"fifo", "dynamic", "deadline-fair"};
constexpr std::array<double, 7> kLoads = {0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1};
constexpr std::array<double, 3> kPromisedLoads = {0.7, 0.9, 1.1};
constexpr char kOurs[] = "deadline-fair";

struct Flags {
  int devices = 8;
  uint64_t seed = 1;
  int seeds = 1;
  int64_t requests = 100000;
  int64_t long_requests = 1000000;
  std::string cost_model, model, svg_folder, part = "all";

  bool Wants(const std::string& asked) const { return part == "all" || part == asked; }
};
constexpr char kPoliciesPart[] = "policies", kMixingPart[] = "mixing", kDecisionsPart[] = "decisions";

struct RunKey {
  Arrivals arrivals;
  double load;
  std::string policy;
  auto operator<=>(const RunKey&) const = default;
};
using Runs = std::map<RunKey, SimulationResult>;

const char* Name(Arrivals arrivals) {
  return arrivals == Arrivals::kPoisson ? "poisson" : "bursty";
}

void PrintHeader() {
  std::printf("%-8s %4s %-13s | %5s %5s %5s %5s | %5s %5s | %6s %6s %6s | %6s %6s %6s | %6s %6s %6s | %7s %6s %6s\n",
              "arrivals", "load", "policy", "slo", "inter", "stand", "batch", "refus", "drop", "p50 i", "p95 i",
              "p99 i", "p99 s", "p99 b", "p99", "img/s", "work", "jain", "longest", "batch", "dec us");
}

void Print(const RunKey& key, const SimulationResult& run) {
  const auto share = [&](int64_t count) {
    return static_cast<double>(count) / static_cast<double>(std::max<int64_t>(1, run.all.requests));
  };
  const ClassResult& interactive = run.classes[0];
  std::printf(
      "%-8s %4.1f %-13s | %5.3f %5.3f %5.3f %5.3f | %5.3f %5.3f | %6.1f %6.1f %6.1f | %6.1f %6.1f %6.1f | %6.2f %6.3f "
      "%6.3f | %7.1f %6.2f %6.1f\n",
      Name(key.arrivals), key.load, key.policy.c_str(), run.all.attainment(), run.classes[0].attainment(),
      run.classes[1].attainment(), run.classes[2].attainment(), share(run.all.refused), share(run.all.dropped),
      interactive.Percentile(0.50), interactive.Percentile(0.95), interactive.Percentile(0.99),
      run.classes[1].Percentile(0.99), run.classes[2].Percentile(0.99), run.all.Percentile(0.99), run.images_per_second,
      run.work_per_second, run.jain, run.longest_start, run.mean_batch, run.decision_seconds * 1e6);
  std::fflush(stdout);
}

// Of the requests that were predicted to wait, or did.
void PrintPredictions(const Runs& runs) {
  std::printf("Waits until the first step, seconds:\n");
  for (const auto& [key, run] : runs) {
    std::printf("%-8s %4.1f %-13s predicted %7.2f, actual %7.2f (means); within 1 s or half of it: %3.0f %%\n",
                Name(key.arrivals), key.load, key.policy.c_str(), run.predicted_wait, run.actual_wait,
                100 * run.wait_hits);
  }
}

template <size_t kCount>
Runs RunAll(const Flags& flags, uint64_t seed, const std::array<double, kCount>& loads, const DeviceModel& device) {
  Runs runs;
  std::printf("Seed %llu:\n", static_cast<unsigned long long>(seed));
  PrintHeader();
  for (Arrivals arrivals : {Arrivals::kPoisson, Arrivals::kBursty}) {
    for (double load : loads) {
      for (const char* policy : kPolicies) {
        SimulationOptions options;
        options.core.policy = policy;
        options.devices = flags.devices;
        options.seed = seed;
        options.requests = flags.requests;
        options.load = load;
        options.arrivals = arrivals;
        const RunKey key{arrivals, load, policy};
        Print(key, runs.emplace(key, Simulate(options, device)).first->second);
      }
    }
  }
  return runs;
}

std::string Where(Arrivals arrivals, double load) {
  char where[32];
  std::snprintf(where, sizeof(where), "%s %.1f: ", Name(arrivals), load);
  return where;
}

// What is promised; each is said with its figures.
class Bars {
 public:
  void AtLeast(const std::string& what, double value, double bound) { Check(what, value, ">=", bound, value >= bound); }
  void AtMost(const std::string& what, double value, double bound) { Check(what, value, "<=", bound, value <= bound); }
  bool kept() const { return kept_; }

 private:
  void Check(const std::string& what, double value, const char* sign, double bound, bool ok) {
    std::printf("%s  %-66s %9.3f %s %.3f\n", ok ? "kept  " : "MISSED", what.c_str(), value, sign, bound);
    kept_ = kept_ && ok;
  }
  bool kept_ = true;
};

void CheckLoad(const Runs& runs, Arrivals arrivals, double load, Bars* bars) {
  const auto run = [&](const char* policy) -> const SimulationResult& { return runs.at({arrivals, load, policy}); };
  const SimulationResult& ours = run(kOurs);
  const SimulationResult& fifo = run("fifo");
  const SimulationResult& dynamic = run("dynamic");
  const std::string at = Where(arrivals, load);
  if (load == 0.9 || load == 1.1) {
    bars->AtLeast(at + "SLO attainment, times fifo's", ours.all.attainment() / fifo.all.attainment(), 1.3);
    bars->AtMost(at + "p99 of interactive, times fifo's",
                 ours.classes[0].Percentile(0.99) / fifo.classes[0].Percentile(0.99), 0.5);
  }
  bars->AtLeast(at + "SLO attainment, less dynamic's", ours.all.attainment() - dynamic.all.attainment(), 0);
  if (load == 0.7) {
    bars->AtLeast(at + "SLO attainment, less fifo's", ours.all.attainment() - fifo.all.attainment(), 0);
  }
  const double best = std::max({ours.images_per_second, fifo.images_per_second, dynamic.images_per_second});
  bars->AtLeast(at + "images a second, times the best policy's", ours.images_per_second / best, 0.97);
  bars->AtLeast(at + "Jain's index of service over min(demand, fair share)", ours.jain, 0.95);
}

double SecondsOf(absl::Duration duration) {
  return absl::ToDoubleSeconds(duration);
}

void CheckAges(const Runs& runs, Bars* bars) {
  const CoreOptions options;
  for (int i = 0; i < kPriorityClasses; ++i) {
    double longest = 0;
    for (const auto& [key, run] : runs) {
      if (key.policy == kOurs) longest = std::max(longest, run.classes[i].longest_start);
    }
    bars->AtMost("longest wait of any " + std::string(kPriorityClassNames[i]) + " image for its start, seconds",
                 longest, SecondsOf(options.classes[i].max_wait));
  }
}

void CheckRuns(const Runs& runs, Bars* bars) {
  for (Arrivals arrivals : {Arrivals::kPoisson, Arrivals::kBursty}) {
    for (double load : kPromisedLoads) CheckLoad(runs, arrivals, load, bars);
  }
  CheckAges(runs, bars);
}

void CheckDecisionTime(Bars* bars) {
  for (bool mixes : {false, true}) {
    const std::string how = mixes ? ", sizes mixed" : "";
    for (int waiting : {100, 1000, 10000, 100000}) {
      const DecisionTime time = MeasureDecision(waiting, mixes);
      std::printf("%d images of 1,000 tenants waiting%s: a decision with its events %.1f us (median), %.1f us (p99)\n",
                  waiting, how.c_str(), time.median_seconds * 1e6, time.p99_seconds * 1e6);
      if (waiting != 10000) continue;
      bars->AtMost("a decision at 10,000 waiting" + how + ", us (median)", time.median_seconds * 1e6, 50);
    }
  }
}

// A million requests, and a thousand devices.
void RunLong(const Flags& flags, const DeviceModel& device) {
  struct Run {
    int devices;
    int64_t requests;
    double load;
  };
  for (const auto& [devices, requests, load] : {Run{flags.devices, flags.long_requests, 0.9},
                                                {1, flags.requests, 0.9},
                                                {1000, flags.long_requests, 0.9},
                                                {1000, flags.long_requests, 0.8},
                                                {1000, flags.long_requests, 0.7}}) {
    SimulationOptions options;
    options.load = load;
    options.devices = devices;
    options.requests = requests;
    const SimulationResult run = Simulate(options, device);
    std::printf(
        "%d devices, %lld requests, load %.1f, deadline-fair: slo %.3f (%.3f, %.3f, %.3f), busy %.3f, batch %.2f, "
        "jain %.3f, longest %.1f s, a decision %.1f us, %lld steps; %.0f s of wall time for %.0f virtual\n",
        devices, static_cast<long long>(requests), load, run.all.attainment(), run.classes[0].attainment(),
        run.classes[1].attainment(), run.classes[2].attainment(), run.busy, run.mean_batch, run.jain, run.longest_start,
        run.decision_seconds * 1e6, static_cast<long long>(run.steps), run.wall_seconds, run.seconds);
    std::fflush(stdout);
  }
}

// Share of the steps that are of more than one size.
double Mixed(const SimulationResult& run) {
  return static_cast<double>(run.mixed_steps) / static_cast<double>(std::max<int64_t>(1, run.steps));
}

// Images of many shapes and about as many pixels.
struct Workload {
  const char* name;
  ModelWork model;
  Sizes sizes;
  double gain;        // of SLO attainment, where sizes mix, at least
  double throughput;  // likewise, times that of steps of one size
};
constexpr std::array<Workload, 2> kWorkloads = {
    Workload{"Medium, about 512x512", kMedium, Sizes::kSmallRatios, 0.01, 1.01},
    Workload{"Large, about 1024x1024", kLarge, Sizes::kLargeRatios, -0.015, 0.985}};
// On one device; its trace would take as long as those of eight.
constexpr int kMixingShare = 5;
// Of a step: where mixing takes so much longer it does not pay.
constexpr double kDearMixing = 0.5;

void CompareMixing(const SimulationOptions& base, const Workload& workload, DeviceModel device, Bars* bars) {
  SimulationOptions options = base;
  const auto run = [&](const char* name, bool mixes) {
    options.mixes = mixes;
    SimulationResult result = Simulate(options, device);
    Print({options.arrivals, options.load, name}, result);
    return result;
  };
  const SimulationResult apart = run("one size", false);
  const SimulationResult mixed = run("mixed", true);
  device.set_mixing(kDearMixing);
  const SimulationResult dear = run("mixed, dear", true);
  const std::string at = std::string(workload.name) + ", " + Where(options.arrivals, options.load);
  std::printf("%sof the steps %.3f are mixed, and where that is dear %.3f\n", at.c_str(), Mixed(mixed), Mixed(dear));
  const double one_size = apart.all.attainment();
  bars->AtLeast(at + "SLO attainment, less that of one size", mixed.all.attainment() - one_size, workload.gain);
  bars->AtLeast(at + "images a second, times those of one size", mixed.images_per_second / apart.images_per_second,
                workload.throughput);
  bars->AtLeast(at + "SLO attainment where mixing is dear, less that", dear.all.attainment() - one_size, -0.015);
}

// What it is worth that images of different sizes share steps.
void CompareMixing(const Flags& flags, uint64_t seed, const DeviceModel& measured, Bars* bars) {
  std::printf("One device, images of many shapes, seed %llu:\n", static_cast<unsigned long long>(seed));
  PrintHeader();
  for (const Workload& workload : kWorkloads) {
    for (Arrivals arrivals : {Arrivals::kPoisson, Arrivals::kBursty}) {
      for (double load : kPromisedLoads) {
        SimulationOptions options;
        options.devices = 1;
        options.requests = flags.requests / kMixingShare;
        options.arrivals = arrivals;
        options.load = load;
        options.seed = seed;
        options.sizes = workload.sizes;
        const DeviceModel device = flags.cost_model.empty() ? DeviceModel(workload.model) : measured;
        CompareMixing(options, workload, device, bars);
      }
    }
  }
}

template <typename Value>
Chart MakeChart(const Runs& runs, Arrivals arrivals, const std::string& title, const std::string& y_label,
                Value value) {
  Chart chart;
  chart.title = title;
  chart.x_label = std::string("load, of capacity (") + Name(arrivals) + ")";
  chart.y_label = y_label;
  for (const char* policy : kPolicies) {
    Curve& curve = chart.curves.emplace_back();
    curve.name = policy;
    for (double load : kLoads) curve.points.emplace_back(load, value(runs.at({arrivals, load, policy})));
  }
  return chart;
}

void DrawCurves(const Runs& runs, const std::string& folder) {
  using R = const SimulationResult&;
  for (Arrivals arrivals : {Arrivals::kPoisson, Arrivals::kBursty}) {
    const auto chart = [&](const char* title, const char* unit, auto value) {
      return MakeChart(runs, arrivals, title, unit, value);
    };
    std::vector<Chart> charts;
    charts.push_back(chart("In time", "share", [](R r) { return r.all.attainment(); }));
    charts.push_back(chart("Interactive p99", "s", [](R r) { return r.classes[0].Percentile(0.99); }));
    charts.push_back(chart("All p50", "s", [](R r) { return r.all.Percentile(0.5); }));
    charts.push_back(chart("All p95", "s", [](R r) { return r.all.Percentile(0.95); }));
    charts.push_back(chart("All p99", "s", [](R r) { return r.all.Percentile(0.99); }));
    charts.push_back(chart("Throughput", "images/s", [](R r) { return r.images_per_second; }));
    charts.push_back(chart("Jain's index", "", [](R r) { return r.jain; }));
    charts.push_back(chart("Longest wait", "s", [](R r) { return r.longest_start; }));
    charts.push_back(chart("A decision", "us", [](R r) { return r.decision_seconds * 1e6; }));
    for (size_t logarithmic : {1, 3, 4, 7}) charts[logarithmic].logarithmic = true;
    std::ofstream(folder + "/scheduling_" + Name(arrivals) + ".svg") << ChartsToSvg(charts);
  }
}

void ComparePolicies(const Flags& flags, const DeviceModel& device, Bars* bars) {
  std::printf("Capacity of a device: %.3f requests a second.\n", Capacity(device, DeviceLimits().max_batch));
  const Runs runs = RunAll(flags, flags.seed, kLoads, device);
  PrintPredictions(runs);
  if (!flags.svg_folder.empty()) DrawCurves(runs, flags.svg_folder);
  if (flags.long_requests > 0) RunLong(flags, device);
  CheckRuns(runs, bars);
  for (int i = 1; i < flags.seeds; ++i) CheckRuns(RunAll(flags, flags.seed + i, kPromisedLoads, device), bars);
}

int Main(const Flags& flags) {
  DeviceModel device;
  if (!flags.cost_model.empty()) {
    auto measured = LoadCostModel(flags.cost_model);
    if (!measured.ok()) {
      std::fprintf(stderr, "%s\n", std::string(measured.status().message()).c_str());
      return 2;
    }
    device = DeviceModel(*std::move(measured), flags.model);
  }
  Bars bars;
  if (flags.Wants(kPoliciesPart)) ComparePolicies(flags, device, &bars);
  for (int i = 0; i < flags.seeds && flags.Wants(kMixingPart); ++i) CompareMixing(flags, flags.seed + i, device, &bars);
  if (flags.Wants(kDecisionsPart)) CheckDecisionTime(&bars);
  return bars.kept() ? 0 : 1;
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  fresco::Flags flags;
  CLI::App app("Runs the scheduling policies on simulated devices and checks what they promise");
  app.add_option("--devices", flags.devices, "Of the runs that are compared")->check(CLI::Range(1, 1000));
  app.add_option("--seed", flags.seed, "Of their traces");
  app.add_option("--seeds", flags.seeds, "So many seeds: what is promised is checked with each")
      ->check(CLI::Range(1, 1000));
  app.add_option("--requests", flags.requests, "In each of them")->check(CLI::Range(100, 100000000));
  app.add_option("--long-requests", flags.long_requests, "In the runs of a million; 0: none")
      ->check(CLI::Range(0, 100000000));
  auto* cost_model = app.add_option("--cost-model", flags.cost_model, "A server's file: its device's step times");
  app.add_option("--model", flags.model, "Whose, in that file")->needs(cost_model);
  cost_model->needs("--model");
  app.add_option("--part", flags.part, "What of it")
      ->check(CLI::IsMember({std::string("all"), std::string(fresco::kPoliciesPart), std::string(fresco::kMixingPart),
                             std::string(fresco::kDecisionsPart)}));
  app.add_option("--svg", flags.svg_folder, "Folder for the curves")->check(CLI::ExistingDirectory);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return fresco::Main(flags);
}
