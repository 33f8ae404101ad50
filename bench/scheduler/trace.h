// Requests as they might come: who asks for what, when. The same options and seed give the same trace.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "server/scheduler/policy/job.h"

namespace fresco {

struct SimulatedRequest {
  double arrival = 0;  // seconds
  int tenant = 0;
  PriorityClass priority = PriorityClass::kStandard;
  int tokens = 0;
  int rows = 2;
  int steps = 28;
  int images = 1;
  int64_t state_bytes = 0;  // of each image
  double patience = 0;      // its own deadline, as a multiple of its class's target; 0: none
};

enum class Arrivals { kPoisson, kBursty };

enum class Sizes {
  kOfEverySort,  // squares and one other, from 512x512 to 1024x1024
  kLargeRatios,  // square, wide and tall ones of about as many pixels as 1024x1024
  kSmallRatios,  // the same of 512x512
};

struct TraceOptions {
  uint64_t seed = 1;
  Arrivals arrivals = Arrivals::kPoisson;
  double requests_per_second = 1;
  Sizes sizes = Sizes::kOfEverySort;
};

inline constexpr int kTenants = 10;

// Draws one request after the other.
//
// Sizes as asked for, 4 (without guidance) to 50 steps, one to four images. Of ten tenants one sends 30 %
// of the requests and calls all of them interactive, one 20 %, and the others share the rest. Three in ten requests
// have deadlines of their own, between 0.8 and 2 times their class's target.
//
// Bursts: the rate changes between 0.5 and 2.5 times the mean (together the mean again), staying for 60 and 20 seconds
// on average.
class Trace {
 public:
  explicit Trace(const TraceOptions& options);
  SimulatedRequest Next();

 private:
  double Uniform();
  double Exponential(double mean);
  int Pick(const std::vector<double>& weights);
  double NextArrival();

  const TraceOptions options_;
  const std::vector<double> size_weights_;
  std::mt19937_64 random_;
  double now_ = 0;
  bool burst_ = false;
  double phase_end_ = 0;
};

}  // namespace fresco
