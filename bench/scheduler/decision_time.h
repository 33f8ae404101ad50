// What a decision costs when many images wait: wall time of one step boundary with all of its events, by the real code.
#pragma once

namespace fresco {

struct DecisionTime {
  double median_seconds = 0;
  double p99_seconds = 0;
};

// A device at a step boundary: StepDone, DropHopeless and Decide, and an arrival for each image that is done, so that
// about `waiting` images of 1,000 tenants, three classes and 25 sizes stay waiting. `mixes`: those of different sizes
// can share a step.
DecisionTime MeasureDecision(int waiting, bool mixes);

}  // namespace fresco
