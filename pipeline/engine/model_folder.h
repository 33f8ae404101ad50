// Where the parts of a model lie: a diffusers folder, and another that supplies what it lacks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

// Immutable once open.
class ModelFolder {
 public:
  // Reads model_index.json of `path`, or of `base` where `path` has none. `base` may be empty. NOT_FOUND for a folder
  // or an index that is not there, INVALID_ARGUMENT for an index of another kind of pipeline.
  static absl::StatusOr<ModelFolder> Open(const std::string& path, const std::string& base);

  // False where the index says that the model has no such part (null) or does not name it, which only text_encoder_3
  // and tokenizer_3 can be: all others are parts of every model.
  bool Has(std::string_view part) const;

  // The part's folder: "transformer" → "/models/a/transformer", or the base's. NOT_FOUND where neither has it.
  absl::StatusOr<std::string> Find(std::string_view part) const;

  const std::string& path() const { return path_; }

 private:
  ModelFolder() = default;

  std::string path_;
  std::string base_;
  std::vector<std::string> parts_;  // that the index names
};

}  // namespace fresco
