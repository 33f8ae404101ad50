#include "bench/scheduler/simulator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <unordered_map>
#include <utility>

namespace fresco {
namespace {

using WallClock = std::chrono::steady_clock;

constexpr char kModel[] = "sd3.5-large";
// What a server measures when it has loaded a model: a small and a large image, alone and in batches.
constexpr int kMeasuredTokensAtLoad[] = {1357, 4429};
constexpr int kMeasuredRowsAtLoad[] = {1, 2, 4, 8, 16};
// The sample from which capacity is computed.
constexpr int kCapacitySample = 200000;
constexpr uint64_t kCapacitySeed = 12345;

double Seconds(WallClock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

struct Request {
  SimulatedRequest asked;
  double target = 0;                      // when it is late
  double alone = 0;                       // seconds of work
  int left = 0;                           // images
  double stepped = 0, stepped_until = 0;  // seconds in which any of its images was in a step; the last one's end
  bool failed = false;
  std::vector<JobId> jobs;
};

struct Image {
  int64_t request = 0;
  double predicted_wait = 0;
  bool started = false;
};

struct Event {
  double time = 0;
  int64_t order = 0;
  DeviceId device = -1;  // -1: the next arrival
  bool operator>(const Event& other) const { return std::pair(time, order) > std::pair(other.time, other.order); }
};

struct SimulatedDevice {
  explicit SimulatedDevice(const WatchdogOptions& options) : watchdog(options) {}

  std::vector<JobId> batch;
  double step_seconds = 0;
  int64_t step_size = 0;  // tokens of all rows
  bool hangs = false;     // its step does not end: the watchdog finds it
  Watchdog watchdog;
};

class Simulation {
 public:
  Simulation(const SimulationOptions& options, const DeviceModel& device);
  SimulationResult Run();

 private:
  static absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }
  void MeasureAtLoad();
  void Arrive(double now);
  void EndStep(DeviceId device, double now);
  void Boundary(DeviceId device, double now);
  void WakeIdle(double now);
  double Slowdown(DeviceId device, double now) const;
  void BeginStep(DeviceId device, double begin);
  void Lose(DeviceId device, double now);
  void Begin(const std::vector<JobId>& start, double now);
  void Drop(JobId job, double now);
  void Fail(int64_t request);
  void EndRequest(int64_t id, bool done, double now);
  void Summarise();
  double Jain() const;

  const SimulationOptions options_;
  const DeviceModel& model_;
  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  ModelId model_id_ = 0;
  Trace trace_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  int64_t order_ = 0;
  SimulatedRequest next_;
  int64_t arrived_ = 0;
  std::vector<SimulatedDevice> devices_;
  std::set<DeviceId> idle_;
  std::unordered_map<int64_t, Request> requests_;
  std::unordered_map<JobId, Image> images_;
  std::array<double, kTenants> demand_ = {}, service_ = {};  // work asked for and device time got
  SimulationResult result_;
  double work_done_ = 0, busy_ = 0, predicted_ = 0, actual_ = 0, decisions_seconds_ = 0;
  int64_t decisions_ = 0, waits_ = 0, hits_ = 0, images_done_ = 0, images_stepped_ = 0;
};

TraceOptions TraceOf(const SimulationOptions& options, const DeviceModel& device) {
  const double capacity = Capacity(device, options.limits.max_batch, options.sizes);
  return {options.seed, options.arrivals, options.load * options.devices * capacity, options.sizes};
}

Simulation::Simulation(const SimulationOptions& options, const DeviceModel& device)
    : options_(options), model_(device), trace_(TraceOf(options, device)), random_(options.seed + 1) {
  auto core = SchedulingCore::Create(options.core, &costs_);
  if (!core.ok()) {
    std::fprintf(stderr, "%s\n", core.status().ToString().c_str());
    std::exit(2);
  }
  core_ = *std::move(core);
  model_id_ = core_->Model(kModel);
  for (int i = 0; i < options.devices; ++i) {
    devices_.emplace_back(options.watchdog);
    core_->SetLoaded(core_->AddDevice(options.limits), model_id_, true);
    idle_.insert(i);
  }
  MeasureAtLoad();
}

void Simulation::MeasureAtLoad() {
  for (int tokens : kMeasuredTokensAtLoad) {
    for (int rows : kMeasuredRowsAtLoad) {
      costs_.RecordStep(costs_.Curve(kModel, tokens), rows, absl::Seconds(model_.StepSeconds(tokens, rows)));
    }
  }
}

SimulationResult Simulation::Run() {
  const auto begin = WallClock::now();
  next_ = trace_.Next();
  events_.push({next_.arrival, order_++, -1});
  while (!events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    if (event.device < 0) {
      Arrive(event.time);
    } else if (devices_[event.device].hangs) {
      Lose(event.device, event.time);
    } else {
      EndStep(event.device, event.time);
    }
    WakeIdle(event.time);
  }
  result_.wall_seconds = Seconds(WallClock::now() - begin);
  Summarise();
  return std::move(result_);
}

void Simulation::Arrive(double now) {
  const int64_t id = arrived_++;
  Request request;
  request.asked = next_;
  const ClassOptions& of_class = options_.core.classes[static_cast<int>(next_.priority)];
  request.alone = next_.images * next_.steps * model_.StepSeconds(next_.tokens, next_.rows);
  const double allowed = absl::ToDoubleSeconds(of_class.target) + of_class.stretch * request.alone;
  request.target = now + allowed * (next_.patience > 0 ? std::min(1.0, next_.patience) : 1);
  demand_[next_.tenant] += request.alone;
  RequestedJobs jobs;
  const std::string tenant = "tenant-" + std::to_string(next_.tenant);
  const std::string key = options_.mixes ? "any size" : std::to_string(next_.tokens);
  jobs.tenant = tenant;
  jobs.priority = next_.priority;
  jobs.model = model_id_;
  jobs.sequence = id;
  if (next_.patience > 0) jobs.deadline = At(now + allowed * next_.patience);
  jobs.images.assign(next_.images, {key, next_.tokens, next_.rows, next_.steps, next_.state_bytes});
  request.left = next_.images;
  request.stepped_until = now;
  const Admission admission = core_->Admit(jobs, At(now));
  ++result_.classes[static_cast<int>(next_.priority)].requests;
  if (admission.refusal != Admission::Refusal::kNone) {
    ++result_.classes[static_cast<int>(next_.priority)].refused;
  } else {
    request.jobs = core_->Add(jobs, At(now));
    for (JobId job : request.jobs) images_[job] = {id, absl::ToDoubleSeconds(admission.wait), false};
    requests_.emplace(id, std::move(request));
  }
  result_.seconds = now;
  if (arrived_ == options_.requests) return;
  next_ = trace_.Next();
  events_.push({next_.arrival, order_++, -1});
}

void Simulation::WakeIdle(double now) {
  while (core_->index().waiting() > 0 && !idle_.empty()) {
    const DeviceId device = *idle_.begin();
    Boundary(device, now);
    if (idle_.contains(device)) return;  // all have the model: no other would take it
  }
}

void Simulation::Boundary(DeviceId device, double now) {
  const auto begin = WallClock::now();
  for (JobId job : core_->DropHopeless(device, At(now))) Drop(job, now);
  const Decision decision = core_->Decide(device, At(now));
  decisions_seconds_ += Seconds(WallClock::now() - begin);
  ++decisions_;
  double moving = 0;  // the device waits for states to come and go
  for (JobId job : decision.preempt) {
    moving += static_cast<double>(core_->index().job(job).spec.state_bytes) / kBytesPerSecondToHost;
    core_->Parked(job, At(now));
    ++result_.preemptions;
  }
  for (JobId job : decision.start) {
    if (images_.at(job).started) {
      moving += static_cast<double>(core_->index().job(job).spec.state_bytes) / kBytesPerSecondToHost;
    }
  }
  Begin(decision.start, now);
  SimulatedDevice& own = devices_[device];
  own.batch = decision.batch;
  if (own.batch.empty()) {
    idle_.insert(device);
    return;
  }
  idle_.erase(device);
  BeginStep(device, now + moving);
}

void Simulation::BeginStep(DeviceId device, double begin) {
  SimulatedDevice& own = devices_[device];
  std::map<int, int> rows;  // by their tokens
  own.step_size = 0;
  for (JobId job : own.batch) {
    const SimulatedRequest& asked = requests_.at(images_.at(job).request).asked;
    rows[asked.tokens] += asked.rows;
    own.step_size += int64_t{asked.rows} * asked.tokens;
  }
  if (rows.size() > 1) ++result_.mixed_steps;
  const double noise = std::max(0.5, 1 + options_.jitter * normal_(random_));
  const double slowdown = Slowdown(device, begin);
  own.step_seconds = model_.StepSeconds(rows) * noise * slowdown;
  own.hangs = slowdown == 0;
  own.watchdog.Begin(DeviceCall::kStep, own.step_size, core_->Forecast(device, own.batch).duration, At(begin));
  const double hung_at = absl::ToDoubleSeconds(own.watchdog.hung_at() - absl::UnixEpoch());
  if (!own.hangs && begin + own.step_seconds > hung_at) own.hangs = true;  // given up before it comes back
  events_.push({own.hangs ? hung_at : begin + own.step_seconds, order_++, device});
}

// 0: it hangs.
double Simulation::Slowdown(DeviceId device, double now) const {
  double slowdown = 1;
  for (const DeviceFault& fault : options_.faults) {
    if (fault.device == device && fault.begin <= now && now < fault.end) slowdown *= fault.slowdown;
  }
  return slowdown;
}

// What was on it goes on elsewhere from its last step, as with the service (docs/SCHEDULING.md, "Isolation").
void Simulation::Lose(DeviceId device, double now) {
  const std::vector<JobId> resident = core_->index().device(device).resident;
  for (JobId job : resident) core_->Displace(job, core_->index().job(job).steps_left, At(now));
  core_->RemoveDevice(device);
  devices_[device].batch.clear();
  ++result_.devices_lost;
}

void Simulation::Begin(const std::vector<JobId>& start, double now) {
  for (JobId job : start) {
    Image& image = images_.at(job);
    if (image.started) continue;
    image.started = true;
    const double wait = now - requests_.at(image.request).asked.arrival;
    double& longest = result_.classes[static_cast<int>(requests_.at(image.request).asked.priority)].longest_start;
    longest = std::max(longest, wait - requests_.at(image.request).stepped);
    result_.longest_start = std::max(result_.longest_start, longest);
    // A prediction is for a request's first image.
    if (requests_.at(image.request).jobs.front() != job || (wait <= 0 && image.predicted_wait <= 0)) continue;
    ++waits_;
    predicted_ += image.predicted_wait;
    actual_ += wait;
    if (std::abs(wait - image.predicted_wait) <= std::max(1.0, 0.5 * image.predicted_wait)) ++hits_;
  }
}

void Simulation::EndStep(DeviceId device, double now) {
  SimulatedDevice& own = devices_[device];
  own.watchdog.End();
  own.watchdog.Learn(DeviceCall::kStep, own.step_size, absl::Seconds(own.step_seconds));
  const bool in_window = arrived_ < options_.requests;
  for (JobId job : own.batch) {
    const auto found = images_.find(job);
    if (found == images_.end()) continue;  // its request was dropped meanwhile
    Image& image = found->second;
    Request& request = requests_.at(image.request);
    const SimulatedRequest& asked = request.asked;
    request.stepped += std::min(own.step_seconds, now - request.stepped_until);
    request.stepped_until = now;
    // Service is what was got of what was asked for: a step's worth of work, not how well it shared its batch.
    if (in_window) service_[asked.tenant] += model_.StepSeconds(asked.tokens, asked.rows);
  }
  ++result_.steps;
  images_stepped_ += static_cast<int64_t>(own.batch.size());
  if (in_window) busy_ += own.step_seconds;
  for (JobId job : core_->StepDone(device, absl::Seconds(own.step_seconds))) {
    const Image image = images_.at(job);
    images_.erase(job);
    Request& request = requests_.at(image.request);
    if (in_window) {
      ++images_done_;
      work_done_ += request.alone / request.asked.images;
    }
    if (--request.left == 0) EndRequest(image.request, !request.failed, now);
  }
  Boundary(device, now);
}

// One image that cannot be in time fails its request.
void Simulation::Drop(JobId job, double now) {
  const auto found = images_.find(job);
  if (found == images_.end()) return;
  const int64_t id = found->second.request;
  Request& request = requests_.at(id);
  for (JobId other : request.jobs) {
    if (images_.erase(other) > 0 && core_->index().Contains(other)) core_->Remove(other);
  }
  EndRequest(id, false, now);
}

void Simulation::EndRequest(int64_t id, bool done, double now) {
  const Request& request = requests_.at(id);
  ClassResult& of_class = result_.classes[static_cast<int>(request.asked.priority)];
  if (done) {
    of_class.latencies.push_back(static_cast<float>(now - request.asked.arrival));
    of_class.longest_wait = std::max(of_class.longest_wait, now - request.asked.arrival - request.stepped);
    if (now <= request.target) ++of_class.in_time;
  } else {
    ++of_class.dropped;
  }
  requests_.erase(id);
}

// Max-min: everybody gets what they ask for or the same as all who ask for more, of all the work that was done.
double Simulation::Jain() const {
  double total = 0;
  for (double service : service_) total += service;
  std::array<double, kTenants> demand = demand_;
  std::sort(demand.begin(), demand.end());
  double left = total;
  double fair = 0;
  for (int i = 0; i < kTenants; ++i) {
    fair = left / (kTenants - i);
    if (demand[i] > fair) break;
    left -= demand[i];
  }
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kTenants; ++i) {
    const double share = service_[i] / std::min(demand_[i], std::max(fair, 1e-9));
    sum += share;
    squares += share * share;
  }
  return squares == 0 ? 1 : sum * sum / (kTenants * squares);
}

void Simulation::Summarise() {
  for (ClassResult& of_class : result_.classes) {
    std::sort(of_class.latencies.begin(), of_class.latencies.end());
    result_.all.requests += of_class.requests;
    result_.all.in_time += of_class.in_time;
    result_.all.refused += of_class.refused;
    result_.all.dropped += of_class.dropped;
    result_.all.latencies.insert(result_.all.latencies.end(), of_class.latencies.begin(), of_class.latencies.end());
  }
  std::sort(result_.all.latencies.begin(), result_.all.latencies.end());
  const double device_seconds = result_.seconds * options_.devices;
  result_.images_per_second = static_cast<double>(images_done_) / result_.seconds;
  result_.work_per_second = work_done_ / device_seconds;
  result_.jain = Jain();
  result_.busy = busy_ / device_seconds;
  result_.mean_batch = static_cast<double>(images_stepped_) / static_cast<double>(std::max<int64_t>(1, result_.steps));
  result_.decision_seconds = decisions_seconds_ / static_cast<double>(std::max<int64_t>(1, decisions_));
  if (waits_ > 0) {
    result_.predicted_wait = predicted_ / static_cast<double>(waits_);
    result_.actual_wait = actual_ / static_cast<double>(waits_);
    result_.wait_hits = static_cast<double>(hits_) / static_cast<double>(waits_);
  }
}

}  // namespace

double ClassResult::Percentile(double share) const {
  if (latencies.empty()) return 0;
  const auto index = static_cast<size_t>(share * static_cast<double>(latencies.size() - 1));
  return latencies[index];
}

double Capacity(const DeviceModel& device, int max_batch, Sizes sizes) {
  Trace trace({kCapacitySeed, Arrivals::kPoisson, 1, sizes});
  double seconds = 0;
  for (int i = 0; i < kCapacitySample; ++i) {
    const SimulatedRequest request = trace.Next();
    seconds +=
        request.images * request.steps * device.StepSeconds(request.tokens, request.rows * max_batch) / max_batch;
  }
  return kCapacitySample / seconds;
}

SimulationResult Simulate(const SimulationOptions& options, const DeviceModel& device) {
  return Simulation(options, device).Run();
}

}  // namespace fresco
