// Files with weights stored in the ways that are found in the wild.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "pipeline/checkpoint/stored_weight.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {

using Codes = StoredWeight::Codes;

inline constexpr int64_t kOut = 3, kIn = 2;
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                       kInfinity = std::numeric_limits<float>::infinity();

inline std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

struct FileTensor {
  std::string name;
  std::string dtype;
  std::string shape;
  std::string data;
};

inline FileTensor WeightOf(const std::string& name, const std::string& dtype, size_t element_bytes = 1,
                           const std::string& shape = "[3,2]", size_t elements = kOut * kIn) {
  return {name, dtype, shape, std::string(elements * element_bytes, '\x38')};
}

inline FileTensor F32(const std::string& name, const std::string& shape, const std::vector<float>& values) {
  return {name, "F32", shape, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))};
}

// For BF16 and F16, by bits.
inline FileTensor Bits16(const std::string& name, const std::string& dtype, const std::string& shape,
                         const std::vector<uint16_t>& values) {
  return {name, dtype, shape, std::string(reinterpret_cast<const char*>(values.data()), values.size() * 2)};
}

inline FileTensor Json(const std::string& name, const std::string& text) {
  return {name, "U8", "[" + std::to_string(text.size()) + "]", text};
}

inline FileTensor Marker(const std::string& dtype, int elements, const std::string& name = "scaled_fp8") {
  return {name, dtype, "[" + std::to_string(elements) + "]",
          std::string(static_cast<size_t>(elements) * (dtype == "F32" ? 4 : 1), '\0')};
}

// Of a safetensors file. One byte comes before them all, so that none is aligned.
inline std::string Bytes(const std::vector<FileTensor>& tensors) {
  std::string header = R"({"!":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})", data = "!";
  for (const FileTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.data;
    header += ",\"" + tensor.name + R"(":{"dtype":")" + tensor.dtype + R"(","shape":)" + tensor.shape +
              R"(,"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  return SafetensorsBytes(header + "}", data);
}

inline WeightStore Open(const TempFolder& folder, const std::vector<FileTensor>& tensors) {
  return WeightStore::OpenFile(folder.Write("model.safetensors", Bytes(tensors))).value();
}

inline QuantizationMetadata Metadata(const std::string& json) {
  return json.empty() ? QuantizationMetadata() : QuantizationMetadata::Parse(json, "model.safetensors").value();
}

inline const FileTensor kE4m3Says = Json("b.fc.comfy_quant", R"({"format":"float8_e4m3fn"})");
inline const FileTensor kInt8Says = Json("b.fc.comfy_quant", R"({"format": "int8_tensorwise"})");

}  // namespace fresco
