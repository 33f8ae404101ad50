#include "pipeline/engine/memory_advice.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/format_bytes.h"

namespace fresco {
namespace {

constexpr double kMargin = 0.95;  // of what there is: predictions are within 5 %
constexpr int kSideMultiple = 64;  // pixels: what people ask for

bool IsQuantised(const std::string& precision) {
  return absl::StartsWith(precision, "fp8") || absl::StartsWith(precision, "int8");
}

std::string PeakName(const MemoryPlan& plan) {
  const std::string& stage = plan.peak().name;
  if (stage == "step") return "a step";
  return stage == "decode" ? "decoding" : stage;
}

// Tries settings, one change after another, and keeps those that are enough.
class Remedies {
 public:
  Remedies(const LoadOptions& options, const MemoryLoad& load, int64_t room)
      : options_(options), load_(load), room_(room) {}

  // A change by itself.
  void Try(const std::string& setting, const LoadOptions& options, const MemoryLoad& load) {
    const std::optional<MemoryPlan> plan = PlanOf(options, load);
    if (plan.has_value() && Fits(*plan)) Add(setting, *plan);
  }

  // Encoders and VAE away while they are not needed.
  void TryBudget(const std::string& setting, const LoadOptions& options) {
    const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options);
    if (!planner.ok()) return;
    const MemoryPlan plan = planner->PlanWithin(room_, load_);
    if (Fits(plan)) Add(setting, plan);
  }

  // The largest picture of these proportions that fits as things are.
  void TrySmaller() {
    const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options_);
    const int longer = std::max(load_.width, load_.height);
    for (int side = longer - kSideMultiple; planner.ok() && side >= kSideMultiple; side -= kSideMultiple) {
      MemoryLoad smaller = load_;
      const auto scaled = [&](int of) { return std::max(kSideMultiple, of * side / longer / kSideMultiple * kSideMultiple); };
      smaller.width = scaled(load_.width);
      smaller.height = scaled(load_.height);
      const MemoryPlan plan = planner->Plan(smaller);
      if (!Fits(plan)) continue;
      Add(absl::StrCat(smaller.width, "x", smaller.height), plan);
      return;
    }
  }

  bool empty() const { return found_.empty(); }
  std::vector<std::string> Take() { return std::move(found_); }

 private:
  static std::optional<MemoryPlan> PlanOf(const LoadOptions& options, const MemoryLoad& load) {
    const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options);
    if (!planner.ok()) return std::nullopt;
    return planner->Plan(load);
  }
  bool Fits(const MemoryPlan& plan) const { return plan.peak().total_bytes() <= room_; }
  void Add(const std::string& setting, const MemoryPlan& plan) {
    found_.push_back(absl::StrCat(setting, " (", FormatBytes(plan.peak().total_bytes()), ")"));
  }

  const LoadOptions& options_;
  const MemoryLoad& load_;
  const int64_t room_;
  std::vector<std::string> found_;
};

LoadOptions InFp8(LoadOptions options) {
  options.precision = "fp8";
  return options;
}

LoadOptions InTiles(LoadOptions options) {
  options.vae.tiling = VaeTiling::kAlways;
  return options;
}

}  // namespace

MemoryAdvice AdviseOnMemory(const LoadOptions& options, const MemoryLoad& load, int64_t available) {
  const absl::StatusOr<MemoryPlanner> planner = MemoryPlanner::Open(options);
  if (!planner.ok()) return {};
  const MemoryPlan plan = planner->Plan(load);
  MemoryAdvice advice = {plan.peak().total_bytes(), PeakName(plan), {}};
  // It did not fit, whatever was predicted.
  const int64_t most = std::min(available, advice.needed_bytes);
  Remedies remedies(options, load, static_cast<int64_t>(kMargin * static_cast<double>(most)));
  const bool tiles = options.vae.tiling != VaeTiling::kAlways;
  const bool quantise = !IsQuantised(planner->precision());
  const std::string budget = absl::StrCat("memory.budget: ", available / (int64_t{1} << 20), "MiB");
  if (load.batch > 1) {
    MemoryLoad alone = load;
    alone.batch = 1;
    remedies.Try("max_batch: 1", options, alone);
  }
  if (tiles) remedies.Try("vae.tiling: always", InTiles(options), load);
  if (options.memory == nullptr) remedies.TryBudget(budget, options);
  if (quantise) remedies.Try("precision: fp8", InFp8(options), load);
  if (remedies.empty() && tiles && quantise)
    remedies.Try("precision: fp8 and vae.tiling: always", InFp8(InTiles(options)), load);
  if (remedies.empty() && options.memory == nullptr)
    remedies.TryBudget(absl::StrCat(budget, " with precision: fp8 and vae.tiling: always"), InFp8(InTiles(options)));
  remedies.TrySmaller();
  advice.remedies = remedies.Take();
  return advice;
}

}  // namespace fresco
