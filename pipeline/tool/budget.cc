#include "pipeline/tool/budget.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/format_bytes.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/memory_fit.h"
#include "pipeline/engine/memory_plan.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/json_print.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

MemoryLoad LoadOf(const MemoryLoad& defaults, const DrawOptions& draw, const BudgetOptions& options) {
  MemoryLoad load = defaults;
  load.width = draw.width.value_or(load.width);
  load.height = draw.height.value_or(load.height);
  load.batch = options.batch;
  if (draw.guidance) load.guided = *draw.guidance > 1;
  load.max_sequence_length = draw.max_sequence_length.value_or(load.max_sequence_length);
  return load;
}

absl::Status CheckLoad(const MemoryLoad& load, const MemoryPlanner& planner) {
  for (const auto& [option, side] : {std::pair("--width", load.width), {"--height", load.height}}) {
    if (side > 0 && side % planner.size_multiple() == 0 && side <= planner.max_size()) continue;
    return absl::InvalidArgumentError(
        StrCat(option, ": ", side, " is not a multiple of ", planner.size_multiple(), " up to ", planner.max_size()));
  }
  if (load.batch < 1) return absl::InvalidArgumentError(StrCat("--batch: ", load.batch, " is not 1 or more"));
  if (load.max_sequence_length < 1) return absl::InvalidArgumentError("--max-sequence-length: it is 1 or more");
  return absl::OkStatus();
}

struct Verdict {
  MemoryLoad load;
  MemoryPlan plan;
  int64_t budget = 0;
  std::vector<MemoryFit> would_fit;  // where it does not

  bool fits() const { return plan.peak().total_bytes() <= budget; }
  std::vector<std::string> away() const {
    std::vector<std::string> names;
    for (const ComponentMemory& component : plan.components)
      if (!component.kept) names.push_back(component.name);
    return names;
  }
};

void PrintReport(const ModelOptions& model, const std::string& precision, const Verdict& verdict) {
  const MemoryLoad& load = verdict.load;
  Json report = {{"fits", verdict.fits()},
                 {"all_kept", verdict.away().empty()},
                 {"budget_bytes", verdict.budget},
                 {"peak_bytes", verdict.plan.peak().total_bytes()},
                 {"peak_stage", verdict.plan.peak().name},
                 {"headroom_bytes", verdict.budget - verdict.plan.peak().total_bytes()},
                 {"device", model.device},
                 {"precision", precision},
                 {"width", load.width},
                 {"height", load.height},
                 {"batch", load.batch},
                 {"guided", load.guided},
                 {"max_sequence_length", load.max_sequence_length},
                 {"components", Json::array()},
                 {"stages", Json::array()},
                 {"would_fit", Json::array()}};
  for (const ComponentMemory& component : verdict.plan.components)
    report["components"].push_back({{"name", component.name},
                                    {"precision", component.precision},
                                    {"weight_bytes", component.weight_bytes},
                                    {"kept", component.kept},
                                    {"streamed", component.streamed}});
  for (const StageMemory& stage : verdict.plan.stages)
    report["stages"].push_back({{"name", stage.name},
                                {"weight_bytes", stage.weight_bytes},
                                {"state_bytes", stage.state_bytes},
                                {"activation_bytes", stage.activation_bytes},
                                {"total_bytes", stage.total_bytes()}});
  for (const MemoryFit& fit : verdict.would_fit)
    report["would_fit"].push_back({{"setting", fit.setting}, {"peak_bytes", fit.peak_bytes}});
  PrintJson(report);
}

void PrintTables(const ModelOptions& model, const std::string& name, const std::string& precision,
                 const Verdict& verdict) {
  const MemoryLoad& load = verdict.load;
  std::printf("%s on %s in %s: %dx%d, batch %d, %s, %d T5 tokens\n\n", name.c_str(), model.device.c_str(),
              precision.c_str(), load.width, load.height, load.batch,
              load.guided ? "with guidance" : "without guidance", load.max_sequence_length);
  std::printf("%-16s %-16s %12s  %s\n", "component", "precision", "weights", "on the device");
  for (const ComponentMemory& component : verdict.plan.components)
    std::printf("%-16s %-16s %12s  %s\n", component.name.c_str(), component.precision.c_str(),
                FormatBytes(component.weight_bytes).c_str(),
                component.kept       ? "always"
                : component.streamed ? "when needed, block by block"
                                     : "when needed");
  const StageMemory& peak = verdict.plan.peak();
  std::printf("\n%-16s %12s %12s %12s %12s\n", "stage", "weights", "images", "activations", "together");
  for (const StageMemory& stage : verdict.plan.stages)
    std::printf("%-16s %12s %12s %12s %12s%s\n", stage.name.c_str(), FormatBytes(stage.weight_bytes).c_str(),
                FormatBytes(stage.state_bytes).c_str(), FormatBytes(stage.activation_bytes).c_str(),
                FormatBytes(stage.total_bytes()).c_str(), &stage == &peak ? "  the most" : "");
}

void PrintVerdict(const Verdict& verdict) {
  const int64_t peak = verdict.plan.peak().total_bytes();
  if (!verdict.fits()) {
    std::printf("\ndoes not fit: %s\n%s\n", DescribeShortage(verdict.plan, verdict.load, verdict.budget).c_str(),
                DescribeFits(verdict.would_fit).c_str());
    return;
  }
  std::printf("\nfits: at most %s of %s, %s to spare\n", FormatBytes(peak).c_str(), FormatBytes(verdict.budget).c_str(),
              FormatBytes(verdict.budget - peak).c_str());
  std::string names;
  for (const std::string& name : verdict.away()) names += StrCat(names.empty() ? "" : ", ", name);
  if (!names.empty())
    std::printf("with %s loaded when needed: `memory: {budget: …}` of the server, --budget of `draw`\n", names.c_str());
}

}  // namespace

absl::StatusOr<int> RunBudget(const ModelOptions& model, const DrawOptions& draw, const BudgetOptions& options) {
  const LoadOptions load_options = LoadOptionsOf(model);
  FRESCO_ASSIGN_OR_RETURN(const MemoryPlanner planner, OpenPlanner(load_options, options.preset));
  Verdict verdict;
  verdict.load = LoadOf(planner.default_load(), draw, options);
  FRESCO_RETURN_IF_ERROR(CheckLoad(verdict.load, planner));
  verdict.budget = options.bytes;
  verdict.plan = planner.PlanWithin(options.bytes, verdict.load);
  if (!verdict.fits()) verdict.would_fit = FindFits(load_options, options.preset, verdict.load, options.bytes);
  if (model.json) {
    PrintReport(model, planner.precision(), verdict);
  } else {
    PrintTables(model, options.preset.empty() ? model.model : options.preset, planner.precision(), verdict);
    PrintVerdict(verdict);
  }
  return verdict.fits() ? kDone : kFailed;
}

}  // namespace fresco
