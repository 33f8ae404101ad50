#include "pipeline/engine/memory_advice.h"

#include <algorithm>
#include <set>
#include <string>

#include "pipeline/base/format_bytes.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/memory_fit.h"

namespace fresco {
namespace {

constexpr double kMargin = 0.95;  // of what there is: predictions are within 5 %
constexpr int64_t kMiB = 1 << 20;

std::string PeakName(const MemoryPlan& plan) {
  const std::string& stage = plan.peak().name;
  if (stage == "step") return "a step";
  if (stage == "load") return "loading";
  return stage == "decode" ? "decoding" : stage;
}

std::string Shown(const std::string& setting, int64_t bytes) {
  return StrCat(setting, " (", FormatBytes(bytes), ")");
}

}  // namespace

MemoryAdvice AdviseOnMemory(const LoadOptions& options, const MemoryLoad& load, int64_t available) {
  const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options);
  if (!planner.ok()) return {};
  const bool in_turn = options.memory != nullptr;
  const MemoryPlan plan = in_turn ? planner->PlanWithin(options.memory->bytes(), load) : planner->Plan(load);
  MemoryAdvice advice = {plan.peak().total_bytes(), PeakName(plan), {}};
  // It did not fit, whatever was predicted.
  const auto room = static_cast<int64_t>(kMargin * static_cast<double>(std::min(available, advice.needed_bytes)));
  if (!in_turn) {
    const int64_t peak = planner->PlanWithin(room, load).peak().total_bytes();
    if (peak <= room) advice.remedies.push_back(Shown(StrCat("memory.budget: ", room / kMiB, "MiB"), peak));
  }
  const Residence residence = in_turn ? Residence::kWhenNeeded : Residence::kStay;
  std::set<std::string> kinds;  // of a kind (precisions, sizes) the first, which costs the picture least
  for (const MemoryFit& fit : FindFits(options, "", load, room, residence)) {
    if (kinds.insert(fit.setting.substr(0, fit.setting.find(':'))).second)
      advice.remedies.push_back(Shown(fit.setting, fit.peak_bytes));
  }
  return advice;
}

}  // namespace fresco
