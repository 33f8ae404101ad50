// What would make a model fit a budget: settings tried by the same prediction. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/memory_plan.h"

namespace fresco {

struct MemoryFit {
  std::string setting;     // as a person would set it: "precision: fp8", "vae.tiling: always", "width, height: 768"
  int64_t peak_bytes = 0;  // with it
};

// MemoryPlanner::Open, or ForPreset where `preset` is not empty.
absl::StatusOr<MemoryPlanner> OpenPlanner(const LoadOptions& options, std::string_view preset);

enum class Residence { kWhenNeeded, kStay };  // on the device

// Settings, one at a time, with which all stages would hold at most `budget`: the ones that cost a picture least first.
// Where none is enough alone, the last ones are of several together; empty: nothing that was tried fits.
std::vector<MemoryFit> FindFits(const LoadOptions& options, std::string_view preset, const MemoryLoad& load,
                                int64_t budget, Residence residence = Residence::kWhenNeeded);

// "decode of 1024x1024 needs 4.1 GiB (transformer 2.3 GiB, …), and memory.budget is 3.0 GiB".
std::string DescribeShortage(const MemoryPlan& plan, const MemoryLoad& load, int64_t budget);
// "What would fit: precision: fp8 (2.9 GiB), …", or that nothing would.
std::string DescribeFits(const std::vector<MemoryFit>& fits);

}  // namespace fresco
