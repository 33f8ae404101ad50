// What the scheduling policy knows of an image: numbers, no requests, engines or threads.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduler/policy/cost_model.h"

namespace fresco {

// Numbers that the QueueIndex hands out. A JobId is never used again; the others are small and dense.
using JobId = int64_t;
using ModelId = int;
using GroupId = int;
using TenantId = int;
using DeviceId = int;

enum class PriorityClass { kInteractive, kStandard, kBatch };
inline constexpr int kPriorityClasses = 3;
inline constexpr std::array<std::string_view, kPriorityClasses> kPriorityClassNames = {"interactive", "standard",
                                                                                       "batch"};

// An image to be drawn.
struct JobSpec {
  TenantId tenant = 0;
  PriorityClass priority = PriorityClass::kStandard;
  GroupId group = 0;        // those of one group can share a forward, and with kin of it (queue_index.h)
  int rows = 1;             // in the forward: 2 with guidance, 1 without
  int steps = 1;            // above 0
  int64_t state_bytes = 0;  // latents and conditioning, on the device from its start to its end
  bool alone = false;       // it shares no step, nor does any other of its group
  bool one_type = false;    // begun, it goes on only on devices of the type of the one that began it
  int64_t sequence = 0;     // its request's place in the order of arrival
  int image_index = 0;      // in its request
  absl::Time received;
  absl::Time due = absl::InfiniteFuture();       // later is late: the class's target, or the call's deadline
  absl::Time deadline = absl::InfiniteFuture();  // later is useless: it is dropped
  CurveId text_curve = -1;                       // of the time that its texts take (stage_times.h); -1: none
  CurveId decode_curve = -1;                     // and its picture
  absl::Duration predicted_wait;                 // for its start, when it came, before what was learned of such
};

enum class JobState {
  kWaiting,   // for its first step, or, preempted, with its state in host memory, for its next
  kResident,  // its state is on a device
  kMoving,    // on its way from the device to host memory
};

struct Job {
  JobId id = 0;
  JobSpec spec;
  JobState state = JobState::kWaiting;
  DeviceId device = -1;  // that it is resident on or moves from
  bool paused = false;   // resident and not in its device's batch
  bool begun = false;    // it has been on a device, though it may have to begin anew
  int steps_left = 0;
  double seconds_left = 0;   // of steps by itself, as predicted when it was last asked
  double stage_seconds = 0;  // likewise, of a text, until it has been prepared, and of decoding
  // As predicted when it came, of a step by itself, and of its stages. Its rank goes by these: what the model learns
  // meanwhile is known of all alike, and would be held only against those that have begun (RankSeconds).
  double first_step_seconds = 0, first_stage_seconds = 0;
  // Of those that wait; what time has brought about (QueueIndex::AdvanceTo).
  bool late = false;       // by itself and started then it would be late
  bool due_again = false;  // late, and for so long that it counts as due
  bool aged = false;       // has waited so long that it goes before all that have not
};

// The order of `deadline-fair`: lower goes first. First those that have waited for most of what their class may, by
// when they must start (those that have started get four times as long, so that they hold up none that has not); then
// those of tenants within their fair share, then the others, least served first. In each of these those that can be in
// time, soonest due first, whatever their class; then the late ones, shortest first: they take what those leave.
// (Serving them first would make others late in their stead, and those again others.) When two fifths of what their
// class may wait have gone they count as due when they were, and so go before what is due later: else they would pile
// up until all are aged.
struct Rank {
  int band = 0;       // 0 aged, 1 within its tenant's share, 2 beyond it
  double served = 0;  // of the tenant beyond its share: what it has had, by its weight; else 0
  bool late = false;
  int64_t when = 0;  // ns: due, what is left to compute (late), or when it must start (aged)
  int priority = 0;  // PriorityClass
  int64_t sequence = 0;
  int image_index = 0;
  JobId id = 0;

  auto operator<=>(const Rank&) const = default;  // NOLINT(modernize-use-nullptr): a false alarm
};

}  // namespace fresco
