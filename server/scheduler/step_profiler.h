// Profiles steps of a model while it serves: on request, of the device that makes the next one, every second step is
// recorded. Between the steps nothing is on. Whoever makes steps says so (Step); while nobody has asked, that is a look
// at an atomic.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/measured_limits.h"
#include "pipeline/engine/recording.h"

namespace fresco {

// What has come of it so far.
struct StepsProfile {
  std::string device;                 // empty: no step was made
  std::vector<Recording> recordings;  // a step each
  absl::Duration recorded, plain;     // the median of a step with the profiler, and of one without
  // What the profiler adds to a step, as a share: the median over recorded steps and those just before them, of pairs
  // with the same images in them; absent where there is no such pair.
  std::optional<double> overhead;
  absl::Duration pauses;  // in all, between steps, to begin and to end recordings, and to measure limits
  MeasuredLimits limits;  // ProfilerSource's; nothing of what could not be measured
};

// Thread-safe; `clock` outlives it, but for Steps of a device that is lost, which do not touch it.
class StepProfiler {
 public:
  struct Order {
    std::string model;
    std::string device;  // empty: whichever makes the model's next step
    int steps = 1;       // to record
    RecordedDetail detail = RecordedDetail::kLayers;
  };
  // Called at most once, on the thread of the device, when all steps are recorded or recording has failed: it is to be
  // quick, and may come while, or just after, Take is called.
  using Done = std::function<void()>;

  StepProfiler(ProfilerSource source, Clock* clock);
  ~StepProfiler();

  // The number of what has begun. ABORTED while another has (in a process there is one profiler), or where a step that
  // an earlier one began to record has not ended.
  absl::StatusOr<int64_t> Start(Order order, Done done);
  // Ends it, and hands out what there is: all steps after Done, else fewer, perhaps none. A step that is being recorded
  // goes on, and is lost. The error that kept steps from being recorded, if one has. Call it once.
  absl::StatusOr<StepsProfile> Take(int64_t number);

  // A step, from before it is made: on the stack of the thread that makes it.
  class Step {
   public:
    // `profiler`: null: nobody could ask. `rows`, `tokens`: of its forward, by which steps are compared; of all rows.
    Step(const std::shared_ptr<StepProfiler>& profiler, const std::string& model, const std::string& device, int rows,
         int64_t tokens);
    // As End(false, …), where that was not called: the device is lost.
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

    // It took so long; where it was not made it counts for nothing. True: the device has computed something else since.
    bool End(bool made, absl::Duration duration);

   private:
    friend class StepProfiler;

    std::shared_ptr<StepProfiler> profiler_;  // null: nobody has asked
    std::string model_, device_;
    int rows_ = 0;
    int64_t tokens_ = 0;
    int64_t number_ = 0;
    std::unique_ptr<Recorder> recorder_;  // null: it is a plain one
  };

 private:
  struct Session;

  void Enter(Step* step) FRESCO_EXCLUDES(mutex_);
  void AddPlain(const Step& step, int64_t number, absl::Duration duration) FRESCO_EXCLUDES(mutex_);
  bool EndRecorded(Step* step, int64_t number, absl::Duration duration) FRESCO_EXCLUDES(mutex_);
  bool Add(const Step& step, int64_t number, absl::Duration duration, Recording recording, absl::Duration pause)
      FRESCO_EXCLUDES(mutex_);
  void Fail(int64_t number, const absl::Status& failure) FRESCO_EXCLUDES(mutex_);
  void StopRecording() FRESCO_EXCLUDES(mutex_);
  bool IsOf(int64_t number) const FRESCO_REQUIRES(mutex_);  // the session that is under way, not yet complete
  bool Complete() const FRESCO_REQUIRES(mutex_);
  void MeasureLimits(const Step& step, int64_t number) FRESCO_EXCLUDES(mutex_);

  const ProfilerSource source_;
  Clock* const clock_;
  std::atomic<bool> wanted_ = false;  // there is a session
  Mutex mutex_;
  std::unique_ptr<Session> session_ FRESCO_PT_GUARDED_BY(mutex_) FRESCO_GUARDED_BY(mutex_);  // null: there is none
  bool recording_ FRESCO_GUARDED_BY(mutex_) = false;  // some recorder may have begun, and has not ended
  int64_t sessions_ FRESCO_GUARDED_BY(mutex_) = 0;
};

}  // namespace fresco
