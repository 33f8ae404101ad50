// How much of a device's time goes to previews while others than the one who asked for them wait for its steps.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace fresco {

// Over any time previews take at most `share` of that of the steps made in it, and once more a step and a preview: they
// are paid from what steps have earned, which is kept for at most a step's time, and one may be made that costs more
// than there is. Not thread-safe.
class PreviewBudget {
 public:
  // share: from 0 (only previews that hold up nobody else) up.
  explicit PreviewBudget(double share) : share_(share) {}

  void AddStep(absl::Duration duration) { left_ = std::min(left_ + share_ * duration, std::max(left_, duration)); }
  // Whether one may be made now.
  bool Allows() const { return share_ > 0 && left_ >= absl::ZeroDuration(); }
  void Spend(absl::Duration duration) { left_ -= duration; }

 private:
  const double share_;
  absl::Duration left_;
};

}  // namespace fresco
