#include "pipeline/engine/memory_fit.h"

#include <algorithm>
#include <utility>

#include "pipeline/base/format_bytes.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// A model's options and what it is to draw, changed together.
struct Setting {
  std::string name;
  LoadOptions options;
  MemoryLoad load;
};

// Sides, from large to small, that are tried in place of larger ones; `own`, the model's, too.
std::vector<int> SmallerSides(const MemoryLoad& load, int own = 0) {
  std::vector<int> sides = {1024, 768, 512, 256, own};
  std::sort(sides.rbegin(), sides.rend());
  sides.erase(std::unique(sides.begin(), sides.end()), sides.end());
  std::erase_if(sides, [&](int side) { return side <= 0 || side >= std::max(load.width, load.height); });
  return sides;
}

Setting WithTiling(Setting setting) {
  setting.name = "vae.tiling: always, vae.tile_size: 256";
  setting.options.vae.tiling = VaeTiling::kAlways;
  setting.options.vae.tile_size = 256;
  return setting;
}

std::vector<Setting> SettingsFor(const LoadOptions& options, const MemoryLoad& load, const MemoryPlanner& planner) {
  const std::string& precision = planner.precision();
  std::vector<Setting> settings;
  const Setting as_is{"", options, load};
  if (load.batch > 1) {
    settings.push_back({"batch: 1", options, load});
    settings.back().load.batch = 1;
  }
  settings.push_back(WithTiling(as_is));
  for (const char* smaller : {"fp8", "fp8-weight-only", "int8"}) {
    if (precision == "fp8" || precision == "int8" || precision == smaller) continue;
    settings.push_back({StrCat("precision: ", smaller), options, load});
    settings.back().options.precision = smaller;
  }
  for (const int side : SmallerSides(load)) {
    settings.push_back({StrCat("width, height: ", side), options, load});
    settings.back().load.width = settings.back().load.height = side;
  }
  return settings;
}

// An error where the setting is not possible.
absl::StatusOr<int64_t> PeakOf(const Setting& setting, std::string_view preset, int64_t budget, Residence residence) {
  auto planner = OpenPlanner(setting.options, preset);
  if (!planner.ok()) return planner.status();
  const bool stay = residence == Residence::kStay;
  return (stay ? planner->Plan(setting.load) : planner->PlanWithin(budget, setting.load)).peak().total_bytes();
}

}  // namespace

absl::StatusOr<MemoryPlanner> OpenPlanner(const LoadOptions& options, std::string_view preset) {
  return preset.empty() ? MemoryPlanner::Open(options) : MemoryPlanner::ForPreset(preset, options);
}

std::vector<MemoryFit> FindFits(const LoadOptions& options, std::string_view preset, const MemoryLoad& load,
                                int64_t budget, Residence residence) {
  const absl::StatusOr<MemoryPlanner> planner = OpenPlanner(options, preset);
  if (!planner.ok()) return {};
  std::vector<MemoryFit> fits;
  const auto take = [&](const Setting& setting) {
    const absl::StatusOr<int64_t> peak = PeakOf(setting, preset, budget, residence);
    if (peak.ok() && *peak <= budget) fits.push_back({setting.name, *peak});
    return peak.ok() && *peak <= budget;
  };
  for (const Setting& setting : SettingsFor(options, load, *planner)) take(setting);
  if (!fits.empty()) return fits;
  Setting all = WithTiling({"", options, load});
  all.options.precision = "fp8";
  all.load.batch = 1;
  all.name = StrCat("precision: fp8, ", all.name, load.batch > 1 ? ", batch: 1" : "");
  if (take(all)) return fits;
  const MemoryLoad own = planner->default_load();
  for (const int side : SmallerSides(load, std::max(own.width, own.height))) {
    Setting smaller = all;
    smaller.name += StrCat(", width, height: ", side);
    smaller.load.width = smaller.load.height = side;
    if (take(smaller)) break;
  }
  return fits;
}

std::string DescribeShortage(const MemoryPlan& plan, const MemoryLoad& load, int64_t budget) {
  const StageMemory& peak = plan.peak();
  std::string there;
  for (const ComponentMemory& component : plan.components) {
    if (component.kept || component.name == peak.name || (peak.name == "decode" && component.name == "vae"))
      there += StrCat(there.empty() ? "" : ", ", component.name, " ", FormatBytes(component.needed_bytes()));
  }
  return StrCat("memory: ", peak.name, " at ", load.width, "x", load.height, ", batch ", load.batch, ", holds ",
                FormatBytes(peak.total_bytes()), " (", there, ", activations ", FormatBytes(peak.activation_bytes),
                ", images ", FormatBytes(peak.state_bytes), "), more than the budget of ", FormatBytes(budget));
}

std::string DescribeFits(const std::vector<MemoryFit>& fits) {
  if (fits.empty()) return "No setting that was tried fits";
  std::string text = "What would fit:";
  for (const MemoryFit& fit : fits)
    text += StrCat(&fit == &fits.front() ? " " : "; ", fit.setting, " (", FormatBytes(fit.peak_bytes), ")");
  return text;
}

}  // namespace fresco
