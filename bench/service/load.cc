// Load on the whole service with an engine that draws nothing (fresco-fake-server, beside this program): how many
// streams it holds open, what it can do, and, at half of that, what it adds to a request and whether it grows. Prints a
// table; exits with 1 where a goal is missed. docs/RELIABILITY.md says what was measured.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "bench/service/server_process.h"
#include "bench/service/traffic.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string server;  // fresco-fake-server
  int streams = 2000;
  size_t requests = 100'000;
  size_t report_every = 10'000;
  double share = 0.5;  // of capacity
  std::string step = "2ms";
  int steps = 4;
  int side = 16;  // pixels
  uint64_t seed = 6;
};

constexpr double kMaxOverheadMs = 20;
// A leak of one small object per request would be more.
constexpr double kMaxBytesPerRequest = 64;

// Nothing is refused for its wait: what is sent too fast is to show in the figures.
constexpr char kConfig[] =
    "scheduler: {max_queue: 100000, classes: {interactive: {max_wait: 10h}, standard: {max_wait: 10h}, batch: "
    "{max_wait: 10h}}}\n";

class Goals {
 public:
  void Check(bool met, const std::string& what) {
    absl::PrintF("  %-6s %s\n", met ? "ok" : "MISSED", what);
    std::fflush(stdout);
    missed_ = missed_ || !met;
  }
  bool missed() const { return missed_; }

 private:
  bool missed_ = false;
};

double Milliseconds(absl::Duration duration) {
  return absl::ToDoubleMilliseconds(duration);
}

size_t CountBad(const Records& records) {
  return static_cast<size_t>(std::count_if(records.begin(), records.end(), [](const CallRecord& record) {
    if (record.code != grpc::StatusCode::OK)
      absl::FPrintF(stderr, "a request failed: %d %s\n", static_cast<int>(record.code), record.error);
    return record.code != grpc::StatusCode::OK || !record.well_formed;
  }));
}

// Bytes that the server grows by for each request, from a line through (requests, resident bytes) by least squares.
struct Growth {
  std::vector<std::pair<double, double>> points;

  double Slope() const {
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (const auto& [requests, bytes] : points) {
      n += 1, x += requests, y += bytes, xx += requests * requests, xy += requests * bytes;
    }
    const double spread = n * xx - x * x;
    return spread > 0 ? (n * xy - x * y) / spread : 0;
  }
};

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags) {
    std::string name = (fs::temp_directory_path() / "fresco-load-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    std::ofstream(folder_ / "server.yaml") << kConfig;
    if (!absl::ParseDuration(flags.step, &step_)) step_ = absl::Milliseconds(2);
  }
  ~Bench() { fs::remove_all(folder_); }

  // All open at once: the server has taken them and has answered each, and draws nothing yet.
  absl::Status HoldStreams(Goals* goals) {
    FRESCO_ASSIGN_OR_RETURN(const auto server, StartServer("streams", {"--paused"}));
    Traffic traffic(TrafficAt(*server), &clock_);
    std::atomic<int> opened = 0;
    std::atomic<int> ended = 0;
    Mutex mutex;
    Records records;
    const int files_before = server->OpenFiles();
    const absl::Time begin = clock_.Now();
    for (int i = 0; i < flags_.streams; ++i) {
      traffic.Send(
          clock_.Now(), [&] { ++opened; },
          [&](const CallRecord& record) {
            MutexLock lock(&mutex);
            records.push_back(record);
            ++ended;
          });
    }
    while (opened + ended < flags_.streams) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const absl::Duration took = clock_.Now() - begin;
    const double held = server->Metric("fresco_queue_depth") + server->Metric("fresco_requests_running");
    absl::PrintF("%d streams: open after %.2f s, %.0f in the server, %d descriptors (%d before), %.1f MiB resident\n",
                 flags_.streams, absl::ToDoubleSeconds(took), held, server->OpenFiles(), files_before,
                 Mebibytes(*server));
    goals->Check(ended == 0 && held == flags_.streams, absl::StrFormat("%d streams open at once", flags_.streams));
    server->CloseInput();
    traffic.AwaitNone();
    goals->Check(CountBad(records) == 0, "each ended once, with its picture and OK");
    return Stopped(server.get(), goals);
  }

  absl::Status MeasureLoad(Goals* goals) {
    FRESCO_ASSIGN_OR_RETURN(const auto server, StartServer("load", {}));
    Traffic traffic(TrafficAt(*server), &clock_);
    RunClosedLoop(&traffic, &clock_, 8, 500);  // what comes first finds everything cold
    const Records alone = RunClosedLoop(&traffic, &clock_, 1, 200);
    const absl::Time begin = clock_.Now();
    const size_t count = 8000;
    const Records full = RunClosedLoop(&traffic, &clock_, 64, count);
    const double capacity = static_cast<double>(count) / absl::ToDoubleSeconds(clock_.Now() - begin);
    const double rate = flags_.share * capacity;
    absl::PrintF("capacity: %.0f requests/s (closed loop, 64 at once; %d steps of %s, batch 8)\n", capacity,
                 flags_.steps, flags_.step);
    goals->Check(CountBad(alone) + CountBad(full) == 0, "no error at capacity");
    absl::PrintF("open loop: Poisson arrivals, %.0f requests/s, %d in all\n", rate, flags_.requests);
    absl::PrintF("  %9s %14s\n", "requests", "resident MiB");
    Growth growth;
    const double cpu = server->CpuSeconds();
    const absl::Time open = clock_.Now();
    const Records records = RunOpenLoop(&traffic, &clock_, rate, flags_.requests, flags_.seed, [&](size_t ended) {
      if (ended % flags_.report_every != 0) return;
      absl::PrintF("  %9d %14.2f\n", ended, Mebibytes(*server));
      std::fflush(stdout);
      growth.points.emplace_back(static_cast<double>(ended), static_cast<double>(server->ResidentBytes()));
    });
    const double seconds = absl::ToDoubleSeconds(clock_.Now() - open);
    absl::PrintF("  %.0f s, %.0f requests/s; the server's CPU: %.0f %% of a core, %.2f ms a request\n", seconds,
                 static_cast<double>(records.size()) / seconds, 100 * (server->CpuSeconds() - cpu) / seconds,
                 1e3 * (server->CpuSeconds() - cpu) / static_cast<double>(records.size()));
    PrintTimes("alone", alone);
    PrintTimes("open loop", records);
    goals->Check(records.size() == flags_.requests && CountBad(records) == 0,
                 absl::StrFormat("%d requests, each ended once, with its picture and OK", flags_.requests));
    const double overhead = Milliseconds(Quantile(Overheads(records), 0.99));
    goals->Check(overhead <= kMaxOverheadMs,
                 absl::StrFormat("p99 of the overhead: %.1f ms (goal: %.0f ms)", overhead, kMaxOverheadMs));
    goals->Check(growth.Slope() <= kMaxBytesPerRequest,
                 absl::StrFormat("memory after the first %d: %+.1f bytes a request (goal: flat, less than %.0f)",
                                 flags_.report_every, growth.Slope(), kMaxBytesPerRequest));
    return Stopped(server.get(), goals);
  }

 private:
  absl::StatusOr<std::unique_ptr<ServerProcess>> StartServer(const std::string& name, std::vector<std::string> more) {
    const fs::path folder = folder_ / name;
    fs::create_directory(folder);
    std::vector<std::string> command = {flags_.server, "--config", (folder_ / "server.yaml").string(), "--step",
                                        flags_.step};
    command.insert(command.end(), more.begin(), more.end());
    return ServerProcess::Start(command, folder.string());
  }

  TrafficOptions TrafficAt(const ServerProcess& server) const {
    return {.address = server.address(), .connections = 4, .steps = flags_.steps, .side = flags_.side};
  }

  static double Mebibytes(const ServerProcess& server) {
    return static_cast<double>(server.ResidentBytes()) / (1 << 20);
  }

  // What a request took beyond the time that it waited for its turn and the time that its own steps take: validation,
  // scheduling between steps, events, encoding, the stream, and the client's own part in all that.
  std::vector<absl::Duration> Overheads(const Records& records) const {
    std::vector<absl::Duration> overheads;
    for (const CallRecord& record : records) overheads.push_back(record.total - record.queue - flags_.steps * step_);
    return overheads;
  }

  void PrintTimes(const char* name, const Records& records) const {
    std::vector<absl::Duration> total, queue, late;
    for (const CallRecord& record : records) {
      total.push_back(record.total);
      queue.push_back(record.queue);
      late.push_back(record.late);
    }
    absl::PrintF("  %-34s %8s %8s %8s %8s\n", StrCat(name, ", ms"), "median", "p90", "p99", "most");
    for (const auto& [what, durations] :
         std::vector<std::pair<const char*, std::vector<absl::Duration>>>{{"from due to done", total},
                                                                          {"of it, in the queue", queue},
                                                                          {"of it, sent late by the client", late},
                                                                          {"overhead", Overheads(records)}}) {
      absl::PrintF("    %-32s %8.2f %8.2f %8.2f %8.2f\n", what, Milliseconds(Quantile(durations, 0.5)),
                   Milliseconds(Quantile(durations, 0.9)), Milliseconds(Quantile(durations, 0.99)),
                   Milliseconds(Quantile(durations, 1)));
    }
  }

  static absl::Status Stopped(ServerProcess* server, Goals* goals) {
    const double counted = server->Metric("fresco_requests_total"),
                 failed = counted - server->Metric("fresco_requests_total", "code=\"OK\"");
    goals->Check(failed == 0,
                 absl::StrFormat("the server counted %.0f requests, %.0f of them not OK", counted, failed));
    goals->Check(server->Stop() == 0, "SIGTERM ended it with 0");
    return absl::OkStatus();
  }

  const Flags& flags_;
  SystemClock clock_;
  fs::path folder_;
  absl::Duration step_;
};

absl::Status Run(const Flags& flags, Goals* goals) {
  Bench bench(flags);
  FRESCO_RETURN_IF_ERROR(bench.HoldStreams(goals));
  return bench.MeasureLoad(goals);
}

std::string BesideThisProgram(const std::string& name) {
  std::error_code error;
  return (fs::read_symlink("/proc/self/exe", error).parent_path() / name).string();
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  fresco::Flags flags;
  flags.server = fresco::BesideThisProgram("fresco-fake-server");
  CLI::App app("Loads the service, with an engine that draws nothing.", "service_load");
  app.add_option("--server", flags.server, "fresco-fake-server")->type_name("PROGRAM");
  app.add_option("--streams", flags.streams, "Open at once")->capture_default_str();
  app.add_option("--requests", flags.requests, "In open loop")->capture_default_str();
  app.add_option("--report-every", flags.report_every, "Requests; memory is fitted from the first report on")
      ->capture_default_str();
  app.add_option("--share", flags.share, "Of the measured capacity, in open loop")->capture_default_str();
  app.add_option("--step", flags.step, "What the engine takes for a step of a batch")->capture_default_str();
  app.add_option("--steps", flags.steps, "Of a request")->capture_default_str();
  app.add_option("--side", flags.side, "Pixels of a picture's side")->capture_default_str();
  app.add_option("--seed", flags.seed, "Of the arrivals")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  fresco::Goals goals;
  const absl::Status status = fresco::Run(flags, &goals);
  if (!status.ok()) std::fprintf(stderr, "service_load: %s\n", std::string(status.message()).c_str());
  return status.ok() && !goals.missed() ? 0 : 1;
}
