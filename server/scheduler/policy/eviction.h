// Which models make room for another on a device whose memory is bounded: a pure function.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace fresco {

// A model's weights on a device.
struct ResidentModel {
  std::string name;
  int64_t bytes = 0;
  absl::Time last_used = absl::InfinitePast();
  bool busy = false;     // it has requests, or is on its way in
  bool pinned = false;   // it stays whatever happens
  bool leaving = false;  // on its way out: its bytes will be free
};

struct EvictionPlan {
  enum class Kind {
    kFits,        // at once
    kWait,        // until those that are leaving have gone
    kEvict,       // once `victims` and those that are leaving have gone
    kImpossible,  // as things are
  };
  Kind kind = Kind::kFits;
  std::vector<std::string> victims;  // in the order in which they are to go
};

// For `needed` bytes more within `budget`. The least recently used go first, and of these no more than it takes: one
// that turns out not to be needed, as a larger one goes too, stays. Never one that is busy or pinned; nobody goes if
// that would not be enough.
EvictionPlan PlanEviction(const std::vector<ResidentModel>& residents, int64_t budget, int64_t needed);

// "4.0 GiB of 6.0 GiB are taken: a 3.0 GiB (busy), b 1.0 GiB (pinned)": for a person who wonders why it is impossible.
std::string DescribeBudget(const std::vector<ResidentModel>& residents, int64_t budget);

}  // namespace fresco
