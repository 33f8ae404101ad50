#include "pipeline/engine/layer_choice.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "pipeline/base/median.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/image/similarity.h"

namespace fresco {
namespace {

// What a layer costs when it is quantised, per element of its weights.
double CostPerElement(const LayerCalibration& layer, const std::string& precision) {
  const double elements =
      static_cast<double>(layer.outputs) * static_cast<double>(std::max<size_t>(1, layer.channel_absmax.size()));
  return std::pow(static_cast<double>(layer.sensitivity.at(precision)), 2) / elements;
}

absl::StatusOr<std::vector<Image>> Draw(const LoadOptions& load, const std::vector<ImageSpec>& specs) {
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, LoadEngine(load));
  std::vector<Image> images;
  for (const ImageSpec& spec : specs) {
    FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job, engine->Prepare(spec));
    while (!job->done()) FRESCO_RETURN_IF_ERROR(engine->Step({job.get()}).front());
    FRESCO_ASSIGN_OR_RETURN(Image image, engine->Finish(*job));
    images.push_back(std::move(image));
  }
  return images;
}

// Tries how many layers it takes.
class Search {
 public:
  using OnTrial = std::function<void(size_t kept, double psnr)>;

  Search(const KeepPsnrOptions& options, std::vector<const LayerCalibration*> order, std::vector<Image> exact,
         const OnTrial& on_trial)
      : options_(options), order_(std::move(order)), exact_(std::move(exact)), on_trial_(on_trial) {}

  absl::StatusOr<KeptLayers> Find() {
    KeptLayers kept;
    FRESCO_ASSIGN_OR_RETURN(kept.psnr_without, Try(0));
    kept.psnr = kept.psnr_without;
    if (kept.psnr >= options_.psnr) return kept;
    size_t too_few = 0, enough = order_.size();
    FRESCO_ASSIGN_OR_RETURN(kept.psnr, Try(enough));
    if (kept.psnr < options_.psnr)
      return absl::FailedPreconditionError(
          StrCat("with every layer high the pictures have ", kept.psnr, " dB, not ", options_.psnr));
    while (enough - too_few > 1) {
      const size_t middle = too_few + (enough - too_few) / 2;
      FRESCO_ASSIGN_OR_RETURN(const double psnr, Try(middle));
      if (psnr < options_.psnr) {
        too_few = middle;
      } else {
        enough = middle;
        kept.psnr = psnr;
      }
    }
    kept.rules = Rules(enough);
    return kept;
  }

 private:
  std::vector<LayerTable::Rule> Rules(size_t count) const {
    std::vector<LayerTable::Rule> rules;
    for (size_t i = 0; i < count; ++i) {
      for (const std::string& name : order_[i]->names) rules.push_back({name, LinearScheme::kHigh});
    }
    return rules;
  }

  absl::StatusOr<double> Try(size_t count) const {
    LoadOptions load = options_.load;
    const std::vector<LayerTable::Rule> rules = Rules(count);
    load.layers.insert(load.layers.end(), rules.begin(), rules.end());
    FRESCO_ASSIGN_OR_RETURN(const std::vector<Image> images, Draw(load, options_.specs));
    std::vector<double> each;
    for (size_t i = 0; i < images.size(); ++i) {
      FRESCO_ASSIGN_OR_RETURN(const double psnr, Psnr(images[i], exact_[i]));
      each.push_back(psnr);
    }
    const double psnr = Median(std::move(each));
    on_trial_(count, psnr);
    return psnr;
  }

  const KeepPsnrOptions& options_;
  const std::vector<const LayerCalibration*> order_;
  const std::vector<Image> exact_;
  const OnTrial& on_trial_;
};

}  // namespace

std::vector<const LayerCalibration*> WorthKeepingHigh(const Calibration& calibration, std::string_view precision) {
  const std::string key(precision);
  std::vector<const LayerCalibration*> order;
  for (const LayerCalibration& layer : calibration.layers) {
    if (layer.sensitivity.contains(key)) order.push_back(&layer);
  }
  std::stable_sort(order.begin(), order.end(), [&](const LayerCalibration* a, const LayerCalibration* b) {
    return CostPerElement(*a, key) > CostPerElement(*b, key);
  });
  return order;
}

absl::StatusOr<KeptLayers> KeepPsnr(const KeepPsnrOptions& options,
                                    const std::function<void(size_t kept, double psnr)>& on_trial) {
  if (options.specs.empty()) return absl::InvalidArgumentError("there is nothing to draw");
  const absl::StatusOr<Calibration> read = ReadCalibration(options.load.calibration);
  if (!read.ok()) return Annotate(read.status(), "what to keep high is chosen by a calibration");
  const Calibration& calibration = *read;
  std::vector<const LayerCalibration*> order = WorthKeepingHigh(calibration, options.load.precision);
  if (order.empty())
    return absl::InvalidArgumentError(StrCat(options.load.calibration, ": has no sensitivities for ",
                                             options.load.precision, ": calibrate with --sensitivity-samples"));
  LoadOptions high = options.load;
  high.precision = options.high;
  high.calibration.clear();
  high.layers.clear();
  FRESCO_ASSIGN_OR_RETURN(std::vector<Image> exact, Draw(high, options.specs));
  return Search(options, std::move(order), std::move(exact), on_trial).Find();
}

}  // namespace fresco
