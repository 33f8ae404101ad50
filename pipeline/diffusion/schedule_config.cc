#include <string>
#include <string_view>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/checkpoint/json_config.h"
#include "pipeline/diffusion/schedule.h"

namespace fresco {
namespace {

// Switches of diffusers' scheduler that change the schedule or the step; all are off in every Stable Diffusion 3
// checkpoint.
constexpr std::string_view kSwitches[] = {"use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas",
                                          "use_beta_sigmas",      "invert_sigmas",     "stochastic_sampling"};

absl::Status Unsupported(const JsonConfig& config, std::string_view key, std::string_view what) {
  return absl::UnimplementedError(config.Error(key, what).message());
}

absl::Status CheckPlain(const JsonConfig& config) {
  FRESCO_ASSIGN_OR_RETURN(const std::string name, config.String("_class_name", "FlowMatchEulerDiscreteScheduler"));
  if (name != "FlowMatchEulerDiscreteScheduler")
    return Unsupported(config, "_class_name",
                       "only FlowMatchEulerDiscreteScheduler is supported, not " + PrintableName(name));
  for (const std::string_view key : kSwitches) {
    FRESCO_ASSIGN_OR_RETURN(const bool on, config.Bool(key, false));
    if (on) return Unsupported(config, key, "true is not supported");
  }
  FRESCO_ASSIGN_OR_RETURN(const double terminal, config.Double("shift_terminal", 0.0));
  if (terminal != 0) return Unsupported(config, "shift_terminal", "is not supported");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ScheduleConfig> ReadScheduleConfig(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig config, JsonConfig::Open(path));
  FRESCO_RETURN_IF_ERROR(CheckPlain(config));
  ScheduleConfig schedule;
  FRESCO_ASSIGN_OR_RETURN(const int64_t train, config.Int("num_train_timesteps", 1000, 1, 1'000'000));
  FRESCO_ASSIGN_OR_RETURN(schedule.shift, config.Double("shift", 1.0));
  if (!(schedule.shift > 0 && schedule.shift <= 1000)) return config.Error("shift", "must be above 0 and at most 1000");
  schedule.train_timesteps = static_cast<int>(train);
  return schedule;
}

}  // namespace fresco
