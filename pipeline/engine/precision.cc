#include "pipeline/engine/precision.h"

#include <optional>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/processor.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/cuda_runtime.h"

namespace fresco {
namespace {

constexpr std::string_view kNoFp8 = "this GPU does not compute FP8, so that only the weights are in it";

// _scaled_mm's: Ada, and Hopper and later.
constexpr int kFp8Capability = 89;

// A GPU that is not there is planned for (memory_plan.h) as one that does.
bool ComputesFp8(const at::Device& device) {
  if (!device.is_cuda()) return false;
  const int capability = CudaCapability(device.index());
  return capability == 0 || capability >= kFp8Capability;
}

struct FastType {
  at::ScalarType type;
  std::string_view name;
  std::string_view why;
};

FastType FastTypeOf(const at::Device& device) {
  if (device.is_cuda()) return {at::kBFloat16, "bf16", "which this GPU computes faster than fp32"};
  if (ProcessorHasAvx512Bf16())
    return {at::kBFloat16, "bf16", "which this processor multiplies in hardware (AVX512_BF16)"};
  return {at::kFloat, "fp32", "as this processor has no fast bf16 (AVX512_BF16)"};
}

std::optional<at::ScalarType> PlainType(std::string_view name) {
  if (name == "fp32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  if (name == "fp16") return at::kHalf;
  return std::nullopt;
}

Precision Quantised(std::string_view name, const FastType& fast, std::string note) {
  return {fast.type, std::string(name), std::move(note), {}, LayerTable::ForTransformer(name), LayerTable::ForT5(name)};
}

// The precision as such, without exceptions.
absl::StatusOr<Precision> Choose(std::string_view asked, const at::Device& device) {
  const FastType fast = FastTypeOf(device);
  if (const std::optional<at::ScalarType> type = PlainType(asked))
    return Precision{*type, std::string(asked), "", {}, {}, {}};
  if (asked == "auto") {
    if (ComputesFp8(device)) return Quantised("fp8", fast, "auto: fp8, which this GPU computes in hardware");
    return Precision{fast.type, std::string(fast.name), StrCat("auto: ", fast.name, ", ", fast.why), {}, {}, {}};
  }
  if (asked == "fp8") {
    if (ComputesFp8(device)) return Quantised(asked, fast, "");
    if (device.is_cuda()) return Quantised("fp8-weight-only", fast, StrCat("fp8: ", kNoFp8));
    return Quantised(asked, fast,
                     StrCat("fp8: emulated, as a CPU does not compute FP8: the codes and scales are those of the ",
                            "hardware, the products are computed in fp32, all else in ", fast.name));
  }
  if (asked == "fp8-weight-only" || asked == "int8")
    return Quantised(asked, fast, StrCat(asked, ": all else is in ", fast.name, ", ", fast.why));
  return absl::InvalidArgumentError(StrCat("precision '", PrintableName(asked),
                                           "' is unknown: it is fp32, bf16, fp16, fp8, fp8-weight-only, int8 or auto"));
}

}  // namespace

std::string_view Precision::type_name() const {
  return type == at::kFloat ? "fp32" : type == at::kBFloat16 ? "bf16" : "fp16";
}

void SetAttention(AttentionScheme attention, Precision* precision) {
  if (precision->name == "fp8") precision->transformer.SetAttention(attention);
}

absl::StatusOr<Precision> ChoosePrecision(std::string_view asked, const at::Device& device,
                                          const std::vector<LayerTable::Rule>& layers) {
  FRESCO_ASSIGN_OR_RETURN(Precision precision, Choose(asked, device));
  bool weights_only = false;
  for (LayerTable::Rule rule : layers) {
    if (rule.scheme == LinearScheme::kFp8 && device.is_cuda() && !ComputesFp8(device)) {
      rule.scheme = StorageOnly(rule.scheme);
      weights_only = true;
    }
    precision.exceptions.push_back(std::move(rule));
  }
  if (weights_only && precision.note.empty()) precision.note = StrCat("layers: fp8: ", kNoFp8);
  precision.transformer.Override(precision.exceptions);
  precision.t5.Override(precision.exceptions);
  return precision;
}

}  // namespace fresco
