// Makes the choices that a model's layers want: from the file of an earlier measurement, or by measuring. Torch-free.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/precision/kernel_choice.h"
#include "pipeline/precision/kernel_choice_file.h"

namespace fresco {

struct KernelChooser {
  KernelMachine machine;
  std::string folder;  // where measurements are kept (KernelChoicesPath); empty: nowhere
  KernelClock clock;
  // Those that may take a task, what is taken without a choice first. Empty: it is not measured, for want of memory.
  std::function<absl::StatusOr<std::vector<KernelCandidate>>(const KernelTask& task)> candidates;
};

// Afterwards `choices` knows what its layers want, as far as that could be measured; what failed is left as it is taken
// without a choice. A file that cannot be used is replaced. Returns what whoever loads the model should be told.
std::vector<std::string> MakeChoices(const KernelChooser& chooser, KernelChoices* choices);

}  // namespace fresco
