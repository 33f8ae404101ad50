#include "pipeline/precision/kernel_chooser.h"

#include <cstddef>
#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Choices = std::map<KernelTask, MeasuredKernel>;

void TakeKept(const KernelChooser& chooser, const std::string& path, KernelChoices* choices,
              std::vector<std::string>* notes) {
  absl::StatusOr<Choices> kept = LoadKernelChoices(chooser.machine, path);
  if (kept.ok()) {
    for (auto& [task, measured] : *kept) choices->Set(task, std::move(measured));
  } else if (!absl::IsNotFound(kept.status())) {
    notes->push_back(StrCat("kernels are measured anew: ", kept.status().message()));
  }
}

// With what another process has measured meanwhile.
absl::Status Keep(const KernelChooser& chooser, const std::string& path, Choices known) {
  if (absl::StatusOr<Choices> kept = LoadKernelChoices(chooser.machine, path); kept.ok()) known.merge(*kept);
  return SaveKernelChoices(chooser.machine, known, path);
}

absl::StatusOr<bool> Measure(const KernelChooser& chooser, const KernelTask& task, KernelChoices* choices) {
  FRESCO_ASSIGN_OR_RETURN(const std::vector<KernelCandidate> candidates, chooser.candidates(task));
  if (candidates.empty()) return false;
  FRESCO_ASSIGN_OR_RETURN(MeasuredKernel measured, MeasureKernels(candidates, chooser.clock));
  choices->Set(task, std::move(measured));
  return true;
}

// How many were measured.
size_t MeasureMissing(const KernelChooser& chooser, KernelChoices* choices, std::vector<std::string>* notes) {
  size_t count = 0, failed = 0;
  std::string first;
  for (const KernelTask& task : choices->Missing()) {
    const absl::StatusOr<bool> measured = Measure(chooser, task, choices);
    if (measured.ok()) {
      count += *measured ? 1 : 0;
    } else if (failed++ == 0) {
      first = StrCat(Describe(task), ": ", measured.status().message());
    }
  }
  if (failed > 0) notes->push_back(StrCat("kernels: ", failed, " measurements failed, the first: ", first));
  return count;
}

}  // namespace

std::vector<std::string> MakeChoices(const KernelChooser& chooser, KernelChoices* choices) {
  std::vector<std::string> notes;
  if (choices->Missing().empty()) return notes;
  const std::string path = chooser.folder.empty() ? "" : KernelChoicesPath(chooser.folder, chooser.machine);
  if (!path.empty()) TakeKept(chooser, path, choices, &notes);
  const absl::Time begin = chooser.clock.clock->Now();
  const size_t measured = MeasureMissing(chooser, choices, &notes);
  if (measured == 0) return notes;
  const double seconds = absl::ToDoubleSeconds(chooser.clock.clock->Now() - begin);
  notes.push_back(StrCat("kernels of ", measured, " products and attentions were chosen by measurement, in ",
                         absl::StrFormat("%.1f", seconds), " s", path.empty() ? "" : StrCat(", kept in ", path)));
  if (path.empty()) return notes;
  const absl::Status kept = Keep(chooser, path, choices->known());
  if (!kept.ok()) notes.back() = StrCat("kernels are measured at each load: ", kept.message());
  return notes;
}

}  // namespace fresco
