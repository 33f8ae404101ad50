// Which of several kernels that compute the same is the fastest on a device: measured when a model is loaded, known
// from then on. Torch-free.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// What is computed.
struct KernelTask {
  std::string operation;  // "fp8+bias", "attention", …
  std::string type;       // of the result: "bf16", "fp16" or "fp32"
  // Of a product: in, out, rows. Of attention: heads, a head's width, tokens. The last is what differs from call to
  // call of one layer.
  std::array<int64_t, 3> sizes = {};

  auto operator<=>(const KernelTask&) const = default;
};
// "fp8+bias bf16 2432x7296x4096"
std::string Describe(const KernelTask& task);

// What is measured of a task's last size, ascending, at least a third apart; and the one nearest to `size` by ratio.
const std::vector<int64_t>& SizeSteps();
int64_t NearestSizeStep(int64_t size);

struct KernelCandidate {
  std::string name;
  std::function<absl::Status()> run;    // enqueues its work once; an error: it does not take the task
  std::function<absl::Status()> check;  // of what the last run made, an error where that is wrong; null: not looked at
};

// How time is taken on a device.
struct KernelClock {
  const Clock* clock = nullptr;
  std::function<absl::Status()> synchronize;  // returns when all work given to the device is done
};

struct MeasuredKernel {
  std::string winner;
  std::map<std::string, double> seconds;      // of a run, the median, by candidate; empty where there was one alone
  std::map<std::string, std::string> failed;  // why a candidate was not measured

  bool operator==(const MeasuredKernel&) const = default;
};

// Runs each candidate once, then all in turns, several times. The first that works is the winner unless another takes
// less of the time by more than what measurements of the same differ by. Where a single one is given there is nothing
// to measure, and it is not run. INTERNAL with every candidate's words where none works, and what `synchronize` says.
absl::StatusOr<MeasuredKernel> MeasureKernels(const std::vector<KernelCandidate>& candidates, const KernelClock& clock);

// What is known of a device, for the models that compute on it. Thread-safe.
class KernelChoices {
 public:
  // A layer will ask for `task`, whose last size is any.
  void Want(KernelTask task);
  // What was wanted and is not known, at each of SizeSteps().
  std::vector<KernelTask> Missing() const;

  // Of a task that is known already the earlier choice stays, so that a picture's steps go on as they began.
  void Set(KernelTask task, MeasuredKernel measured);
  std::map<KernelTask, MeasuredKernel> known() const;

  // The winner at the size step nearest to the task's last size, or else at the largest known one below. Null where
  // nothing is known, and on a thread that pins its kernels (PinnedKernels). It stays valid as long as this does.
  const std::string* WinnerOf(KernelTask task) const;

 private:
  mutable Mutex mutex_;
  std::set<KernelTask> wanted_ FRESCO_GUARDED_BY(mutex_);
  std::map<KernelTask, MeasuredKernel> known_ FRESCO_GUARDED_BY(mutex_);
};

// While it lives, products and attention on this thread take the kernel that they take where nothing was measured: a
// picture that is to be the same on every machine of one type must not depend on which of them was a little faster.
class PinnedKernels {
 public:
  explicit PinnedKernels(bool pin);
  ~PinnedKernels();
  PinnedKernels(const PinnedKernels&) = delete;
  PinnedKernels& operator=(const PinnedKernels&) = delete;

  static bool OnThisThread();

 private:
  const bool before_;
};

}  // namespace fresco
