#include "pipeline/engine/inspection.h"

#include <ATen/core/Tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "pipeline/base/median.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/activation_recorder.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/observers.h"
#include "pipeline/engine/torch_boundary.h"

namespace fresco {
namespace {

DiffusionState& StateOf(ImageJob* job) {
  return static_cast<DiffusionJob&>(*job).state();
}

// A model, and who looks on.
struct Inspected {
  std::unique_ptr<Engine> engine;
  std::shared_ptr<SaturationCount> saturation = std::make_shared<SaturationCount>();

  absl::Status Load(LoadOptions options, std::shared_ptr<LinearProbe> probe, Observer stages) {
    auto observers = std::make_shared<EngineObservers>();
    *observers = {std::move(probe), std::move(stages), saturation};
    options.observers = observers;
    FRESCO_ASSIGN_OR_RETURN(engine, LoadEngine(options));
    return absl::OkStatus();
  }
};

// Draws the pictures, with one model or with two side by side.
class Run {
 public:
  explicit Run(const InspectionOptions& options) : options_(options) {}

  absl::StatusOr<Inspection> Finish() {
    FRESCO_RETURN_IF_ERROR(Load());
    specs_ = options_.specs(model_.engine->info());
    if (specs_.empty()) return absl::InvalidArgumentError("there are no prompts to draw");
    for (const ImageSpec& spec : specs_) steps_ = std::max(steps_, static_cast<size_t>(std::max(0, spec.steps)));
    MakeRecorders();
    for (size_t i = 0; i < specs_.size(); ++i) FRESCO_RETURN_IF_ERROR(Draw(i));
    FRESCO_RETURN_IF_ERROR(features_);
    if (!options_.features.empty() && !features_seen_) return UnknownLayer();
    Inspection inspection;
    inspection.model = model_.engine->info();
    if (against()) inspection.reference = reference_.engine->info();
    inspection.specs = specs_;
    inspection.layers = recorder_->TakeLayers();
    return inspection;
  }

 private:
  bool against() const { return !options_.against.empty(); }

  // The recorders are made when the number of steps is known: until then nobody is told of anything.
  struct Relay final : LinearProbe {
    LinearProbe* to = nullptr;
    at::Tensor Visit(const Linear& linear, const at::Tensor& x) override {
      return to == nullptr ? at::Tensor() : to->Visit(linear, x);
    }
  };

  absl::Status Load() {
    FRESCO_RETURN_IF_ERROR(
        model_.Load(options_.load, model_relay_, [this](std::string_view name, const at::Tensor& value) {
          if (recorder_ != nullptr) recorder_->Stage(name, value);
        }));
    if (!against()) return absl::OkStatus();
    LoadOptions reference = options_.load;
    reference.precision = options_.against;
    // What belongs to the precision that is looked into.
    reference.calibration.clear();
    reference.static_scales = false;
    reference.attention = AttentionScheme::kHigh;
    reference.layers.clear();
    reference.vae.precision = VaePrecision::kAuto;
    return reference_.Load(reference, reference_relay_, [this](std::string_view name, const at::Tensor& value) {
      if (noise_ != nullptr) noise_->Stage(name, value);
    });
  }

  void MakeRecorders() {
    recorder_ = std::make_unique<ActivationRecorder>(steps_ + 1, against());
    model_relay_->to = recorder_.get();
    if (!options_.features.empty()) {
      recorder_->HandOn(options_.features, [this](size_t step, const at::Tensor& value) { TakeFeatures(step, value); });
    }
    if (!against()) return;
    noise_ = std::make_unique<NoiseRecorder>(recorder_.get());
    reference_relay_->to = noise_.get();
  }

  absl::Status Draw(size_t picture) {
    const ImageSpec& spec = specs_[picture];
    picture_ = picture;
    FRESCO_ASSIGN_OR_RETURN(const auto job, model_.engine->Prepare(spec));
    std::unique_ptr<ImageJob> exact;
    if (against()) {
      FRESCO_ASSIGN_OR_RETURN(exact, reference_.engine->Prepare(spec));
    }
    for (int step = 0; step < spec.steps; ++step) {
      const absl::Status status = Step(static_cast<size_t>(step), job.get(), exact.get());
      if (absl::IsDataLoss(status)) return absl::OkStatus();  // what was seen says why
      FRESCO_RETURN_IF_ERROR(Annotate(status, StrCat("'", PrintableName(spec.prompt), "'")));
      if (options_.on_progress) options_.on_progress(++done_, TotalSteps());
    }
    const absl::Status status = Decode(job.get(), exact.get());
    return absl::IsDataLoss(status) ? absl::OkStatus() : status;
  }

  int64_t TotalSteps() const {
    int64_t total = 0;
    for (const ImageSpec& spec : specs_) total += spec.steps;
    return total;
  }

  // The latents that the reference has come to.
  static void Follow(ImageJob* job, ImageJob* exact) {
    if (exact == nullptr) return;
    const c10::InferenceMode inference;
    StateOf(job).latents = StateOf(exact).latents.to(StateOf(job).latents.options());
  }

  absl::Status Step(size_t step, ImageJob* job, ImageJob* exact) {
    Follow(job, exact);
    recorder_->Record(step);
    recorder_->StartSaturation(*model_.saturation);
    const absl::Status status = model_.engine->Step({job}).front();
    recorder_->Rest();
    recorder_->AddSaturation(*model_.saturation);
    if (exact == nullptr || (!status.ok() && !absl::IsDataLoss(status))) return status;
    noise_->Record();
    const absl::Status reference = reference_.engine->Step({exact}).front();
    noise_->Rest();
    return reference.ok() ? status : Annotate(reference, options_.against);
  }

  absl::Status Decode(ImageJob* job, ImageJob* exact) {
    Follow(job, exact);
    recorder_->Record(steps_);
    recorder_->StartSaturation(*model_.saturation);
    const absl::Status status = model_.engine->Finish(*job).status();
    recorder_->Rest();
    recorder_->AddSaturation(*model_.saturation);
    if (exact == nullptr || !status.ok()) return status;
    noise_->Record();
    const absl::Status reference = reference_.engine->Finish(*exact).status();
    noise_->Rest();
    return reference;
  }

  // Of the first picture.
  void TakeFeatures(size_t step, const at::Tensor& value) {
    features_seen_ = true;
    if (picture_ != 0 || !features_.ok()) return;
    const ImageSpec& spec = specs_.front();
    const int patch = model_.engine->info().size_multiple;
    std::optional<FeatureMaps> maps = MapsOf(value, spec.height / patch, spec.width / patch, options_.feature_channels);
    if (!maps) {
      features_ = absl::InvalidArgumentError(StrCat("'", PrintableName(options_.features),
                                                    "' has no places in the picture: it is of the texts, or one row"));
      return;
    }
    maps->layer = options_.features;
    maps->step = step;
    options_.on_features(*maps);
  }

  // With some that there are.
  absl::Status UnknownLayer() {
    std::string known;
    for (const InspectedLayer& layer : recorder_->TakeLayers()) {
      if (layer.kind == InspectedLayer::Kind::kStage) known += StrCat(known.empty() ? "" : ", ", layer.name);
    }
    return absl::InvalidArgumentError(StrCat("there is no layer '", PrintableName(options_.features),
                                             "'; the stages are ", known, "; linears have the names of the table"));
  }

  const InspectionOptions& options_;
  const std::shared_ptr<Relay> model_relay_ = std::make_shared<Relay>(), reference_relay_ = std::make_shared<Relay>();
  std::unique_ptr<ActivationRecorder> recorder_;
  std::unique_ptr<NoiseRecorder> noise_;
  Inspected model_, reference_;
  std::vector<ImageSpec> specs_;
  size_t steps_ = 0;    // of the picture with the most
  size_t picture_ = 0;  // that is drawn
  int64_t done_ = 0;    // steps
  bool features_seen_ = false;
  absl::Status features_;
};

bool Quantised(const InspectedLayer& layer) {
  return layer.kind == InspectedLayer::Kind::kLinear && layer.scheme != SchemeName(LinearScheme::kHigh);
}

}  // namespace

double Fidelity::decibels() const {
  if (std::isnan(signal) || std::isnan(noise) || std::isinf(noise)) return std::numeric_limits<double>::quiet_NaN();
  return noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
}

void InspectedStep::Add(const InspectedStep& other) {
  values.Add(other.values);
  nan += other.nan;
  infinite += other.infinite;
  beyond_e4m3 += other.beyond_e4m3;
  saturated += other.saturated;
  guarded += other.guarded;
  own.Add(other.own);
  through.Add(other.through);
}

InspectedStep InspectedLayer::all() const {
  InspectedStep all;
  for (const InspectedStep& step : steps) all.Add(step);
  return all;
}

absl::StatusOr<Inspection> InspectActivations(const InspectionOptions& options) {
  return CatchTorch(options.load.path, [&] { return Run(options).Finish(); });
}

std::vector<const InspectedLayer*> ByOwnNoise(const Inspection& inspection) {
  std::vector<std::pair<double, const InspectedLayer*>> ranked;
  for (const InspectedLayer& layer : inspection.layers) {
    const Fidelity own = layer.all().own;
    if (!Quantised(layer) || !own.known()) continue;
    const double decibels = own.decibels();
    ranked.emplace_back(std::isnan(decibels) ? -std::numeric_limits<double>::infinity() : decibels, &layer);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<const InspectedLayer*> layers;
  for (const auto& [decibels, layer] : ranked) layers.push_back(layer);
  return layers;
}

const InspectedLayer* FirstToFall(const Inspection& inspection) {
  const std::vector<const InspectedLayer*> ranked = ByOwnNoise(inspection);
  if (ranked.empty()) return nullptr;
  const double median = ranked[ranked.size() / 2]->all().own.decibels();
  for (const InspectedLayer& layer : inspection.layers) {
    if (std::find(ranked.begin(), ranked.end(), &layer) == ranked.end()) continue;
    const double own = layer.all().own.decibels();
    if (std::isnan(own) || own < median - kFall) return &layer;
  }
  return nullptr;
}

}  // namespace fresco
