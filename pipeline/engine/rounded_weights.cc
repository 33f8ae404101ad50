#include "pipeline/engine/rounded_weights.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <map>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "pipeline/base/status.h"
#include "pipeline/checkpoint/dtype.h"
#include "pipeline/checkpoint/safetensors_writer.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {
namespace {

constexpr char kRunKey[] = "fresco_calibration_run";

DType TypeOf(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat8_e4m3fn) return DType::kF8E4M3;
  return tensor.scalar_type() == at::kChar ? DType::kI8 : DType::kF32;
}

// By name; views of rows, which lie one after the other.
std::map<std::string, at::Tensor> Tensors(const std::vector<RoundedLinear>& linears) {
  std::map<std::string, at::Tensor> tensors;
  for (const RoundedLinear& linear : linears) {
    int64_t row = 0;
    for (size_t i = 0; i < linear.layers.size(); ++i) {
      const int64_t rows = linear.outputs[i];
      tensors[linear.layers[i] + ".weight"] = linear.rounded.weight.codes.narrow(0, row, rows);
      tensors[linear.layers[i] + ".weight_scale"] = linear.rounded.weight.scale.narrow(0, row, rows);
      if (linear.rounded.bias.defined()) tensors[linear.layers[i] + ".bias"] = linear.rounded.bias.narrow(0, row, rows);
      if (linear.rounded.input_multiplier.defined())
        tensors[linear.layers[i] + ".input_multiplier"] = linear.rounded.input_multiplier;
      row += rows;
    }
  }
  return tensors;
}

}  // namespace

absl::Status WriteRoundedWeights(const std::vector<RoundedLinear>& linears, const std::string& run,
                                 const std::string& path) {
  const std::map<std::string, at::Tensor> tensors = Tensors(linears);
  std::vector<SafetensorsWriter::Tensor> described;
  for (const auto& [name, tensor] : tensors) described.push_back({name, TypeOf(tensor), tensor.sizes().vec()});
  FRESCO_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(path, std::move(described), {.metadata = {{kRunKey, run}}, .replace = true}));
  for (const SafetensorsWriter::Tensor& next : writer.tensors()) {
    const at::Tensor& tensor = tensors.at(next.name);
    FRESCO_RETURN_IF_ERROR(
        writer.Write({static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<size_t>(tensor.nbytes())}));
  }
  return writer.Finish();
}

bool IsRoundedBy(const std::string& run, const std::string& path) {
  const absl::StatusOr<WeightStore> store = WeightStore::OpenFile(path);
  if (!store.ok()) return false;
  const auto found = store->metadata().find(kRunKey);
  return found != store->metadata().end() && found->second == run;
}

}  // namespace fresco
