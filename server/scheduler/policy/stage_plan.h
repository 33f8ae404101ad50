// What a device does beside its steps: it encodes texts and draws noise before an image's first step, and decodes after
// its last. Each of these holds up the batch that runs meanwhile, so between two steps there is only so much of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/job.h"
#include "server/scheduler/policy/policy.h"
#include "server/scheduler/policy/queue_index.h"

namespace fresco {

// An image that waits for one of these.
struct StageItem {
  JobId id = 0;
  bool decode = false;   // else it is to be prepared
  absl::Time latest;     // when it must begin to be in time
  int64_t sequence = 0;  // among equals: its request's place in the order of arrival
  int image_index = 0;
};

struct StagePlan {
  std::vector<JobId> decode;
  std::vector<JobId> prepare;
};

// Which of `items` are done now: the most urgent first, as long as all together take at most `budget` seconds, and the
// first in any case, so that none waits for ever. What comes after one that does not fit waits too. `more`: seconds
// that an item takes on top of those that it was asked for before; not known is 0. It is asked once for each, in their
// order. A pure function, in n log n.
StagePlan PlanStages(std::vector<StageItem> items, double budget, absl::FunctionRef<double(const StageItem&)> more);

// An image whose steps are all made and that has not been decoded; its state is on its device.
struct FinishedImage {
  JobId id = 0;
  JobSpec spec;
};

// Of each of these images, of one model, in order: how many texts more would have to be encoded to prepare it together
// with those before it.
using TextCount = absl::FunctionRef<std::vector<int>(absl::Span<const JobId>)>;

// Of each of these in order that has texts, the seconds that encoding all of them together takes on its account: in
// proportion to the texts that it adds.
std::vector<std::pair<JobId, double>> TextShares(const QueueIndex& index, const CostModel& costs,
                                                 absl::Span<const JobId> images, TextCount texts);

// What a policy has decided for a device, with what is decoded first, and without what starts at a later boundary: what
// is prepared and decoded holds up the running part of the batch for about as long as a step of it, by what was
// measured. Where nothing of the batch runs yet all of it is prepared, and one image at least decoded. An image that
// does not start goes on waiting, at its place. `by_due`: the most urgent goes first, else who came first.
void BoundStages(const QueueIndex& index, const CostModel& costs, absl::Span<const FinishedImage> finished,
                 TextCount texts, bool by_due, Decision* decision);

// The same of a device that decodes beside its steps: which of its finished images its decoder gets next, at most
// `room`; they hold up no step.
std::vector<JobId> NextDecodes(const CostModel& costs, absl::Span<const FinishedImage> finished, bool by_due,
                               size_t room);

}  // namespace fresco
