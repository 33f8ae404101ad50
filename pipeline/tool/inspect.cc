#include "pipeline/tool/inspect.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/engine/architecture.h"
#include "pipeline/engine/model_folder.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/models/mmdit_config.h"
#include "pipeline/tool/json_print.h"

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
  int64_t parameters = 0;
  int64_t bytes = 0;
};

absl::StatusOr<Part> ReadPart(const ModelFolder& folder, const WeightedPart& weighted) {
  Part part;
  part.name = weighted.name;
  FRESCO_ASSIGN_OR_RETURN(const std::string dir, folder.Find(weighted.name));
  FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, WeightStore::Open(dir, weighted.stem));
  part.path = weights.path();
  part.bytes = weights.total_bytes();
  for (const std::string& name : weights.Names()) {
    const SafetensorsFile::Entry& entry = *weights.FindEntry(name);
    part.parameters += entry.numel();
    part.tensors.push_back({StrCat(part.name, "/", name), entry});
  }
  return part;
}

Json ToJson(const std::string& architecture, const std::vector<Part>& parts, const std::string& device) {
  Json report = {{"architecture", architecture}, {"parts", Json::array()}, {"tensors", Json::array()}};
  for (const Part& part : parts) {
    report["parts"].push_back(
        {{"name", part.name}, {"path", part.path}, {"parameters", part.parameters}, {"bytes", part.bytes}});
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

void PrintTable(const std::string& architecture, const std::vector<Part>& parts) {
  std::printf("architecture %s\n\n", architecture.c_str());
  for (const Part& part : parts) {
    for (const Tensor& tensor : part.tensors) {
      const auto& [dtype, shape, begin, end] = tensor.entry;
      std::printf("%-8s %-20s %12zu  %s\n", PrintableName(dtype).c_str(), ShapeString(shape).c_str(), end - begin,
                  PrintableName(tensor.name).c_str());
    }
  }
  std::printf("\n%-16s %8s %14s %12s  %s\n", "part", "tensors", "parameters", "MiB", "file");
  for (const Part& part : parts) {
    std::printf("%-16s %8zu %14lld %12.1f  %s\n", part.name.c_str(), part.tensors.size(),
                static_cast<long long>(part.parameters), static_cast<double>(part.bytes) / (1 << 20),
                part.path.c_str());
  }
}

}  // namespace

absl::Status RunInspect(const ModelOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.model, options.base));
  FRESCO_ASSIGN_OR_RETURN(const std::string transformer, folder.Find("transformer"));
  FRESCO_ASSIGN_OR_RETURN(const MmditConfig config, ReadMmditConfig(transformer));
  std::vector<Part> parts;
  for (const WeightedPart& weighted : kWeightedParts) {
    if (!folder.Has(weighted.name)) continue;
    FRESCO_ASSIGN_OR_RETURN(Part part, ReadPart(folder, weighted));
    parts.push_back(std::move(part));
  }
  if (options.json) {
    PrintJson(ToJson(ArchitectureName(config), parts, options.device));
  } else {
    PrintTable(ArchitectureName(config), parts);
  }
  return absl::OkStatus();
}

}  // namespace fresco
