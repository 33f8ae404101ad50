#include "pipeline/engine/model_source.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_config.h"
#include "pipeline/models/mmdit_shape.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr char kIndex[] = "model_index.json";
constexpr char kDefaults[] = "fresco.yaml";
constexpr char kFileEnding[] = ".safetensors";

// What every model is made of, and what it has for the T5 encoder besides.
constexpr std::string_view kParts[] = {"transformer", "text_encoder", "text_encoder_2", "vae",
                                       "tokenizer",   "tokenizer_2",  "scheduler"};
constexpr std::string_view kT5Parts[] = {"text_encoder_3", "tokenizer_3"};

bool IsFolder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool IsThere(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string InFolder(const std::string& folder, std::string_view name) {
  return (fs::path(folder) / name).string();
}

bool HasAnyPart(const std::string& folder) {
  const auto has = [&](std::string_view name) { return IsThere(InFolder(folder, name)); };
  return has(kIndex) || std::any_of(std::begin(kParts), std::end(kParts), has) ||
         std::any_of(std::begin(kT5Parts), std::end(kT5Parts), has);
}

// The weight files right in a folder, sorted.
std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == kFileEnding) files.push_back(it->path().filename().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// A folder of which nothing would be used: most often its owner means the file in it.
absl::Status CheckIsModel(const std::string& folder) {
  if (HasAnyPart(folder)) return absl::OkStatus();
  const std::vector<std::string> files = FilesIn(folder);
  const std::string_view hint = files.empty()       ? ""
                                : files.size() == 1 ? "; to use the single file in it, give its path: "
                                                    : "; to use a single file in it, give its path, as ";
  return absl::NotFoundError(StrCat(folder, ": not a diffusers folder: there is no ", kIndex, ", no transformer, no ",
                                    "other part of a model", hint,
                                    files.empty() ? "" : PrintableName(InFolder(folder, files.front()))));
}

absl::Status CheckBase(const std::string& base) {
  if (base.empty() || IsFolder(base)) return absl::OkStatus();
  if (!IsThere(base)) return absl::NotFoundError(StrCat(base, ": no such folder"));
  return absl::InvalidArgumentError(StrCat(base, ": a base is a diffusers folder, and this is a file"));
}

}  // namespace

absl::StatusOr<ModelSource> ModelSource::Open(const std::string& path, const std::string& base) {
  FRESCO_RETURN_IF_ERROR(CheckBase(base));
  ModelSource source;
  source.path_ = path;
  source.base_ = base;
  if (IsFolder(path)) {
    FRESCO_RETURN_IF_ERROR(CheckIsModel(path));
  } else if (IsThere(path)) {
    FRESCO_ASSIGN_OR_RETURN(source.file_, SingleFile::Open(path));
  } else {
    return absl::NotFoundError(StrCat(path, ": no such file or folder"));
  }
  FRESCO_RETURN_IF_ERROR(source.ReadIndex());
  return source;
}

absl::Status ModelSource::ReadIndex() {
  std::string path = InFolder(path_, kIndex);
  if (!IsThere(path)) {
    if (base_.empty() && file_) return absl::OkStatus();
    if (!base_.empty()) path = InFolder(base_, kIndex);
  }
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig index, JsonConfig::Open(path));
  FRESCO_ASSIGN_OR_RETURN(const std::string pipeline, index.String("_class_name", std::nullopt));
  if (!absl::StartsWith(pipeline, "StableDiffusion3"))
    return index.Error("_class_name", StrCat("'", PrintableName(pipeline), "' is not a Stable Diffusion 3 pipeline"));
  for (const std::string& key : index.Keys()) {
    // A part is [library, class]; [null, null] or null where the model has none.
    const auto part = index.Strings(key, std::nullopt);
    if (part.ok()) parts_.push_back(key);
  }
  return absl::OkStatus();
}

bool ModelSource::Has(std::string_view part) const {
  // An index that forgets another part does not make a model without it.
  return !part.ends_with("_3") || InFile(part) || std::find(parts_.begin(), parts_.end(), part) != parts_.end();
}

std::vector<std::string> ModelSource::Missing() const {
  std::vector<std::string_view> needed(std::begin(kParts), std::end(kParts));
  if (Has("text_encoder_3")) needed.insert(needed.end(), std::begin(kT5Parts), std::end(kT5Parts));
  std::vector<std::string> missing;
  for (const std::string_view part : needed) {
    if (Find(part).ok() || (part == "transformer" && InFile(part))) continue;
    missing.push_back(StrCat(InFile(part) ? "the configuration of " : "", part));
  }
  return missing;
}

absl::Status ModelSource::CheckComplete() const {
  const std::vector<std::string> missing = Missing();
  if (missing.empty()) return absl::OkStatus();
  const std::string what = absl::StrJoin(missing, ", ");
  const std::string holds = file_ ? StrCat("holds ", absl::StrJoin(file_->Components(), ", "), " and ") : "";
  if (!base_.empty()) return absl::NotFoundError(StrCat(path_, ": ", holds, "lacks ", what, ", as does ", base_));
  return absl::NotFoundError(
      StrCat(path_, ": ", holds, "lacks ", what, ": set `base` to a diffusers folder that has it"));
}

absl::StatusOr<std::string> ModelSource::Find(std::string_view part) const {
  for (const std::string& folder : {path_, base_}) {
    if (!folder.empty() && IsFolder(InFolder(folder, part))) return InFolder(folder, part);
  }
  const std::string own =
      file_ ? StrCat(path_, ": a single file has no folder ", part) : StrCat(InFolder(path_, part), ": no such folder");
  return absl::NotFoundError(StrCat(own, base_.empty() ? "; `base` can supply it" : StrCat(", nor in ", base_)));
}

absl::StatusOr<WeightStore> ModelSource::OpenWeights(std::string_view part) const {
  if (InFile(part)) return file_->Component(part);
  FRESCO_ASSIGN_OR_RETURN(const std::string folder, Find(part));
  const auto weighted = std::find_if(std::begin(kWeightedParts), std::end(kWeightedParts),
                                     [&](const WeightedPart& known) { return known.name == part; });
  if (weighted == std::end(kWeightedParts)) return absl::NotFoundError(StrCat(folder, ": no weights belong there"));
  return WeightStore::Open(folder, weighted->stem);
}

absl::StatusOr<MmditConfig> ModelSource::TransformerConfig() const {
  const absl::StatusOr<std::string> folder = Find("transformer");
  if (!InFile("transformer")) {
    FRESCO_RETURN_IF_ERROR(folder.status());
    return ReadMmditConfig(*folder);
  }
  FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, file_->Component("transformer"));
  if (!folder.ok()) return InferMmditConfig(weights);
  FRESCO_ASSIGN_OR_RETURN(MmditConfig config, ReadMmditConfig(*folder));
  FRESCO_RETURN_IF_ERROR(CheckMmditConfig(config, *folder + "/config.json", weights));
  return config;
}

std::string ModelSource::DefaultsPath() const {
  const std::string own = file_ ? fs::path(path_).replace_extension(kDefaults).string() : InFolder(path_, kDefaults);
  return IsThere(own) || base_.empty() ? own : InFolder(base_, kDefaults);
}

}  // namespace fresco
