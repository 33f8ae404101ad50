#include "pipeline/tool/inspect.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/checkpoint/single_file.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/engine/architecture.h"
#include "pipeline/engine/load_precision.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/models/mmdit_config.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/module_table.h"
#include "pipeline/tool/module_tree.h"
#include "pipeline/tool/modules_page.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

struct Tensor {
  std::string name;
  SafetensorsFile::Entry entry;
};

struct Part {
  std::string name;
  std::string path;
  std::vector<Tensor> tensors;
  StoredWeightSummary stored;
  Module modules;  // of what is not used: the part alone

  int64_t parameters() const {
    int64_t count = 0;
    for (const Tensor& tensor : tensors) count += tensor.entry.numel();
    return count;
  }
  int64_t bytes() const {
    uint64_t count = 0;
    for (const Tensor& tensor : tensors) count += tensor.entry.bytes();
    return static_cast<int64_t>(count);
  }
};

struct Inspected {
  std::string architecture;
  Precision precision;
  std::vector<Part> parts;
};

// What is wrong with the metadata is wrong with every weight.
StoredWeightSummary Summarize(const WeightStore& weights) {
  const auto text = weights.metadata().find(std::string(kQuantizationMetadataKey));
  if (text == weights.metadata().end()) return SummarizeStoredWeights(weights, {});
  const auto metadata = QuantizationMetadata::Parse(text->second, weights.path());
  if (metadata.ok()) return SummarizeStoredWeights(weights, *metadata);
  StoredWeightSummary summary = SummarizeStoredWeights(weights, {});
  for (const auto& [source, count] : summary.by_source) summary.unreadable += count;
  summary.by_source.clear();
  summary.first_error = metadata.status();
  return summary;
}

// What the weight of a layer, or of an embedding or a convolution, is kept and computed in.
std::string ComputedIn(const Precision& precision, std::string_view part, const WeightStore& weights,
                       const std::string& layer) {
  const SafetensorsFile::Entry* const weight = weights.FindEntry(StrCat(layer, ".weight"));
  if (weight == nullptr || weight->shape.size() < 2) return "";
  LinearScheme scheme = LinearScheme::kHigh;
  if (part == "transformer") scheme = precision.transformer.Of(layer);
  if (part == "text_encoder_3") scheme = precision.t5.Of(layer);
  return std::string(scheme == LinearScheme::kHigh ? precision.type_name() : SchemeName(scheme));
}

// The tensors of a folder's part are called "PART/NAME", those of a single file as they are there.
absl::StatusOr<Part> ReadPart(const ModelSource& source, const Precision& precision, std::string_view name) {
  FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, source.OpenWeights(name));
  Part part{std::string(name), weights.path(), {}, Summarize(weights), {}};
  part.modules = ModuleTree(part.name, weights, part.stored,
                            [&](const std::string& layer) { return ComputedIn(precision, name, weights, layer); });
  if (source.InFile(name)) {
    const auto& entries = source.file()->file().entries();
    for (const std::string& stored : source.file()->StoredNames(name))
      part.tensors.push_back({stored, entries.find(stored)->second});
    return part;
  }
  for (const std::string& tensor : weights.Names())
    part.tensors.push_back({StrCat(name, "/", tensor), *weights.FindEntry(tensor)});
  return part;
}

// What a single file holds besides.
Part ReadRest(const SingleFile& file) {
  std::set<std::string> used;
  for (const std::string& component : file.Components()) {
    const std::vector<std::string> names = file.StoredNames(component);
    used.insert(names.begin(), names.end());
  }
  Part rest{"(not used)", file.path(), {}, {}, {}};
  rest.modules.name = rest.name;
  for (const auto& [name, entry] : file.file().entries()) {
    if (used.contains(name)) continue;
    rest.tensors.push_back({name, entry});
    ++rest.modules.tensors;
    rest.modules.dtypes[entry.dtype_name] += static_cast<int64_t>(entry.bytes());
  }
  rest.modules.parameters = rest.parameters();
  rest.modules.bytes = rest.bytes();
  return rest;
}

absl::StatusOr<std::vector<Part>> ReadParts(const ModelSource& source, const Precision& precision) {
  std::vector<Part> parts;
  for (const WeightedPart& weighted : kWeightedParts) {
    // Of a file, what there is is listed, whether it makes a model or not.
    const bool there = source.InFile(weighted.name) || source.Find(weighted.name).ok();
    if (!source.Has(weighted.name) || (source.file() != nullptr && !there)) continue;
    FRESCO_ASSIGN_OR_RETURN(Part part, ReadPart(source, precision, weighted.name));
    parts.push_back(std::move(part));
  }
  if (source.file() == nullptr) return parts;
  if (Part rest = ReadRest(*source.file()); !rest.tensors.empty()) parts.push_back(std::move(rest));
  return parts;
}

absl::StatusOr<std::string> Architecture(const ModelSource& source) {
  if (source.file() != nullptr && !source.InFile("transformer") && !source.Find("transformer").ok())
    return "none (no transformer)";
  FRESCO_ASSIGN_OR_RETURN(const MmditConfig config, source.TransformerConfig());
  return ArchitectureName(config);
}

Json ToJson(const Part& part) {
  Json json = {{"name", part.name},
               {"path", part.path},
               {"parameters", part.parameters()},
               {"bytes", part.bytes()},
               {"stored", Json::object()}};
  for (const auto& [source, count] : part.stored.by_source) json["stored"][source] = count;
  if (part.stored.unreadable == 0) return json;
  json["unreadable"] = part.stored.unreadable;
  json["first_error"] = std::string(part.stored.first_error.message());
  return json;
}

std::vector<Module> ModulesOf(const std::vector<Part>& parts) {
  std::vector<Module> modules;
  for (const Part& part : parts) modules.push_back(part.modules);
  return modules;
}

Json ToJson(const Inspected& inspected, const std::string& device) {
  Json report = {{"architecture", inspected.architecture},
                 {"precision", inspected.precision.name},
                 {"parts", Json::array()},
                 {"modules", ModulesJson(ModulesOf(inspected.parts), device)},
                 {"tensors", Json::array()}};
  for (const Part& part : inspected.parts) {
    report["parts"].push_back(ToJson(part));
    for (const Tensor& tensor : part.tensors) {
      report["tensors"].push_back({{"name", tensor.name},
                                   {"dtype", tensor.entry.dtype_name},
                                   {"shape", tensor.entry.shape},
                                   {"bytes", tensor.entry.bytes()},
                                   {"device", device}});
    }
  }
  return report;
}

// "96 comfy_quant float8_e4m3fn, 5 plain"
std::string Shown(const StoredWeightSummary& stored) {
  std::vector<std::string> kinds;
  for (const auto& [source, count] : stored.by_source) kinds.push_back(StrCat(count, " ", PrintableName(source)));
  if (stored.unreadable > 0)
    kinds.push_back(StrCat(stored.unreadable, " not readable (the first: ", stored.first_error.message(), ")"));
  return absl::StrJoin(kinds, ", ");
}

void PrintTensors(const std::vector<Part>& parts) {
  for (const Part& part : parts) {
    for (const Tensor& tensor : part.tensors) {
      const auto& [dtype, shape, begin, end] = tensor.entry;
      std::printf("%-8s %-20s %12zu  %s\n", PrintableName(dtype).c_str(), ShapeString(shape).c_str(), end - begin,
                  PrintableName(tensor.name).c_str());
    }
  }
}

void PrintParts(const std::vector<Part>& parts) {
  std::printf("\n%-16s %8s %14s %12s  %s\n", "part", "tensors", "parameters", "MiB", "file");
  for (const Part& part : parts) {
    std::printf("%-16s %8zu %14lld %12.1f  %s\n", part.name.c_str(), part.tensors.size(),
                static_cast<long long>(part.parameters()), static_cast<double>(part.bytes()) / (1 << 20),
                part.path.c_str());
  }
  std::printf("\n%-16s linears and embeddings, by how they are stored\n", "part");
  for (const Part& part : parts) {
    if (const std::string stored = Shown(part.stored); !stored.empty())
      std::printf("%-16s %s\n", part.name.c_str(), stored.c_str());
  }
}

std::string Summary(const Inspected& inspected, const std::string& device) {
  return StrCat("architecture ", inspected.architecture, ", computed in ", inspected.precision.name, " on ", device);
}

// `device` need not be there: then what it can compute is not known, and is taken to be what a GPU without FP8 does.
absl::StatusOr<Inspected> Inspect(const ModelOptions& options) {
  return CatchTorch(options.model, [&]() -> absl::StatusOr<Inspected> {
    FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(options.model, options.base));
    FRESCO_ASSIGN_OR_RETURN(LoadPrecision decided,
                            DecidePrecision(LoadOptionsOf(options), source, at::Device(options.device)));
    Inspected inspected;
    FRESCO_ASSIGN_OR_RETURN(inspected.architecture, Architecture(source));
    FRESCO_ASSIGN_OR_RETURN(inspected.parts, ReadParts(source, decided.precision));
    inspected.precision = std::move(decided.precision);
    return inspected;
  });
}

}  // namespace

absl::Status RunInspect(const ModelOptions& options, const InspectOptions& inspect) {
  FRESCO_ASSIGN_OR_RETURN(const Inspected inspected, Inspect(options));
  std::vector<Module> folded = ModulesOf(inspected.parts);
  for (Module& part : folded) FoldAlike(&part);
  if (!inspect.html.empty())
    FRESCO_RETURN_IF_ERROR(
        WriteFileWhole(inspect.html, ModulesPage(options.model, Summary(inspected, options.device), folded)));
  if (options.json) {
    PrintJson(ToJson(inspected, options.device));
    return absl::OkStatus();
  }
  std::printf("%s\n\n", Summary(inspected, options.device).c_str());
  if (inspect.tensors) {
    PrintTensors(inspected.parts);
  } else {
    PrintModules(folded, inspect.depth);
  }
  PrintParts(inspected.parts);
  return absl::OkStatus();
}

}  // namespace fresco
