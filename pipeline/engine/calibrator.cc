#include "pipeline/engine/calibrator.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/calibration_probe.h"
#include "pipeline/engine/calibration_state.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/prompts.h"
#include "pipeline/engine/rounded_weights.h"
#include "pipeline/engine/spec_check.h"
#include "pipeline/engine/torch_boundary.h"

namespace fresco {
namespace {

// One step of an image, for any denoiser.
struct Sample {
  DiffusionState state;  // its schedule is of this step alone
  at::Tensor velocity;   // the exact one, guided
};

Schedule StepOf(const Schedule& schedule, int step) {
  const auto i = static_cast<size_t>(step);
  return {{schedule.sigmas[i], schedule.sigmas[i + 1]}, {schedule.timesteps[i]}};
}

// What a denoiser makes of one step.
absl::StatusOr<at::Tensor> VelocityOf(Denoiser& denoiser, const ImageSpec& spec, uint64_t id,
                                      const DiffusionState& state) {
  DiffusionJob job(id, spec, state);
  FRESCO_RETURN_IF_ERROR(denoiser.Step({&job}).front());
  return job.state().velocity;
}

double Norm(const at::Tensor& x) {
  return at::linalg_vector_norm(x.to(at::kFloat)).item<double>();
}

// One channel of [1, C, h, w], kFloat, contiguous, on the CPU.
std::span<const float> Channel(const at::Tensor& x, int64_t channel) {
  const int64_t pixels = x.size(2) * x.size(3);
  return {x.const_data_ptr<float>() + channel * pixels, static_cast<size_t>(pixels)};
}

at::Tensor OnHost(const at::Tensor& x) {
  return x.to(at::kCPU, at::kFloat).contiguous();
}

absl::Status CheckOptions(const CalibrationOptions& options) {
  if (options.prompts.empty()) return absl::InvalidArgumentError("there are no prompts to calibrate with");
  if (LayerTable::ForTransformer(options.precision).rules().empty())
    return absl::InvalidArgumentError(
        StrCat("precision '", PrintableName(options.precision), "' quantises nothing that could be calibrated"));
  if (!LayerTable::ForTransformer(options.high).rules().empty())
    return absl::InvalidArgumentError(
        StrCat("precision '", PrintableName(options.high), "' is none to measure against: take fp32, bf16 or fp16"));
  if (options.buckets < 1) return absl::InvalidArgumentError("there must be at least one bucket of noise levels");
  return absl::OkStatus();
}

// The picture that is drawn of each prompt, without prompt and seed; checked.
absl::StatusOr<ImageSpec> SpecOf(const CalibrationOptions& options, const ModelSource& source) {
  FRESCO_ASSIGN_OR_RETURN(const ModelShape shape, ReadModelShape(source));
  LoadOptions described;
  described.path = options.model;
  FRESCO_ASSIGN_OR_RETURN(const ModelInfo info, DescribeModel(described, source, shape, Precision()));
  ImageSpec spec;
  spec.width = options.width.value_or(info.default_width);
  spec.height = options.height.value_or(info.default_height);
  spec.steps = options.steps.value_or(info.default_steps);
  spec.guidance_scale = options.guidance_scale.value_or(info.default_guidance_scale);
  spec.max_sequence_length = info.default_max_sequence_length;
  FRESCO_RETURN_IF_ERROR(CheckSpec(info, /*max_clip_skip=*/0, spec));
  return spec;
}

// Of everything that the result depends on, so that a state is not taken for another run's.
std::string RunDigest(const CalibrationOptions& options, const ImageSpec& spec, const std::string& weights) {
  Sha256 hash;
  hash.Add(StrCat(weights, "\n", options.precision, " ", options.high, " ", spec.width, "x", spec.height, " ",
                  spec.steps, " ", spec.guidance_scale, " ", spec.max_sequence_length, " ", options.seed, " ",
                  options.buckets, " ", options.sensitivity_samples, " ", options.rounding_samples, " ",
                  options.rounding_damping, " ", options.high_inputs, "\n"));
  for (const std::string& prompt : options.prompts) hash.Add(StrCat(prompt.size(), " ", prompt, "\n"));
  const Sha256::Digest digest = hash.Finish();
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

absl::StatusOr<CalibrationState> StartingState(const CalibrationOptions& options, const std::string& run) {
  CalibrationState fresh;
  fresh.run = run;
  if (!options.resume || options.state.empty() || !std::filesystem::exists(options.state)) return fresh;
  FRESCO_ASSIGN_OR_RETURN(CalibrationState state, ReadCalibrationState(options.state));
  if (state.run == run) return state;
  return absl::InvalidArgumentError(StrCat(
      options.state, ": is the state of another run (other weights, prompts or options): start anew without it"));
}

// A picture on its way through one set of parts.
class Trajectory {
 public:
  // Errors: as TextConditioner::Encode.
  static absl::StatusOr<Trajectory> Start(const ModelParts& parts, const ImageSpec& spec, uint64_t id) {
    DiffusionState state;
    state.schedule = MakeSchedule(parts.schedule, spec.steps);
    FRESCO_ASSIGN_OR_RETURN(state.positive, Encode(parts, PositiveKey(spec)));
    if (spec.guidance_scale > 1) {
      FRESCO_ASSIGN_OR_RETURN(state.negative, Encode(parts, NegativeKey(spec)));
    }
    const int64_t pixels = parts.vae.config().downscale();
    const Placement& placement = parts.transformer.placement();
    state.latents =
        DrawNoise(spec.seed, parts.transformer.config().in_channels, spec.height / pixels, spec.width / pixels)
            .to(placement.device, placement.dtype);
    return Trajectory(std::make_unique<DiffusionJob>(id, spec, std::move(state)));
  }

  bool done() const { return job_->done(); }
  int step() const { return job_->step(); }
  float sigma() const { return job_->sigma(); }
  const ImageSpec& spec() const { return job_->spec(); }
  uint64_t id() const { return job_->id(); }

  // The step that comes next, alone, from `latents` of any type; without its velocity.
  DiffusionState NextStep(const at::Tensor& latents) const {
    DiffusionState state = job_->state();
    state.schedule = StepOf(state.schedule, step());
    state.latents = latents.to(state.latents.options());
    return state;
  }
  const at::Tensor& latents() const { return job_->state().latents; }

  // Goes on by one step, and returns what it was.
  absl::StatusOr<Sample> Advance(Denoiser& denoiser) {
    Sample sample{NextStep(latents()), {}};
    const absl::Status status = denoiser.Step({job_.get()}).front();
    if (!status.ok()) return Annotate(status, StrCat("'", PrintableName(spec().prompt), "'"));
    sample.velocity = job_->state().velocity;
    return sample;
  }
  // Skips a step of which only the place in the schedule matters.
  void Skip() { job_->Advance(latents(), {}); }

 private:
  explicit Trajectory(std::unique_ptr<DiffusionJob> job) : job_(std::move(job)) {}

  static absl::StatusOr<std::shared_ptr<const PromptEmbedding>> Encode(const ModelParts& parts, const PromptKey& key) {
    FRESCO_ASSIGN_OR_RETURN(PromptEmbedding embedding, parts.text.Encode(key));
    return std::make_shared<const PromptEmbedding>(std::move(embedding));
  }

  std::unique_ptr<DiffusionJob> job_;
};

// Draws, measures and fits, phase by phase; the state says what is done.
class Run {
 public:
  using OnProgress = std::function<void(const CalibrationProgress&)>;

  Run(const CalibrationOptions& options, ModelSource source, at::Device device, ImageSpec spec, CalibrationState state,
      const OnProgress& on_progress)
      : options_(options),
        source_(std::move(source)),
        device_(device),
        spec_(std::move(spec)),
        state_(std::move(state)),
        on_progress_(on_progress) {}

  absl::StatusOr<CalibrationResult> Finish(const std::string& digest) {
    FRESCO_ASSIGN_OR_RETURN(const Precision high, ChoosePrecision(options_.high, device_));
    FRESCO_ASSIGN_OR_RETURN(const ModelParts parts, LoadModelParts(source_, device_, high, {}, probe_));
    buckets_ = BucketsOf(MakeSchedule(parts.schedule, spec_.steps).sigmas, options_.buckets);
    Denoiser denoiser(parts.transformer);
    FRESCO_RETURN_IF_ERROR(MeasureRanges(parts, denoiser));
    FRESCO_RETURN_IF_ERROR(MeasureSensitivities(parts, denoiser));
    FRESCO_RETURN_IF_ERROR(Round(parts, denoiser));
    probe_->Rest();
    const Calibration calibration = Learned(digest);
    FRESCO_RETURN_IF_ERROR(FitNoise(parts, denoiser, calibration));
    return Result(calibration);
  }

 private:
  int prompts() const { return static_cast<int>(options_.prompts.size()); }
  int rounding_samples() const { return options_.rounded.empty() ? 0 : options_.rounding_samples; }
  // Steps of the pictures that so many samples are taken from.
  int64_t SamplingSteps(int samples) const { return static_cast<int64_t>(std::min(prompts(), samples)) * spec_.steps; }

  ImageSpec SpecOf(int prompt) const {
    ImageSpec spec = spec_;
    spec.prompt = options_.prompts[static_cast<size_t>(prompt)];
    spec.seed = options_.seed + static_cast<uint64_t>(prompt);
    return spec;
  }

  absl::StatusOr<Trajectory> Start(const ModelParts& parts, int prompt) const {
    return Trajectory::Start(parts, SpecOf(prompt), static_cast<uint64_t>(prompt));
  }

  absl::Status Save() const {
    return options_.state.empty() ? absl::OkStatus() : WriteCalibrationState(state_, options_.state);
  }

  // The layers that the precision quantises, by their first names.
  std::vector<std::string> Quantised() const {
    const LayerTable table = LayerTable::ForTransformer(options_.precision);
    std::vector<std::string> layers;
    for (const LayerStatistics& layer : state_.layers) {
      if (table.Of(layer.names.front()) != LinearScheme::kHigh) layers.push_back(layer.names.front());
    }
    return layers;
  }

  // How many forwards each phase takes, in their order. Rounding a layer counts as one.
  std::vector<std::pair<std::string_view, int64_t>> Phases() const {
    const int64_t ranges = static_cast<int64_t>(prompts()) * spec_.steps;
    const auto layers = static_cast<int64_t>(Quantised().size());
    const int sensing = options_.sensitivity_samples, rounding = rounding_samples();
    const int64_t groups = rounding == 0 ? 0 : static_cast<int64_t>(Groups().size());
    return {{"ranges", ranges},
            {"sensitivity", SamplingSteps(sensing) + 2 * layers * sensing},
            {"rounding", SamplingSteps(rounding) + groups * rounding + (rounding == 0 ? 0 : layers)},
            {"noise", 2 * ranges}};
  }

  // `done` of this phase.
  void Report(std::string_view phase, int64_t done) {
    int64_t total = 0;
    bool before = true;
    for (const auto& [name, forwards] : Phases()) {
      before = before && name != phase;
      if (before) done += forwards;
      total += forwards;
    }
    on_progress_({phase, done, total});
  }

  absl::Status MeasureRanges(const ModelParts& parts, Denoiser& denoiser) {
    for (int& prompt = state_.prompts_measured; prompt < prompts();) {
      FRESCO_ASSIGN_OR_RETURN(Trajectory picture, Start(parts, prompt));
      while (!picture.done()) {
        probe_->Measure(&state_.layers, buckets_.Of(picture.sigma()), buckets_.size());
        FRESCO_RETURN_IF_ERROR(picture.Advance(denoiser).status());
        Report("ranges", static_cast<int64_t>(prompt) * spec_.steps + picture.step());
      }
      ++prompt;
      FRESCO_RETURN_IF_ERROR(Save());
    }
    return absl::OkStatus();
  }

  // Steps spread evenly over the schedule, dealt out to the prompts in turn.
  absl::StatusOr<std::vector<Sample>> TakeSamples(const ModelParts& parts, Denoiser& denoiser, std::string_view phase,
                                                  int count) {
    probe_->Rest();
    std::vector<Sample> samples;
    for (int prompt = 0; prompt < std::min(prompts(), count); ++prompt) {
      FRESCO_ASSIGN_OR_RETURN(Trajectory picture, Start(parts, prompt));
      while (!picture.done()) {
        const int step = picture.step();
        FRESCO_ASSIGN_OR_RETURN(Sample sample, picture.Advance(denoiser));
        for (int i = prompt; i < count; i += prompts()) {
          if ((2 * i + 1) * spec_.steps / (2 * count) == step) samples.push_back(sample);
        }
        Report(phase, static_cast<int64_t>(prompt) * spec_.steps + picture.step());
      }
    }
    return samples;
  }

  absl::Status MeasureSensitivities(const ModelParts& parts, Denoiser& denoiser) {
    const std::vector<std::string> layers = Quantised();
    if (options_.sensitivity_samples < 1 || state_.sensitivity.size() == layers.size()) return absl::OkStatus();
    const LayerTable table = LayerTable::ForTransformer(options_.precision);
    FRESCO_ASSIGN_OR_RETURN(const std::vector<Sample> samples,
                            TakeSamples(parts, denoiser, "sensitivity", options_.sensitivity_samples));
    int64_t done = SamplingSteps(options_.sensitivity_samples);
    for (const std::string& layer : layers) {
      done += 2 * static_cast<int64_t>(samples.size());
      if (state_.sensitivity.contains(layer)) continue;
      const LinearScheme scheme = table.Of(layer);
      if (QuantisesActivations(scheme)) {
        probe_->QuantiseInputs(layer, scheme);
        FRESCO_ASSIGN_OR_RETURN(state_.input_sensitivity[layer], ErrorOf(denoiser, samples));
      }
      probe_->Quantise(layer, scheme);
      FRESCO_ASSIGN_OR_RETURN(state_.sensitivity[layer], ErrorOf(denoiser, samples));
      Report("sensitivity", done);
      FRESCO_RETURN_IF_ERROR(Save());
    }
    return absl::OkStatus();
  }

  // |v' - v| / |v|, root mean square over the samples.
  absl::StatusOr<float> ErrorOf(Denoiser& denoiser, const std::vector<Sample>& samples) const {
    double sum = 0;
    for (size_t i = 0; i < samples.size(); ++i) {
      FRESCO_ASSIGN_OR_RETURN(const at::Tensor velocity,
                              VelocityOf(denoiser, spec_, kFirstSample + i, samples[i].state));
      const double error = Norm(velocity - samples[i].velocity) / std::max(Norm(samples[i].velocity), 1e-30);
      sum += error * error;
    }
    return static_cast<float>(std::sqrt(sum / static_cast<double>(samples.size())));
  }

  // The layers to round, so many at a time as their moments may take memory together.
  std::vector<std::set<std::string>> Groups() const {
    std::map<std::string, int64_t> bytes;
    for (const LayerStatistics& layer : state_.layers)
      bytes[layer.names.front()] = InputMoments::Bytes(static_cast<int64_t>(layer.channels.absmax.size()));
    std::vector<std::set<std::string>> groups;
    int64_t taken = 0;
    for (const std::string& layer : Quantised()) {
      if (groups.empty() || taken + bytes[layer] > kMomentBytes) {
        groups.emplace_back();
        taken = 0;
      }
      taken += bytes[layer];
      groups.back().insert(layer);
    }
    return groups;
  }

  // Weights whose products with what the exact model's layers are given change least.
  absl::Status Round(const ModelParts& parts, Denoiser& denoiser) {
    if (rounding_samples() < 1 || IsRoundedBy(state_.run, options_.rounded)) return absl::OkStatus();
    FRESCO_ASSIGN_OR_RETURN(const std::vector<Sample> samples,
                            TakeSamples(parts, denoiser, "rounding", rounding_samples()));
    int64_t done = SamplingSteps(rounding_samples());
    std::vector<RoundedLinear> rounded;
    for (const std::set<std::string>& group : Groups()) {
      std::map<std::string, GatheredLinear> gathered;
      probe_->Gather(group, &gathered);
      for (size_t i = 0; i < samples.size(); ++i) {
        FRESCO_RETURN_IF_ERROR(VelocityOf(denoiser, spec_, kFirstSample + i, samples[i].state).status());
        Report("rounding", ++done);
      }
      probe_->Rest();
      while (!gathered.empty()) {
        rounded.push_back(Rounded(gathered.begin()->second));
        gathered.erase(gathered.begin());  // its moments are large
        Report("rounding", ++done);
      }
    }
    return WriteRoundedWeights(rounded, state_.run, options_.rounded);
  }

  RoundedLinear Rounded(const GatheredLinear& gathered) const {
    const LinearTap& tap = *gathered.linear.tap;
    const LinearScheme scheme = LayerTable::ForTransformer(options_.precision).Of(tap.layers.front());
    const at::Tensor& bias = gathered.linear.bias;
    return {tap.layers, tap.outputs,
            RoundWeight(PlainWeight(gathered.linear).to(at::kCPU), bias.defined() ? bias.to(at::kCPU) : bias, scheme,
                        gathered.moments, options_.rounding_damping)};
  }

  // Everything but the correction, which is fitted to a model that has the rest.
  Calibration Learned(const std::string& digest) const {
    Calibration learned;
    learned.model = options_.model;
    learned.weights_digest = digest;
    learned.prompts = prompts();
    learned.steps = spec_.steps;
    learned.width = spec_.width;
    learned.height = spec_.height;
    learned.guidance_scale = spec_.guidance_scale;
    learned.seed = options_.seed;
    learned.buckets = buckets_;
    if (rounding_samples() > 0)
      learned.rounded_weights[options_.precision] = std::filesystem::path(options_.rounded).filename().string();
    for (const LayerStatistics& statistics : state_.layers) {
      LayerCalibration& layer = learned.layers.emplace_back();
      layer.names = statistics.names;
      layer.outputs = statistics.outputs;
      layer.tokens = statistics.channels.rows;
      for (const InputStatistics& bucket : statistics.buckets) layer.ranges.push_back(bucket.Range());
      layer.channel_absmax = statistics.channels.absmax;
      layer.channel_mean = statistics.channels.Mean();
      CopyError(state_.sensitivity, layer.names.front(), &layer.sensitivity);
      CopyError(state_.input_sensitivity, layer.names.front(), &layer.input_sensitivity);
    }
    KeepInputsHigh(options_.precision, LayerTable::ForTransformer(options_.precision), options_.high_inputs, &learned);
    return learned;
  }

  void CopyError(const std::map<std::string, float>& errors, const std::string& layer,
                 std::map<std::string, float>* by_precision) const {
    const auto found = errors.find(layer);
    if (found != errors.end()) (*by_precision)[options_.precision] = found->second;
  }

  // Along the exact trajectory: at each of its steps, what the quantised model would have said.
  absl::Status FitNoise(const ModelParts& exact, Denoiser& denoiser, const Calibration& calibration) {
    if (state_.prompts_fitted == prompts()) return absl::OkStatus();
    FRESCO_ASSIGN_OR_RETURN(Precision precision,
                            ChoosePrecision(options_.precision, device_, RulesOf(calibration, options_.precision)));
    if (rounding_samples() > 0) precision.rounded = options_.rounded;
    FRESCO_ASSIGN_OR_RETURN(const ModelParts low, LoadModelParts(source_, device_, precision));
    Denoiser low_denoiser(low.transformer);
    const auto channels = static_cast<size_t>(exact.transformer.config().out_channels);
    state_.fits.resize(buckets_.size(), std::vector<AffineFit>(channels));
    for (int& prompt = state_.prompts_fitted; prompt < prompts();) {
      FRESCO_ASSIGN_OR_RETURN(Trajectory picture, Start(exact, prompt));
      FRESCO_ASSIGN_OR_RETURN(Trajectory low_picture, Start(low, prompt));
      while (!picture.done()) {
        const size_t bucket = buckets_.Of(picture.sigma());
        const DiffusionState low_state = low_picture.NextStep(picture.latents());
        low_picture.Skip();
        FRESCO_ASSIGN_OR_RETURN(const Sample sample, picture.Advance(denoiser));
        FRESCO_ASSIGN_OR_RETURN(const at::Tensor velocity,
                                VelocityOf(low_denoiser, picture.spec(), picture.id(), low_state));
        AddToFits(sample.velocity, velocity, &state_.fits[bucket]);
        Report("noise", 2 * (static_cast<int64_t>(prompt) * spec_.steps + picture.step()));
      }
      ++prompt;
      FRESCO_RETURN_IF_ERROR(Save());
    }
    return absl::OkStatus();
  }

  static void AddToFits(const at::Tensor& exact, const at::Tensor& low, std::vector<AffineFit>* fits) {
    const at::Tensor exact_values = OnHost(exact), low_values = OnHost(low);
    for (size_t channel = 0; channel < fits->size(); ++channel) {
      const auto index = static_cast<int64_t>(channel);
      (*fits)[channel].Add(Channel(exact_values, index), Channel(low_values, index));
    }
  }

  CalibrationResult Result(Calibration calibration) const {
    CalibrationResult result;
    double power = 0, noise = 0, corrected = 0;
    NoiseCorrection& correction = calibration.noise_correction[options_.precision];
    for (const std::vector<AffineFit>& channels : state_.fits) {
      AffineCorrection& bucket = correction.emplace_back();
      for (const AffineFit& fit : channels) {
        const auto [scale, offset] = fit.Solve(options_.noise_damping);
        bucket.scale.push_back(scale);
        bucket.offset.push_back(offset);
        power += fit.xx;
        noise += fit.residual_squared;
        corrected += fit.SquaredError(scale, offset);
      }
    }
    result.calibration = std::move(calibration);
    result.noise = std::sqrt(noise / power);
    result.corrected_noise = std::sqrt(corrected / power);
    return result;
  }

  static constexpr int64_t kMomentBytes = int64_t{4} << 30;
  static constexpr uint64_t kFirstSample = uint64_t{1} << 32;  // samples' numbers, beyond those of prompts

  const CalibrationOptions& options_;
  const ModelSource source_;
  const at::Device device_;
  const ImageSpec spec_;
  CalibrationState state_;
  const OnProgress& on_progress_;
  SigmaBuckets buckets_;
  const std::shared_ptr<CalibrationProbe> probe_ = std::make_shared<CalibrationProbe>();
};

absl::StatusOr<CalibrationResult> Start(const CalibrationOptions& options,
                                        const std::function<void(const CalibrationProgress&)>& on_progress) {
  FRESCO_RETURN_IF_ERROR(CheckOptions(options));
  FRESCO_ASSIGN_OR_RETURN(ModelSource source, ModelSource::Open(options.model, options.base));
  FRESCO_ASSIGN_OR_RETURN(ImageSpec spec, SpecOf(options, source));
  FRESCO_ASSIGN_OR_RETURN(const std::string digest, DigestWeights(source, 1));
  FRESCO_ASSIGN_OR_RETURN(CalibrationState state, StartingState(options, RunDigest(options, spec, digest)));
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(options.device, options.threads));
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  return Run(options, std::move(source), device, std::move(spec), std::move(state), on_progress).Finish(digest);
}

}  // namespace

absl::StatusOr<CalibrationResult> Calibrate(const CalibrationOptions& options,
                                            const std::function<void(const CalibrationProgress&)>& on_progress) {
  return CatchTorch(options.model, [&] { return Start(options, on_progress); });
}

}  // namespace fresco
