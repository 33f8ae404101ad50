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
#include <string>
#include <system_error>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/calibration_probe.h"
#include "pipeline/engine/calibration_start.h"
#include "pipeline/engine/calibration_state.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/rounded_weights.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/engine/trajectory.h"

namespace fresco {
namespace {

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
    FRESCO_ASSIGN_OR_RETURN(const ModelParts parts, LoadModelParts(source_, device_, high, {}, {probe_, nullptr}));
    buckets_ = BucketsOf(MakeSchedule(parts.schedule, spec_.steps).sigmas, options_.buckets);
    Denoiser denoiser(parts.transformer);
    FRESCO_RETURN_IF_ERROR(MeasureRanges(parts, denoiser));
    FRESCO_RETURN_IF_ERROR(MeasureSensitivities(parts, denoiser));
    FRESCO_RETURN_IF_ERROR(Round(parts, denoiser));
    probe_->Rest();
    const Calibration calibration = Learned(digest);
    FRESCO_RETURN_IF_ERROR(FitNoise(parts, denoiser, calibration));
    FRESCO_RETURN_IF_ERROR(PlaceRounded());
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
  absl::StatusOr<std::vector<TrajectoryStep>> TakeSamples(const ModelParts& parts, Denoiser& denoiser,
                                                          std::string_view phase, int count) {
    probe_->Rest();
    std::vector<TrajectoryStep> samples;
    for (int prompt = 0; prompt < std::min(prompts(), count); ++prompt) {
      FRESCO_ASSIGN_OR_RETURN(Trajectory picture, Start(parts, prompt));
      while (!picture.done()) {
        const int step = picture.step();
        FRESCO_ASSIGN_OR_RETURN(TrajectoryStep sample, picture.Advance(denoiser));
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
    FRESCO_ASSIGN_OR_RETURN(const std::vector<TrajectoryStep> samples,
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
  absl::StatusOr<float> ErrorOf(Denoiser& denoiser, const std::vector<TrajectoryStep>& samples) const {
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
    if (rounding_samples() < 1) return absl::OkStatus();
    rounded_ = options_.rounded;
    if (IsRoundedBy(state_.run, rounded_)) return absl::OkStatus();
    rounded_ += ".new";
    if (IsRoundedBy(state_.run, rounded_)) return absl::OkStatus();
    FRESCO_ASSIGN_OR_RETURN(const std::vector<TrajectoryStep> samples,
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
    return WriteRoundedWeights(rounded, state_.run, rounded_);
  }

  // Only when all is done: until then a calibration that is there keeps the weights that it was made with.
  absl::Status PlaceRounded() const {
    if (rounded_ == options_.rounded || rounded_.empty()) return absl::OkStatus();
    std::error_code error;
    std::filesystem::rename(rounded_, options_.rounded, error);
    return absl::ErrnoToStatus(error.value(), options_.rounded);
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
    if (rounding_samples() > 0) precision.rounded = rounded_;
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
        FRESCO_ASSIGN_OR_RETURN(const TrajectoryStep sample, picture.Advance(denoiser));
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
  std::string rounded_;  // where the rounded weights are; empty: nowhere yet
  const std::shared_ptr<CalibrationProbe> probe_ = std::make_shared<CalibrationProbe>();
};

absl::StatusOr<CalibrationResult> Start(const CalibrationOptions& options,
                                        const std::function<void(const CalibrationProgress&)>& on_progress) {
  FRESCO_RETURN_IF_ERROR(CheckCalibrationOptions(options));
  FRESCO_ASSIGN_OR_RETURN(ModelSource source, ModelSource::Open(options.model, options.base));
  FRESCO_ASSIGN_OR_RETURN(ImageSpec spec, CalibrationSpec(options, source));
  FRESCO_ASSIGN_OR_RETURN(const std::string digest, DigestWeights(source, 1));
  FRESCO_ASSIGN_OR_RETURN(CalibrationState state, StartingState(options, spec, digest));
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
