// One model on one device: from ImageSpec to Image, one denoising step at a time, many images together.
//
//   FRESCO_ASSIGN_OR_RETURN(auto job, engine.Prepare(spec));
//   while (!job->done()) engine.Step({job.get()});
//   FRESCO_ASSIGN_OR_RETURN(Image image, engine.Finish(*job));
//
// This header and those it includes are free of torch and protobuf: whoever schedules images sees no tensor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/base/memory_ledger.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/image/image.h"

namespace fresco {

// What a model is and takes; constant after load.
struct ModelInfo {
  std::string name;                // as the configuration calls it
  std::string architecture;        // "sd3.5-medium", or "mmdit 24x1536" where no known name fits
  std::string device;              // "cpu", "cuda:0"
  std::string precision;           // what is computed in: "fp32", "bf16", …
  std::string precision_asked;     // as LoadOptions::precision
  std::string attention;           // "fp8" where that is what the attentions multiply; empty: the precision's own type
  std::string weights_digest;      // "sha256:…" over the weights as stored
  std::string calibration_digest;  // "sha256:…" of the calibration file in use; empty: none
  bool batch_invariant = false;    // an image's bits do not depend on what else is in its steps; else to 50 dB
  // Defaults for whatever a request leaves out.
  int default_width = 1024;
  int default_height = 1024;
  int default_steps = 28;
  float default_guidance_scale = 7.0f;
  int default_max_sequence_length = 256;
  // Limits that follow from the weights.
  int size_multiple = 16;               // pixels: VAE factor times patch size
  int max_size = 1536;                  // pixels, either side: the position table's reach
  int max_sequence_length_limit = 512;  // T5 tokens; 0: the model has no T5
  struct Component {
    std::string name;       // "transformer", "text_encoder", …, "vae"
    std::string precision;  // of its weights
    int64_t weight_bytes = 0;
  };
  std::vector<Component> components;
  std::vector<std::string> notes;  // what was decided for the user, and why: "auto: bf16, which this processor …"
};

// Something a person should hear about an image that was drawn all the same.
struct Warning {
  enum class Kind { kPromptTruncated, kValueClamped, kPrecisionFallback };
  Kind kind = Kind::kPromptTruncated;
  std::string field;    // the request's field: "prompt"
  std::string message;  // "prompt has 91 CLIP tokens, of which the first 77 are used"
};

// An image being drawn. Made by an Engine and understood only by it; belongs to one owner at a time; may be destroyed
// on any thread, at any step.
class ImageJob {
 public:
  virtual ~ImageJob() = default;
  // As Prepare was given it, with noise_correction as it is: absent where the model has none.
  const ImageSpec& spec() const { return spec_; }
  int step() const { return step_; }  // steps done
  bool done() const { return step_ >= spec_.steps; }
  const std::vector<Warning>& warnings() const { return warnings_; }

 protected:
  explicit ImageJob(ImageSpec spec) : spec_(std::move(spec)) {}
  ImageSpec spec_;
  int step_ = 0;
  std::vector<Warning> warnings_;
};

// What an image weighs, for whoever predicts time and memory.
struct ImageLoad {
  int tokens = 1;           // of each row of the forward: image and text
  int rows = 1;             // of the forward: 2 with guidance, 1 without
  int64_t state_bytes = 0;  // that its job holds on the device: latents and the texts' embeddings
  int text_tokens = 1;      // of each of its texts
  int picture_tokens = 1;   // of `tokens`, those of the picture
  bool alone = false;       // its steps are of it alone: it must be deterministic, and the model is not batch_invariant
};

// Whether texts are taken from the cache of embeddings and kept there.
enum class TextCache {
  kUse,
  kPass,  // for measurements: it is neither looked at nor changed, and its counts are of requests
};

struct EngineStats {
  int64_t prompt_cache_hits = 0;
  int64_t prompt_cache_misses = 0;
  int64_t prompt_cache_bytes = 0;     // held now
  int64_t nonfinite_outputs = 0;      // images that failed because a velocity or a pixel was NaN or infinite
  int64_t quantized_activations = 0;  // elements that were brought to FP8 or int8
  int64_t saturated_activations = 0;  // of these, the ones that were clamped to what the type can hold
  int64_t guarded_activations = 0;    // and the ones that would have been, but for the overflow guard
  struct SaturatedLayer {
    std::string name;       // "transformer.transformer_blocks.3.ff.net.2"
    int64_t saturated = 0;  // activations
    int64_t guarded = 0;
    int64_t elements = 0;  // of so many
  };
  std::vector<SaturatedLayer> saturated_layers;  // the worst, at most kSaturatedLayers
  static constexpr int kSaturatedLayers = 5;
  // Of a component that is on the device while it is needed (LoadOptions::memory).
  struct Residency {
    std::string component;     // as ModelInfo::Component
    int64_t weight_bytes = 0;  // while it is there
    bool there = false;        // now
    int64_t loads = 0;         // so far, the first one too
    int64_t loaded_bytes = 0;  // onto the device, by these
    double load_seconds = 0;   // that these took
  };
  std::vector<Residency> residency;    // empty: all components stay
  int64_t weight_bytes = 0;            // on the device, now
  int64_t evictable_weight_bytes = 0;  // of these, that can go
  int64_t allocated_bytes = 0;         // on the device, now, by this process's tensors (weights too)
  int64_t peak_bytes = 0;              // the most that allocated_bytes has been
  std::vector<MemoryHeld> held;        // of allocated_bytes, what this model has; the largest first
  // What graphs keep of the device for themselves, as their work is predicted to take: most of it is no tensor's.
  int64_t step_graph_bytes = 0, decode_graph_bytes = 0;
};

// Of a device as a whole, whoever uses it. Zeros: not known.
struct DeviceMemory {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

// What the work of a step has taken on its device.
struct StepTime {
  uint64_t step = 0;  // Engine::LastStep's
  double seconds = 0;
};

// Not thread-safe but for what says so: all other calls come from the one compute thread of its device. Other engines
// may be loaded, and used on their own devices' threads, meanwhile.
// Errors: INVALID_ARGUMENT for what the request can change, RESOURCE_EXHAUSTED for memory, INTERNAL for what the device
// or libtorch reports, DATA_LOSS for a NaN or infinite result, ABORTED where the device's context is lost: nothing more
// comes from this device before the process is started anew; of a component that has to be loaded again
// (EngineStats::Residency) also UNAVAILABLE, where its file is gone, and FAILED_PRECONDITION, where it is another than
// it was. libtorch's exceptions do not leave it.
class Engine {
 public:
  virtual ~Engine() = default;

  // Thread-safe.
  virtual const ModelInfo& info() const = 0;
  virtual EngineStats stats() const = 0;

  // Seconds that components have taken so far to come when they were needed (EngineStats::Residency): no part of what
  // their calls compute. Thread-safe.
  virtual double LoadSeconds() const { return 0; }

  // The most bytes that the process's tensors have held on the device since this was called last (since load, the first
  // time). Thread-safe.
  virtual int64_t TakePeakBytes() = 0;

  // Asks the device. Thread-safe; a device that hangs may keep its caller waiting.
  virtual DeviceMemory MemoryOfDevice() = 0;

  // Draws something small, so that what libtorch and the device make at a thread's first use is there before the first
  // request.
  virtual absl::Status WarmUp() { return absl::OkStatus(); }

  // INVALID_ARGUMENT, naming the field, for a spec that the model cannot draw. Cheap and thread-safe.
  virtual absl::Status Validate(const ImageSpec& spec) const = 0;

  // Jobs whose specs have equal keys can be in one Step, but for those that LoadOf says are alone. Thread-safe.
  virtual std::string BatchKey(const ImageSpec& spec) const = 0;

  // Of a spec that Validate has let through. Thread-safe.
  virtual ImageLoad LoadOf(const ImageSpec& spec) const = 0;

  // RESOURCE_EXHAUSTED: who holds the device's memory, what drawing the image takes of it, and which settings would
  // make it fit (memory_shortage.h); for one that is refused before anything has run out. OK: nothing is known.
  // Thread-safe; reads configurations, and does not ask the device.
  virtual absl::Status ExplainMemory(const ImageSpec& /*spec*/) const { return absl::OkStatus(); }

  // Of each in order, how many texts more would have to be encoded to Prepare it together with those before it: equal
  // ones once, those in the cache not at all. Thread-safe.
  virtual std::vector<int> TextsToEncode(absl::Span<const ImageSpec* const> specs) const = 0;

  // Tokenises, encodes the texts or takes them from the cache, draws the noise.
  virtual absl::StatusOr<std::unique_ptr<ImageJob>> Prepare(const ImageSpec& spec) = 0;

  // The same of many: the texts that have to be encoded go through the encoders together. One result per spec, in
  // order; a spec or a text that is at fault fails alone, an error of the device or for memory is everybody's. A job
  // does not depend on those that were prepared with it, bit for bit, on a CPU or where LoadOf says that it is alone:
  // then its texts are encoded by themselves, and kept apart from others that are equal.
  virtual std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                            TextCache cache) = 0;

  // Advances each job by one step, all in one forward. The jobs have equal batch keys, are distinct and not done, and
  // one that is to be alone is alone. One status per job, in order: a job whose result is not finite fails alone and
  // must not be stepped again; an error of the whole forward is every job's. On a GPU it returns when the step before
  // is done, so that the device need not wait for its caller: whether a result is finite is told by the job's next
  // call.
  virtual std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) = 0;

  // Where Step returns before its work is done: the number of the last one that was made, by which TakeStepTimes tells
  // later what it took. Nothing: a step takes as long as its call.
  virtual std::optional<uint64_t> LastStep() const { return std::nullopt; }

  // Of steps whose work has been done since the last call, the oldest first: that of the step before the last one is
  // known. `wait`: that of the last one too, for which this waits.
  virtual std::vector<StepTime> TakeStepTimes(bool /*wait*/) { return {}; }

  // The picture that the job is heading for (the current estimate of the denoised image), at most max_side pixels a
  // side.
  virtual absl::StatusOr<Image> Preview(const ImageJob& job, int max_side) = 0;

  // The finished picture; the job must be done().
  virtual absl::StatusOr<Image> Finish(ImageJob& job) = 0;

  // The same from a second thread, while the compute thread makes its calls with other jobs: one at a time. On a GPU
  // neither waits for the other's work, and what this takes of the device's memory comes on top of a step's. The
  // picture is the same, bit for bit.
  virtual absl::StatusOr<Image> FinishBeside(ImageJob& job) { return Finish(job); }

  // Moves what the job holds on the device to host memory, so that it can wait without taking the device's; on a CPU it
  // is there already. Nothing else is done with a parked job but Resume. An error leaves it as it was.
  virtual absl::Status Park(ImageJob& job) = 0;

  // A parked job that is as this one is now, for any replica of the model to go on with should this device be lost. The
  // job itself stays where it is and goes on.
  virtual absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& job) = 0;

  // Takes a parked job up: this engine's own, or one of another replica of the model. It goes on from its last step,
  // and its picture is the same. An error leaves it parked.
  virtual absl::Status Resume(ImageJob& job) = 0;
};

}  // namespace fresco
