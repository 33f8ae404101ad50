// Whether a request is taken, and what it can expect: pure functions of the queue's index and the cost model.
//
// What waits is bounded in work, not in requests: of a class and those above it, as far as it competes for the devices
// of the request's model (QueueIndex), by what these do in a share of the longest that the class may wait. So a queue
// full of batch work refuses batch work alone; and as an image that has waited for most of its longest goes before
// those that have not (QueueIndex), it starts in time whatever comes later. In each class a tenant may hold
// - while it is within its fair share, as much as is left free for others (Choudhury and Hahne's dynamic thresholds,
//   1998, with weights): one who floods the queue fills half of it, and who comes after finds the other half free;
// - beyond it, what its fair share of the devices does in the same time: more would wait for longer.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/policy/queue_index.h"

namespace fresco {

struct AdmissionOptions {
  std::array<double, kPriorityClasses> max_waiting_seconds = {1.2, 36, 120};  // of work for each device
  bool by_class_and_tenant = true;  // false: the last class's bound, for all (fifo, dynamic)
  bool refuse_hopeless = true;      // whose own deadline would pass before it is predicted to be done
};

// All images of a request, as it comes.
struct AdmissionRequest {
  TenantId tenant = 0;
  double wait_factor = 1;  // see WaitCorrection
  bool shares = true;      // false: the tenant is everybody, who has no share to keep to
  PriorityClass priority = PriorityClass::kStandard;
  absl::Time due = absl::InfiniteFuture();
  absl::Time deadline = absl::InfiniteFuture();
  ModelId model = 0;
  struct Image {
    CurveId curve = 0;
    int rows = 1;
    int steps = 1;
    int64_t state_bytes = 0;
    double stage_seconds = 0;   // of a text and of decoding
    CurveId decode_curve = -1;  // -1: none
  };
  std::vector<Image> images;
};

struct Admission {
  enum class Refusal {
    kNone,
    kQueueFull,    // of its class
    kTenantShare,  // of its tenant in that
    kDeadline,     // cannot be met
    kMemory,       // no device has enough, as far as has been seen
  };
  Refusal refusal = Refusal::kNone;
  std::string message;           // why, and what to change
  absl::Duration retry_after;    // when it may be taken; zero: never as it is
  absl::Duration wait;           // predicted, until its first image starts
  absl::Duration finish;         // predicted, until its last is done
  int64_t activation_bytes = 0;  // of its largest image by itself, as far as has been seen
};

// An image that might come.
struct WaitQuestion {
  ModelId model = 0;
  TenantId tenant = 0;
  PriorityClass priority = PriorityClass::kStandard;
  absl::Time due = absl::InfiniteFuture();
  bool by_rank = true;  // false: whatever waits goes first
};

// What PredictWait is off by, learned for each class: images start sooner than those before them are done where they
// share steps, and later where others of a better rank come. The waits that have been against those that were
// predicted, both summed up with the newest counting most.
class WaitCorrection {
 public:
  void Record(PriorityClass priority, absl::Duration predicted, absl::Duration actual);
  // To multiply a prediction with.
  double Factor(PriorityClass priority) const;

 private:
  // Seconds; at first as if predictions had been right for so long.
  struct Sums {
    double predicted = 10;
    double actual = 10;
  };
  std::array<Sums, kPriorityClasses> sums_;
};

// Until it starts, if it came now. A prediction: it takes those that go before it, at the rate at which devices have
// done work lately, and those of higher classes that will come meanwhile at the rate at which they have come lately.
absl::Duration PredictWait(const QueueIndex& index, const WaitQuestion& question, absl::Time now);

// The same of an image that waits already: of what waits `ahead` goes before it, and neither itself nor the rest.
absl::Duration PredictWaitBehind(const QueueIndex& index, const WaitQuestion& question, const WaitingWork& ahead,
                                 absl::Time now);

Admission Admit(const QueueIndex& index, const CostModel& costs, const AdmissionOptions& options,
                const AdmissionRequest& request, absl::Time now);

}  // namespace fresco
