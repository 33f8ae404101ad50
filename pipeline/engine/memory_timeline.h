// Who holds how much of a device's memory over time, for whoever looks on while something is computed. Torch-free.
//
//   MemoryTimeline timeline(&ledger, &clock);
//   timeline.Begin("decode");
//   …
//   timeline.End();
//   const MemoryHistory history = timeline.History();
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/memory_ledger.h"

namespace fresco {

struct MemoryHistory {
  // All holders at one time; by holder, as `holders` has them.
  struct Moment {
    absl::Time at;
    std::vector<int64_t> bytes;

    int64_t total_bytes() const;
  };
  struct Stage {
    std::string name;  // "decode"
    absl::Time begin, end;
    Moment peak;  // when all together had the most
  };
  std::vector<MemoryHolder> holders;  // whoever had anything; who has most at the peak first
  std::vector<Moment> moments;        // in order; between two of them nothing is more than both
  std::vector<Stage> stages;          // in order; those of one name are one

  // The stage whose peak is the highest; null: there is none.
  const Stage* peak() const;
};

// Looks on between Begin and End; at other times it costs nothing. All calls on one thread; what other threads allocate
// is seen too. One at a time for a ledger.
class MemoryTimeline final : public MemoryListener {
 public:
  // Both outlive it.
  MemoryTimeline(MemoryLedger* ledger, const Clock* clock);
  ~MemoryTimeline() override;
  MemoryTimeline(const MemoryTimeline&) = delete;
  MemoryTimeline& operator=(const MemoryTimeline&) = delete;

  // What comes now is of this stage, until it ends or the next begins; a stage may begin again.
  void Begin(const std::string& stage);
  void End();

  // Of what has ended, in about so many moments: of those that are near each other the one that has most.
  MemoryHistory History(int moments = 2000) const;

  void OnChange(MemoryHolderId holder, int64_t bytes) override;

 private:
  struct Sample {
    absl::Time at;
    MemoryHolderId holder = 0;
    int64_t bytes = 0;    // of the holder from then on
    bool settled = true;  // false: the next is of the same moment
  };
  using Bytes = std::vector<int64_t>;  // by MemoryHolderId
  struct OpenStage {
    std::string name;
    absl::Time begin, end;
    absl::Time peak_at;
    int64_t peak_bytes = -1;
    Bytes at_peak;
  };

  void NotePeak(absl::Time now) FRESCO_REQUIRES(mutex_);
  void AddSample(absl::Time now, MemoryHolderId holder) FRESCO_REQUIRES(mutex_);
  std::vector<MemoryHistory::Moment> Thin(int count) const FRESCO_REQUIRES(mutex_);

  MemoryLedger* const ledger_;
  const Clock* const clock_;

  mutable Mutex mutex_;
  Bytes held_ FRESCO_GUARDED_BY(mutex_);
  Bytes sampled_ FRESCO_GUARDED_BY(mutex_);  // as the last sample of each has it
  int64_t total_ FRESCO_GUARDED_BY(mutex_) = 0;
  std::vector<Sample> samples_ FRESCO_GUARDED_BY(mutex_);
  std::vector<OpenStage> stages_ FRESCO_GUARDED_BY(mutex_);
  int open_ FRESCO_GUARDED_BY(mutex_) = -1;  // of stages_
};

}  // namespace fresco
