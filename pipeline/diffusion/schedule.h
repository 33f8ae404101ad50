// The flow-match Euler schedule: which noise levels an image passes through (docs/facts/sd35.md, "Sampling"; after
// diffusers' FlowMatchEulerDiscreteScheduler). Pure arithmetic, no torch.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

struct ScheduleConfig {
  int train_timesteps = 1000;  // a timestep is sigma times this
  double shift = 1.0;          // pulls the steps towards high noise; 3.0 for every Stable Diffusion 3 model
};

// Reads `scheduler/scheduler_config.json` at `path`. NOT_FOUND where it is missing, INVALID_ARGUMENT for a value of the
// wrong type or out of range (train_timesteps 1 to 1e6, shift above 0 to 1000). UNIMPLEMENTED, naming file and key, for
// a schedule that is not plain flow matching (Karras, exponential or beta sigmas, dynamic shifting, …): drawing with
// another schedule than the model's would be silent damage.
absl::StatusOr<ScheduleConfig> ReadScheduleConfig(const std::string& path);

struct Schedule {
  std::vector<float> sigmas;     // [steps + 1], falling, the last is 0: the share of noise before each step
  std::vector<float> timesteps;  // [steps]: sigma * train_timesteps, what the transformer is told
};

// `steps` >= 1. The numbers are diffusers' bit for bit: the shift is applied twice (to the range and to the steps).
Schedule MakeSchedule(const ScheduleConfig& config, int steps);

}  // namespace fresco
