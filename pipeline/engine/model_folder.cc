#include "pipeline/engine/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_config.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr char kIndex[] = "model_index.json";

bool IsFolder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool IsThere(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

absl::Status CheckFolder(const std::string& path) {
  if (path.empty() || IsFolder(path)) return absl::OkStatus();
  if (!IsThere(path)) return absl::NotFoundError(StrCat(path, ": no such folder"));
  return absl::UnimplementedError(
      StrCat(path, ": single-file checkpoints are not supported yet; give a diffusers folder"));
}

absl::StatusOr<JsonConfig> OpenIndex(const std::string& path, const std::string& base) {
  const fs::path own = fs::path(path) / kIndex;
  if (IsThere(own) || base.empty()) return JsonConfig::Open(own.string());
  return JsonConfig::Open((fs::path(base) / kIndex).string());
}

}  // namespace

absl::StatusOr<ModelFolder> ModelFolder::Open(const std::string& path, const std::string& base) {
  FRESCO_RETURN_IF_ERROR(CheckFolder(path));
  FRESCO_RETURN_IF_ERROR(CheckFolder(base));
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig index, OpenIndex(path, base));
  FRESCO_ASSIGN_OR_RETURN(const std::string pipeline, index.String("_class_name", std::nullopt));
  if (!absl::StartsWith(pipeline, "StableDiffusion3"))
    return index.Error("_class_name", StrCat("'", PrintableName(pipeline), "' is not a Stable Diffusion 3 pipeline"));
  ModelFolder folder;
  folder.path_ = path;
  folder.base_ = base;
  for (const std::string& key : index.Keys()) {
    // A part is [library, class]; [null, null] or null where the model has none.
    const auto part = index.Strings(key, std::nullopt);
    if (part.ok()) folder.parts_.push_back(key);
  }
  return folder;
}

bool ModelFolder::Has(std::string_view part) const {
  // Only the third text encoder may be absent: an index that forgets another part does not make a model without it.
  return !part.ends_with("_3") || std::find(parts_.begin(), parts_.end(), part) != parts_.end();
}

absl::StatusOr<std::string> ModelFolder::Find(std::string_view part) const {
  for (const std::string& folder : {path_, base_}) {
    const fs::path found = fs::path(folder) / part;
    if (!folder.empty() && IsFolder(found)) return found.string();
  }
  return absl::NotFoundError(
      StrCat((fs::path(path_) / part).string(), ": no such folder", base_.empty() ? "" : StrCat(", nor in ", base_)));
}

}  // namespace fresco
