// Makes single files of the checkpoints in tests/reference, in the layout that diffusers' converters read: by their own
// table of names (tests/reference/make_single_file_names.py), so that Fresco's is held to it.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/checkpoint/weights.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {

struct MadeTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};
using MadeTensors = std::map<std::string, MadeTensor>;  // by name, which must need no escapes in JSON

// The bytes of a file that holds `tensors`; `metadata`, where given, is its "__metadata__" (JSON).
inline std::string SafetensorsBytes(const MadeTensors& tensors, const std::string& metadata = "") {
  std::string header = metadata.empty() ? "{" : "{\"__metadata__\":" + metadata, data;
  for (const auto& [name, tensor] : tensors) {
    std::string shape;
    for (const int64_t extent : tensor.shape) shape.append(shape.empty() ? "" : ",").append(std::to_string(extent));
    header.append(header.size() > 1 ? ",\"" : "\"").append(name).append(R"(":{"dtype":")").append(tensor.dtype);
    header.append(R"(","shape":[)").append(shape).append(R"(],"data_offsets":[)").append(std::to_string(data.size()));
    data += tensor.data;
    header.append(",").append(std::to_string(data.size())).append("]}");
  }
  return SafetensorsBytes(header + "}", data);
}

inline WeightStore OpenReferencePart(const std::string& checkpoint, const std::string& component) {
  const bool text = component.starts_with("text");
  return WeightStore::Open("tests/reference/checkpoints/" + checkpoint + "/" + component,
                           text ? kTransformersStem : kDiffusersStem)
      .value();
}

inline MadeTensor CopyOf(const WeightStore& store, const std::string& name) {
  const TensorView tensor = store.Find(name).value();
  return {std::string(DTypeName(tensor.dtype)), tensor.shape,
          std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes)};
}

// A component of a checkpoint under diffusers' names, behind `prefix`.
inline MadeTensors DiffusersTensors(const std::string& checkpoint, const std::string& component,
                                    const std::string& prefix) {
  const WeightStore store = OpenReferencePart(checkpoint, component);
  MadeTensors tensors;
  for (const std::string& name : store.Names()) tensors[prefix + name] = CopyOf(store, name);
  return tensors;
}

// A line of the table.
struct OriginalName {
  std::string name;      // diffusers'
  std::string original;  // without prefix
  std::string rows;      // "all", "0/3", "1/2+0/2"
  bool pointwise = false;
};

inline std::vector<OriginalName> OriginalNames(const std::string& checkpoint, const std::string& component) {
  std::ifstream file("tests/reference/single_file_names.txt");
  const std::string section = "[" + checkpoint + " " + component + " ";
  std::vector<OriginalName> names;
  bool wanted = false;
  for (std::string line; std::getline(file, line);) {
    if (line.front() == '[') {
      wanted = line.starts_with(section);
    } else if (wanted) {
      std::istringstream words(line);
      OriginalName name;
      std::string pointwise;
      words >> name.name >> name.original >> name.rows >> pointwise;
      name.pointwise = pointwise == "1x1";
      names.push_back(name);
    }
  }
  if (names.empty()) throw std::runtime_error("no names of " + checkpoint + "'s " + component);
  return names;
}

// A component of a checkpoint in the original layout, behind `prefix`.
inline MadeTensors OriginalTensors(const std::string& checkpoint, const std::string& component,
                                   const std::string& prefix) {
  const WeightStore store = OpenReferencePart(checkpoint, component);
  MadeTensors tensors;
  for (const OriginalName& name : OriginalNames(checkpoint, component)) {
    MadeTensor part = CopyOf(store, name.name);
    MadeTensor& whole = tensors[prefix + name.original];
    if (name.rows == "1/2+0/2") {
      part.data = part.data.substr(part.data.size() / 2) + part.data.substr(0, part.data.size() / 2);
    }
    if (name.pointwise) part.shape.insert(part.shape.end(), {1, 1});
    if (name.rows.ends_with("/3")) {  // the parts may come in any order
      const size_t third = part.data.size(), at = third * static_cast<size_t>(name.rows.front() - '0');
      part.data = std::move(whole.data);
      part.data.resize(3 * third);
      part.data.replace(at, third, CopyOf(store, name.name).data);
      part.shape.front() *= 3;
    }
    whole = std::move(part);
  }
  return tensors;
}

// The projection that a CLIP-L in the original layout is understood to have, in bf16, as these checkpoints are.
inline MadeTensor IdentityProjection(int64_t width) {
  MadeTensor identity{"BF16", {width, width}, std::string(static_cast<size_t>(2 * width * width), '\0')};
  for (int64_t i = 0; i < width; ++i) identity.data.replace(static_cast<size_t>(2 * i * (width + 1)), 2, "\x80\x3f");
  return identity;
}

}  // namespace fresco
