// Where the parts of a model come from: a diffusers folder or a single file, and a diffusers folder that supplies what
// it lacks.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/single_file.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/mmdit_config.h"

namespace fresco {

// A part that has weights, and the stem of their files' names in a diffusers folder.
struct WeightedPart {
  std::string_view name;
  std::string_view stem;
};
inline constexpr WeightedPart kWeightedParts[] = {{"transformer", kDiffusersStem},
                                                  {"text_encoder", kTransformersStem},
                                                  {"text_encoder_2", kTransformersStem},
                                                  {"text_encoder_3", kTransformersStem},
                                                  {"vae", kDiffusersStem}};

// Immutable once open, thread-safe. Parts are named as diffusers' folders; weights that a single file has win over its
// base's.
class ModelSource {
 public:
  // `path`: a diffusers folder or a file that SingleFile reads. `base`: a diffusers folder, or empty. Reads
  // model_index.json of `path`, or of `base` where `path` has none; a file without base needs none. NOT_FOUND for a
  // path, a base or an index that is not there, and for a folder in which there is nothing of a model; INVALID_ARGUMENT
  // for an index of another kind of pipeline, for a base that is a file, and as SingleFile::Open.
  static absl::StatusOr<ModelSource> Open(const std::string& path, const std::string& base);

  // False only for text_encoder_3, where the file does not hold it and the index says that the model has none (null) or
  // does not name it: all others are parts of every model.
  bool Has(std::string_view part) const;

  // NOT_FOUND that names everything that the model needs for drawing and that neither path nor base has.
  absl::Status CheckComplete() const;

  // The part's folder, in which its configuration is, or its tokenizer: "/models/a/vae", or the base's. NOT_FOUND where
  // neither has it.
  absl::StatusOr<std::string> Find(std::string_view part) const;

  // A weighted part's weights: the file's, else those in Find(part). Errors as WeightStore::Open.
  absl::StatusOr<WeightStore> OpenWeights(std::string_view part) const;

  // Whether a part's weights come from the single file, its configuration so from elsewhere.
  bool InFile(std::string_view part) const { return file_ && file_->Has(part); }

  // Of transformer/config.json; where there is none beside a single file, what the file's tensors say. INVALID_ARGUMENT
  // for a base's that is not the file's (CheckMmditConfig).
  absl::StatusOr<MmditConfig> TransformerConfig() const;

  // Where the model's own defaults may be: fresco.yaml of `path` (of X.safetensors: X.fresco.yaml beside it), or of the
  // base where that is not there.
  std::string DefaultsPath() const;

  const std::string& path() const { return path_; }
  const SingleFile* file() const { return file_ ? &*file_ : nullptr; }  // null: `path` is a folder

 private:
  ModelSource() = default;
  absl::Status ReadIndex();
  std::vector<std::string> Missing() const;

  std::string path_;
  std::string base_;
  std::optional<SingleFile> file_;
  std::vector<std::string> parts_;  // that the index names
};

}  // namespace fresco
