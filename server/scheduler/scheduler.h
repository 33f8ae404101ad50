// Queues requests and advances what runs, one denoising step at a time: one worker thread per device, which at every
// step boundary asks the SchedulingCore (policy/scheduling_core.h, docs/SCHEDULING.md) which waiting images start,
// which running ones form this step's batch and which leave the device for host memory. Images are encoded on a pool of
// their own. Knows engines and the clock; nothing of gRPC, configuration files or metrics libraries.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/engine/engine.h"
#include "pipeline/image/codec.h"
#include "server/scheduler/event_channel.h"
#include "server/scheduler/events.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/policy/decoding.h"
#include "server/scheduler/policy/scheduling_core.h"
#include "server/scheduler/policy/watchdog.h"

namespace fresco {

class StepProfiler;

using RequestPriority = PriorityClass;

std::string_view PriorityName(RequestPriority priority);  // "interactive", "standard", "batch"

// A validated request: one ImageSpec per image.
struct GenerationRequest {
  std::string id;      // unique per tenant among waiting and running requests
  std::string tenant;  // whose; empty: everybody's
  std::string model;
  std::vector<ImageSpec> images;
  RequestPriority priority = RequestPriority::kStandard;
  absl::Time deadline = absl::InfiniteFuture();
  int preview_every = 0;
  int preview_max_side = 512;     // pixels
  EncodeOptions encode;           // metadata of the request; the scheduler adds each image's own (seed, provenance)
  std::vector<Warning> warnings;  // about the request itself; its completed event says them with the images' own
  std::shared_ptr<EventChannel> channel;  // for its events; null: a new one
};

// A device that hangs, or whose context is lost. It is not used again.
struct DeviceLoss {
  std::string device;
  std::vector<std::string> models;  // that it had
  std::string reason;
};

// A model whose load takes long: its files may be on a disk or a share that does not answer.
struct SlowLoad {
  std::string model, device;
  absl::Duration since;  // it began
};

struct SchedulerOptions {
  int max_queue = 256;                        // requests waiting
  int max_batch = 8;                          // images per step
  int max_resident = 32;                      // images on a device, in the step or paused
  int64_t resident_bytes = int64_t{1} << 30;  // of these images' latents and texts, on a device
  CoreOptions core;                           // policy, classes, shares; of a known policy
  CostModel costs;                            // what is known of steps from before; it goes on learning
  Decoding decoding = Decoding::kAuto;
  double preview_share = 0.2;      // of the steps' time, for previews that hold up other requests (PreviewBudget)
  absl::Duration measure_at_load;  // at most, of a model's load, for what is not known; zero: not
  WatchdogOptions watchdog;        // when a device is taken for hung
  std::function<void(const DeviceLoss&)> on_device_lost;  // from any thread, before the requests concerned hear of it
  std::function<void(const SlowLoad&)> on_slow_load;      // likewise; each WatchdogOptions::load
  int encode_threads = 1;
  absl::Duration slow_reader_limit = absl::Seconds(30);  // a channel that stays full for so long ends its request
  int64_t channel_bytes = 32 << 20;                      // events a channel holds before it is full
  std::shared_ptr<StepProfiler> step_profiler;           // told of every step; null: none can be asked for
  std::string software = "fresco";                       // for provenance
  bool prompts_in_metadata = true;                       // whether pictures carry the texts they were drawn from
  std::function<absl::StatusOr<std::string>(const Image&, const EncodeOptions&)> encoder =
      EncodeImage;  // replaced by tests
  // Whether a picture may be handed out; may block, on an encoder's thread. Its error ends the request. Empty: any may.
  std::function<absl::Status(const GenerationRequest&, int image_index, const EncodedImage&)> check_picture;
};

struct RequestSnapshot {
  std::string id, tenant, model;
  RequestPriority priority = RequestPriority::kStandard;
  bool waiting = true;
  int images_done = 0, image_count = 0, steps_done = 0, total_steps = 0;
  absl::Time received;
};

// When a model was last asked for or had a request end, and whether it has any.
struct ModelUse {
  std::string model;
  absl::Time last;
  bool busy = false;
};

struct DeviceSnapshot {
  std::string device;
  std::vector<std::string> models;
  int batch_size = 0;                // images in the current step
  std::string lost;                  // why; empty: it is not
  std::vector<SlowLoad> slow_loads;  // that take longer than WatchdogOptions::load
};

struct SchedulerSnapshot {
  int waiting = 0, running = 0;  // requests
  bool draining = false;
  std::vector<RequestSnapshot> requests;
  std::vector<DeviceSnapshot> devices;
  std::vector<ModelUse> uses;  // of models that have been used
};

// Somebody else's look at an engine: info(), stats(), Validate(), BatchKey() and LoadOf() stay valid while it is held.
// An engine that its scheduler has let go of is destroyed when the last one is given up, so nobody keeps one for longer
// than it takes to look.
using EngineView = std::shared_ptr<const Engine>;

enum class Removal {
  kWhenDone,  // of what runs
  kIfIdle,    // or not at all
};

// Thread-safe. The destructor stops it and joins; a thread whose device hangs is left to itself.
class Scheduler {
 public:
  // Loads the engine, on a thread of its own, beside the device's: what is drawn there goes on. Called once.
  using EngineLoader = std::function<absl::StatusOr<std::unique_ptr<Engine>>()>;
  using LoadedCallback = std::function<void(const absl::StatusOr<EngineView>&)>;
  using RemovedCallback = std::function<void(const absl::Status&)>;

  // `clock` and `observer` (may be null) outlive the scheduler.
  Scheduler(const SchedulerOptions& options, Clock* clock, SchedulerObserver* observer);
  ~Scheduler();

  // Has an engine for `model` loaded, one after another for each device, and given to the device's worker (made at the
  // first use of its name), which warms it up; `loaded` hears of it on a thread of the scheduler's, exactly once
  // (CANCELLED if the scheduler goes first; ALREADY_EXISTS if the device has that model; UNAVAILABLE if the device is
  // lost, by then or while it warms up).
  void AddModel(const std::string& model, const std::string& device, EngineLoader loader, LoadedCallback loaded);

  // Takes a model off a device: no request is taken for it there from now on. Where another device has the model too,
  // what runs goes on there; where none has, what has begun is finished and requests that have not begun fail with
  // UNAVAILABLE. Then the engine is destroyed, on its device's thread, once all views of it are given up, and `removed`
  // is told there: OK, or CANCELLED if the scheduler goes first; or, from any thread, UNAVAILABLE if the device is lost
  // first. Not told of an error that is returned: NOT_FOUND (nothing to remove), FAILED_PRECONDITION (kIfIdle, and the
  // model has requests), UNAVAILABLE (the device is lost, and its models with it), CANCELLED (the scheduler is
  // stopping).
  absl::Status RemoveModel(const std::string& model, const std::string& device, Removal when, RemovedCallback removed);

  // Takes the request, or refuses at once: RESOURCE_EXHAUSTED (queue full, the tenant's share of it, or too large for
  // every device), UNAVAILABLE (draining, or no engine of that model is loaded), INVALID_ARGUMENT (no images),
  // ALREADY_EXISTS (id of the same tenant waiting or running, and neither cancelled nor without a reader),
  // DEADLINE_EXCEEDED (passed, or not to be met). Refusals that may pass later carry a RetryAfter (retry.h). Events
  // arrive in the channel, whose last event is Completed or Failed. Each image of a request is drawn by the device that
  // comes to it first, and may go on on another: also when its device is lost. Where there is no other, or once that
  // has happened to it too often, its request fails.
  absl::StatusOr<std::shared_ptr<EventChannel>> Submit(GenerationRequest request);

  // Ends a request with `reason` (OK: CANCELLED), at once if it waits, at the next step boundary if it runs; NOT_FOUND
  // if this tenant has none of that id.
  absl::Status Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason);
  // The same for the request whose events go to `channel`, and for no other: an id is free again once its request has
  // ended, though its events may still be unread.
  absl::Status Cancel(const EventChannel& channel, const absl::Status& reason);

  // Somebody waits for the request longer than it was said: until `deadline` it is not ended for being late. Its place
  // in the queue stays as it is, and an earlier deadline changes nothing. NOT_FOUND if there is no such request.
  absl::Status ExtendDeadline(const EventChannel& channel, absl::Time deadline);

  // From now on Submit refuses. Returns true when nothing is left, false at `deadline`.
  bool Drain(absl::Time deadline);

  // Ends what is left with UNAVAILABLE and a RetryAfter: callers hear of it before this returns, whatever their images'
  // devices are doing. Nothing runs after that.
  void Stop();

  SchedulerSnapshot Snapshot() const;
  // What has been learned of steps, for SchedulerOptions::costs of the next process.
  CostModel Costs() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fresco
