// How far what we compute is from what diffusers computed.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/engine/model_parts.h"

namespace fresco {

struct StageDifference {
  enum class Measure {
    kExact,     // share of values that differ; the limit is 0
    kRelative,  // root mean square of the difference over that of the reference; small is good
    kPsnr,      // dB; large is good
    kNone,      // not compared, since one of the two sides lacks the stage: never good
  };
  std::string stage;
  Measure measure = Measure::kRelative;
  double value = 0;
  double limit = 0;

  bool ok() const;  // false for NaN and kNone
};

// Compares one model with one file of stages. Each stage is computed from the reference's inputs to it, so that a
// difference shows where it arises. Not thread-safe. May throw libtorch's exceptions.
class StageComparison {
 public:
  // `reference` as RunDiffusers gives it, for `spec`; `relative_limit` and `psnr_limit`: what is still equal.
  StageComparison(const ModelParts& parts, std::shared_ptr<const SafetensorsFile> reference, ImageSpec spec,
                  double relative_limit, double psnr_limit);

  absl::Status CompareTexts();
  absl::Status CompareSchedule();
  absl::Status CompareTransformer();
  absl::Status CompareAutoencoder();
  // The whole way, by `engine` over the same parts.
  absl::Status CompareImage(Engine& engine);

  // After all of them: every stage that a model like this has and that was not compared becomes a difference.
  void AddUncompared();

  const std::vector<StageDifference>& differences() const { return differences_; }

 private:
  absl::StatusOr<at::Tensor> Reference(const std::string& stage) const;       // on the host, as it lies in the file
  absl::StatusOr<at::Tensor> ReferenceInput(const std::string& stage) const;  // on the model's device, in its type
  // Negative and positive one above the other, or the positive alone.
  absl::StatusOr<at::Tensor> BothSides(std::string_view stage) const;
  absl::Status CompareSide(const std::string& side, const PromptKey& key);
  std::vector<std::string> ExpectedStages() const;
  // A stage that the reference does not have is a difference too.
  void Add(const std::string& stage, const at::Tensor& ours);
  void Add(const std::string& stage, StageDifference::Measure measure, double value);

  const ModelParts& parts_;
  const std::shared_ptr<const SafetensorsFile> reference_;
  const ImageSpec spec_;
  const double relative_limit_;
  const double psnr_limit_;
  std::vector<StageDifference> differences_;
};

}  // namespace fresco
