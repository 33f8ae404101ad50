#include "pipeline/precision/kernel_choice.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "pipeline/base/median.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int kRounds = 7;
// Of a candidate in a round: runs for about so long, so that what the synchronisation costs is little of it.
constexpr double kRoundSeconds = 0.5e-3;
constexpr int kMostRuns = 20;
// Less than this share is what two measurements of one kernel differ by.
constexpr double kNoise = 0.02;

bool& PinnedHere() {
  thread_local bool pinned = false;
  return pinned;
}

absl::StatusOr<double> SecondsOf(const KernelCandidate& candidate, int runs, const KernelClock& clock) {
  FRESCO_RETURN_IF_ERROR(clock.synchronize());
  const absl::Time begin = clock.clock->Now();
  for (int run = 0; run < runs; ++run) FRESCO_RETURN_IF_ERROR(candidate.run());
  FRESCO_RETURN_IF_ERROR(clock.synchronize());
  return absl::ToDoubleSeconds(clock.clock->Now() - begin) / runs;
}

// A candidate that works, and how long its rounds took.
struct Contender {
  const KernelCandidate* candidate;
  int runs;  // in a round
  std::vector<double> seconds;
};

// The first run makes what is made once; the second says how many are a round.
absl::StatusOr<Contender> WarmUp(const KernelCandidate& candidate, const KernelClock& clock) {
  FRESCO_RETURN_IF_ERROR(SecondsOf(candidate, 1, clock).status());
  if (candidate.check != nullptr) FRESCO_RETURN_IF_ERROR(candidate.check());
  FRESCO_ASSIGN_OR_RETURN(const double seconds, SecondsOf(candidate, 1, clock));
  const double runs = seconds > 0 ? kRoundSeconds / seconds : kMostRuns;
  return Contender{&candidate, static_cast<int>(std::clamp<double>(runs, 1, kMostRuns)), {}};
}

std::string WordsOf(const std::map<std::string, std::string>& failed) {
  std::string words;
  for (const auto& [name, why] : failed) words += StrCat(words.empty() ? "" : "; ", name, ": ", why);
  return words;
}

std::string Fastest(const std::vector<Contender>& contenders, const std::map<std::string, double>& seconds) {
  const std::string* winner = &contenders.front().candidate->name;
  for (const Contender& contender : contenders) {
    const std::string& name = contender.candidate->name;
    // Against the first alone: of two that both beat it by little each, the order of their names would decide.
    const double bar = winner == &contenders.front().candidate->name ? 1 - kNoise : 1;
    if (seconds.at(name) < bar * seconds.at(*winner)) winner = &name;
  }
  return *winner;
}

bool SameButForLastSize(const KernelTask& a, const KernelTask& b) {
  return a.operation == b.operation && a.type == b.type && a.sizes[0] == b.sizes[0] && a.sizes[1] == b.sizes[1];
}

}  // namespace

std::string Describe(const KernelTask& task) {
  return StrCat(task.operation, " ", task.type, " ", task.sizes[0], "x", task.sizes[1], "x", task.sizes[2]);
}

const std::vector<int64_t>& SizeSteps() {
  static const auto* const steps =
      new std::vector<int64_t>{128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384};
  return *steps;
}

int64_t NearestSizeStep(int64_t size) {
  const std::vector<int64_t>& steps = SizeSteps();
  const auto above = std::lower_bound(steps.begin(), steps.end(), size);
  if (above == steps.begin()) return *above;
  if (above == steps.end()) return steps.back();
  const double ratio_below = static_cast<double>(size) / static_cast<double>(*(above - 1));
  const double ratio_above = static_cast<double>(*above) / static_cast<double>(size);
  return ratio_below < ratio_above ? *(above - 1) : *above;
}

absl::StatusOr<MeasuredKernel> MeasureKernels(const std::vector<KernelCandidate>& candidates,
                                              const KernelClock& clock) {
  MeasuredKernel measured;
  if (candidates.size() == 1) {
    measured.winner = candidates.front().name;
    return measured;
  }
  std::vector<Contender> contenders;
  for (const KernelCandidate& candidate : candidates) {
    absl::StatusOr<Contender> contender = WarmUp(candidate, clock);
    if (contender.ok()) {
      contenders.push_back(*std::move(contender));
    } else {
      measured.failed[candidate.name] = std::string(contender.status().message());
    }
  }
  if (contenders.empty()) return absl::InternalError(StrCat("no kernel works: ", WordsOf(measured.failed)));
  for (int round = 0; round < kRounds; ++round) {
    for (Contender& contender : contenders) {
      FRESCO_ASSIGN_OR_RETURN(const double seconds, SecondsOf(*contender.candidate, contender.runs, clock));
      contender.seconds.push_back(seconds);
    }
  }
  for (const Contender& contender : contenders) measured.seconds[contender.candidate->name] = Median(contender.seconds);
  measured.winner = Fastest(contenders, measured.seconds);
  return measured;
}

void KernelChoices::Want(KernelTask task) {
  task.sizes[2] = 0;
  const MutexLock lock(&mutex_);
  wanted_.insert(std::move(task));
}

std::vector<KernelTask> KernelChoices::Missing() const {
  const MutexLock lock(&mutex_);
  std::vector<KernelTask> missing;
  for (KernelTask task : wanted_) {
    for (const int64_t step : SizeSteps()) {
      task.sizes[2] = step;
      if (!known_.contains(task)) missing.push_back(task);
    }
  }
  return missing;
}

void KernelChoices::Set(KernelTask task, MeasuredKernel measured) {
  const MutexLock lock(&mutex_);
  known_.emplace(std::move(task), std::move(measured));
}

std::map<KernelTask, MeasuredKernel> KernelChoices::known() const {
  const MutexLock lock(&mutex_);
  return known_;
}

const std::string* KernelChoices::WinnerOf(KernelTask task) const {
  if (PinnedKernels::OnThisThread()) return nullptr;
  task.sizes[2] = NearestSizeStep(task.sizes[2]);
  const MutexLock lock(&mutex_);
  auto found = known_.upper_bound(task);
  if (found == known_.begin()) return nullptr;
  --found;
  return SameButForLastSize(found->first, task) ? &found->second.winner : nullptr;
}

PinnedKernels::PinnedKernels(bool pin) : before_(PinnedHere()) {
  PinnedHere() = before_ || pin;
}

PinnedKernels::~PinnedKernels() {
  PinnedHere() = before_;
}

bool PinnedKernels::OnThisThread() {
  return PinnedHere();
}

}  // namespace fresco
