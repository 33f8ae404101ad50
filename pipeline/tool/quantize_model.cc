#include "pipeline/tool/quantize_model.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/safetensors_writer.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/engine/model_defaults.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/tool/model_defaults_text.h"
#include "pipeline/tool/quantize_calibration.h"
#include "pipeline/tool/quantized_part.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr char kIndex[] = "model_index.json";
constexpr char kDefaults[] = "fresco.yaml";
constexpr size_t kMaxDefaultsBytes = 64 << 10;
constexpr int kMaxLeftovers = 1000;
// Parts without weights, which are copied.
constexpr std::string_view kCopiedParts[] = {"scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"};

// A part of the model, opened.
struct Part {
  WeightedPart kind;
  std::string folder;
  WeightStore weights;
  LayerTable table;
  int64_t source_bytes = 0;  // of the weights, before rounded ones took their place
};

absl::Status FileError(const fs::path& path, const std::error_code& error) {
  return absl::ErrnoToStatus(error.value(), ToAbsl(path.string()));
}

LayerTable TableOf(std::string_view part, const QuantizeOptions& options,
                   const std::optional<UsedCalibration>& calibration) {
  LayerTable table;
  if (part == "transformer") table = LayerTable::ForTransformer(options.precision);
  if (part == "text_encoder_3") table = LayerTable::ForT5(options.precision);
  if (table.rules().empty()) return table;  // the others stay high, whatever the rules say
  if (calibration) table.Override(calibration->rules);
  table.Override(options.layers);
  return table;
}

absl::StatusOr<std::vector<Part>> OpenParts(const ModelSource& source, const QuantizeOptions& options,
                                            const std::optional<UsedCalibration>& calibration, bool transformer_alone) {
  std::vector<Part> parts;
  for (const WeightedPart& kind : kWeightedParts) {
    if (!source.Has(kind.name)) continue;
    if (kind.name != "transformer" && transformer_alone) continue;
    std::string dir;
    if (!transformer_alone) {
      FRESCO_ASSIGN_OR_RETURN(dir, source.Find(kind.name));
    }
    FRESCO_ASSIGN_OR_RETURN(WeightStore weights, source.OpenWeights(kind.name));
    const int64_t bytes = weights.total_bytes();
    parts.push_back({kind, std::move(dir), std::move(weights), TableOf(kind.name, options, calibration), bytes});
  }
  return parts;
}

// A pattern that is misspelt would leave the layer as it is, and nobody would know.
absl::Status CheckRules(const std::vector<Part>& parts, const std::vector<LayerTable::Rule>& rules) {
  for (const LayerTable::Rule& rule : rules) {
    const bool known = std::any_of(parts.begin(), parts.end(), [&](const Part& part) {
      const std::vector<std::string> linears = LinearsOf(part.weights);
      return !part.table.rules().empty() && std::any_of(linears.begin(), linears.end(), [&](const std::string& linear) {
        return MatchesPattern(rule.pattern, linear);
      });
    });
    if (!known)
      return absl::InvalidArgumentError(StrCat("layer '", PrintableName(rule.pattern), "': no linear matches"));
  }
  return absl::OkStatus();
}

// transformers and diffusers ask for "format". What the source said of its layers is in the tensors now.
std::map<std::string, std::string> MetadataOf(const WeightStore& weights) {
  std::map<std::string, std::string> metadata = weights.metadata();
  metadata.erase(std::string(kQuantizationMetadataKey));
  metadata["format"] = "pt";
  return metadata;
}

// Writes one file of planned tensors; returns the bytes of their data.
absl::StatusOr<int64_t> WriteFile(const std::string& path, const std::vector<PlannedTensor>& planned,
                                  const SafetensorsWriter::Options& options,
                                  const std::function<void(uint64_t done, uint64_t of)>& progress) {
  std::map<std::string, const PlannedTensor*> by_name;
  std::vector<SafetensorsWriter::Tensor> headers;
  uint64_t total = 0, done = 0;
  for (const PlannedTensor& tensor : planned) {
    by_name[tensor.header.name] = &tensor;
    headers.push_back(tensor.header);
    total += tensor.header.bytes();
  }
  FRESCO_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, std::move(headers), options));
  for (const SafetensorsWriter::Tensor& tensor : writer.tensors()) {
    FRESCO_RETURN_IF_ERROR(by_name.at(tensor.name)->write(&writer));
    done += tensor.bytes();
    progress(done, total);
  }
  FRESCO_RETURN_IF_ERROR(writer.Finish());
  return static_cast<int64_t>(total);
}

// A folder that becomes `path` when it is complete, and is gone otherwise.
class NewFolder {
 public:
  static absl::StatusOr<NewFolder> Create(const fs::path& path) {
    std::error_code error;
    if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
    if (error) return FileError(path.parent_path(), error);
    // Never what another process has left: it would become part of the model.
    fs::path unfinished = path.string() + StrCat(".part-", getpid());
    for (int other = 1; !fs::create_directory(unfinished, error); ++other) {
      if (!error && other > kMaxLeftovers) error = std::make_error_code(std::errc::file_exists);
      if (error) return FileError(unfinished, error);
      unfinished = path.string() + StrCat(".part-", getpid(), "-", other);
    }
    return NewFolder(path, std::move(unfinished));
  }
  NewFolder(NewFolder&& other) noexcept
      : target_(std::move(other.target_)), path_(std::exchange(other.path_, fs::path())) {}
  NewFolder& operator=(NewFolder&&) = delete;
  ~NewFolder() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }

  const fs::path& path() const { return path_; }

  // Whatever is at the target goes.
  absl::Status Finish() {
    std::error_code error;
    const fs::path old = path_.string() + ".old";
    const bool replaces = fs::exists(target_, error);
    if (replaces) fs::rename(target_, old, error);
    if (error) return FileError(target_, error);
    fs::rename(path_, target_, error);
    if (error) {
      const absl::Status failed = FileError(target_, error);
      if (replaces) fs::rename(old, target_, error);
      return failed;
    }
    path_.clear();
    if (replaces) fs::remove_all(old, error);
    return error ? FileError(old, error) : absl::OkStatus();
  }

 private:
  NewFolder(fs::path target, fs::path unfinished) : target_(std::move(target)), path_(std::move(unfinished)) {}

  fs::path target_;
  fs::path path_;  // empty once it is done with
};

absl::Status CopyFile(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, error);
  return error ? FileError(to, error) : absl::OkStatus();
}

// The files of a folder of which `wanted` says so; not those of its folders.
template <typename Wanted>
absl::Status CopyFiles(const fs::path& from, const fs::path& to, const Wanted& wanted) {
  std::error_code error;
  fs::create_directories(to, error);
  if (error) return FileError(to, error);
  for (fs::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (fs::is_regular_file(it->path()) && wanted(name)) FRESCO_RETURN_IF_ERROR(CopyFile(it->path(), to / name));
  }
  return error ? FileError(from, error) : absl::OkStatus();
}

// Configs: all JSON but that which says where weights lie.
bool IsConfig(std::string_view name) {
  return name.ends_with(".json") && name.find(".index.") == std::string_view::npos;
}

// What a model folder has beside its parts: its index (the base's, where it has none), its terms.
absl::Status CopyModelFiles(const QuantizeOptions& options, const ModelSource& source, const fs::path& to) {
  const auto of_the_model = [](std::string_view name) {
    return name == kIndex || name.starts_with("README") || name.starts_with("LICENSE");
  };
  if (source.file() == nullptr) FRESCO_RETURN_IF_ERROR(CopyFiles(options.model, to, of_the_model));
  if (fs::exists(to / kIndex)) return absl::OkStatus();
  return CopyFile(fs::path(options.base) / kIndex, to / kIndex);
}

// The model's own defaults, if there are any, and the rules.
absl::Status WriteDefaults(const QuantizeOptions& options, const ModelSource& source, const fs::path& to) {
  absl::StatusOr<std::string> text = ReadTextFile(source.DefaultsPath(), kMaxDefaultsBytes);
  if (absl::IsNotFound(text.status())) text = "";
  if (!text.ok()) return text.status();
  const std::string with_layers = WithLayers(*text, options.layers);
  if (with_layers.empty()) return absl::OkStatus();
  std::ofstream file(to / kDefaults, std::ios::binary);
  file << with_layers;
  return file.flush() ? absl::OkStatus() : absl::UnavailableError(StrCat((to / kDefaults).string(), ": not written"));
}

absl::Status WritePart(const Part& part, const fs::path& folder, const QuantizeProgress& progress,
                       QuantizeReport* report) {
  FRESCO_ASSIGN_OR_RETURN(const PlannedPart planned, PlanFolderPart(part.weights, part.table));
  FRESCO_RETURN_IF_ERROR(CopyFiles(part.folder, folder, IsConfig));
  const std::string path = (folder / StrCat(part.kind.stem, ".safetensors")).string();
  FRESCO_ASSIGN_OR_RETURN(const int64_t bytes,
                          WriteFile(path, planned.tensors, {.metadata = MetadataOf(part.weights), .replace = false},
                                    [&](uint64_t done, uint64_t of) { progress(part.kind.name, done, of); }));
  report->layers += planned.layers;
  report->bytes += bytes;
  report->source_bytes += part.source_bytes;
  return absl::OkStatus();
}

absl::StatusOr<QuantizeReport> WriteFolder(const QuantizeOptions& options, const ModelSource& model,
                                           const std::vector<Part>& parts,
                                           const std::optional<UsedCalibration>& calibration,
                                           const QuantizeProgress& progress) {
  FRESCO_ASSIGN_OR_RETURN(NewFolder folder, NewFolder::Create(options.output));
  QuantizeReport report;
  FRESCO_RETURN_IF_ERROR(CopyModelFiles(options, model, folder.path()));
  FRESCO_RETURN_IF_ERROR(WriteDefaults(options, model, folder.path()));
  for (const std::string_view part : kCopiedParts) {
    if (part == "tokenizer_3" && !model.Has("text_encoder_3")) continue;
    FRESCO_ASSIGN_OR_RETURN(const std::string from, model.Find(part));
    FRESCO_RETURN_IF_ERROR(CopyFiles(from, folder.path() / part, [](std::string_view) { return true; }));
  }
  for (const Part& part : parts) {
    FRESCO_RETURN_IF_ERROR(WritePart(part, folder.path() / part.kind.name, progress, &report));
  }
  if (calibration) FRESCO_RETURN_IF_ERROR(WriteOwnCalibration(*calibration, folder.path().string()));
  FRESCO_RETURN_IF_ERROR(folder.Finish());
  return report;
}

absl::StatusOr<QuantizeReport> WriteSingleFile(const QuantizeOptions& options, const std::vector<Part>& parts,
                                               const QuantizeProgress& progress) {
  QuantizeReport report;
  std::vector<PlannedTensor> tensors;
  for (const Part& part : parts) {
    FRESCO_ASSIGN_OR_RETURN(PlannedPart planned, PlanSingleFilePart(part.weights, part.kind.name, part.table));
    report.layers += planned.layers;
    report.source_bytes += part.source_bytes;
    std::move(planned.tensors.begin(), planned.tensors.end(), std::back_inserter(tensors));
  }
  FRESCO_ASSIGN_OR_RETURN(report.bytes,
                          WriteFile(options.output, tensors, {.metadata = {{"format", "pt"}}, .replace = options.force},
                                    [&](uint64_t done, uint64_t of) { progress("file", done, of); }));
  return report;
}

std::string_view WithoutSlash(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return path;
}

bool IsFile(std::string_view output) {
  return output.ends_with(".safetensors");
}

// Whether a path is in a folder, or is the folder; links are followed.
bool IsIn(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(path, error), outer = fs::weakly_canonical(folder, error);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

}  // namespace

absl::Status CheckOutput(const QuantizeOptions& options) {
  std::error_code error;
  const fs::path output = WithoutSlash(options.output);
  const bool file = IsFile(output.native());
  if (output.empty()) return absl::InvalidArgumentError("the output has no name");
  if (!fs::exists(output, error)) return absl::OkStatus();
  for (const std::string& source : {options.model, options.base, options.calibration}) {
    if (source.empty()) continue;
    if (fs::equivalent(source, output, error))
      return absl::InvalidArgumentError(StrCat(options.output, ": is what is read from"));
    if (IsIn(source, output))
      return absl::InvalidArgumentError(StrCat(options.output, ": holds what is read from, ", source));
    if (file && fs::is_directory(source, error) && IsIn(output, source))
      return absl::InvalidArgumentError(StrCat(options.output, ": is part of what is read from, ", source));
  }
  if (fs::is_directory(output, error) == file)
    return absl::InvalidArgumentError(StrCat(options.output, file ? ": is a folder" : ": is not a folder"));
  if (!options.force) return absl::AlreadyExistsError(StrCat(options.output, ": is there already"));
  if (!file && !fs::exists(output / kIndex, error))
    return absl::InvalidArgumentError(StrCat(options.output, ": holds no model, and is not replaced by one"));
  return absl::OkStatus();
}

absl::StatusOr<QuantizeReport> QuantizeModel(const QuantizeOptions& given, const QuantizeProgress& progress) {
  QuantizeOptions options = given;
  options.output = WithoutSlash(given.output);
  const bool file = IsFile(options.output);
  FRESCO_RETURN_IF_ERROR(CheckOutput(options));
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(options.model, options.base));
  FRESCO_ASSIGN_OR_RETURN(const ModelDefaults defaults, ReadModelDefaults(source.DefaultsPath()));
  if (!file) FRESCO_RETURN_IF_ERROR(source.CheckComplete());
  options.layers.insert(options.layers.begin(), defaults.layers.begin(), defaults.layers.end());
  FRESCO_ASSIGN_OR_RETURN(const std::optional<UsedCalibration> calibration,
                          FindCalibration(options.calibration, source, options.precision));
  FRESCO_ASSIGN_OR_RETURN(std::vector<Part> parts,
                          OpenParts(source, options, calibration, file && !options.with_encoders));
  FRESCO_RETURN_IF_ERROR(CheckRules(parts, options.layers));
  if (file) return WriteSingleFile(options, parts, progress);
  for (Part& part : parts) {
    if (calibration && part.kind.name == "transformer")
      part.weights = WithRounded(*calibration, part.weights, part.table);
  }
  return WriteFolder(options, source, parts, calibration, progress);
}

}  // namespace fresco
