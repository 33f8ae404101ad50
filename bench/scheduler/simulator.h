// Runs the scheduling core, the code that serves, on a virtual clock with simulated devices.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bench/scheduler/device_model.h"
#include "bench/scheduler/trace.h"
#include "server/scheduler/policy/scheduling_core.h"
#include "server/scheduler/policy/watchdog.h"

namespace fresco {

// What goes wrong with a device in the course of a run.
struct DeviceFault {
  DeviceId device = 0;
  double begin = 0, end = 0;  // seconds
  double slowdown = 0;        // steps that begin in between take so many times as long; 0: the first of them never ends
};

struct SimulationOptions {
  CoreOptions core;
  DeviceLimits limits;
  int devices = 8;
  int64_t requests = 100000;
  double load = 0.9;  // of Capacity
  Arrivals arrivals = Arrivals::kPoisson;
  uint64_t seed = 1;
  Sizes sizes = Sizes::kOfEverySort;
  bool mixes = false;    // the engine takes images of different sizes into one step
  double jitter = 0.03;  // standard deviation of a step's time, as a share of it
  std::vector<DeviceFault> faults;
  WatchdogOptions watchdog;
};

struct ClassResult {
  int64_t requests = 0, in_time = 0, refused = 0, dropped = 0;
  // Seconds from arrival to an image's first step, but for those in which others of its request were in steps.
  double longest_start = 0;
  double longest_wait = 0;  // seconds in which none of a request's images was in a step, of those that were completed
  std::vector<float> latencies;  // seconds from arrival to the last image, of those that were completed; sorted

  double attainment() const { return requests == 0 ? 1 : static_cast<double>(in_time) / static_cast<double>(requests); }
  double Percentile(double share) const;
};

struct SimulationResult {
  std::array<ClassResult, kPriorityClasses> classes;
  ClassResult all;
  double seconds = 0;  // virtual, until the last arrival; what follows is within it
  double images_per_second = 0;
  double work_per_second = 0;  // seconds of images drawn one by one, for each second of a device
  double jain = 1;             // of service over min(demand, fair share), over tenants
  double longest_start = 0;    // of the classes'
  double busy = 0;             // share of the devices' time spent in steps
  double mean_batch = 0;       // images in a step
  int64_t steps = 0, preemptions = 0;
  int64_t mixed_steps = 0;  // of images of different sizes
  int devices_lost = 0;
  double decision_seconds = 0;                 // wall time of a decision, mean
  double predicted_wait = 0, actual_wait = 0;  // to a request's first step, means, where it was not 0
  double wait_hits = 0;                        // share of those within a second or a half of what was predicted
  double wall_seconds = 0;
};

// Requests in a second that keep one device busy if it draws only full batches of a kind: more than any policy can do.
double Capacity(const DeviceModel& device, int max_batch, Sizes sizes = Sizes::kOfEverySort);

SimulationResult Simulate(const SimulationOptions& options, const DeviceModel& device);

}  // namespace fresco
