#include "pipeline/engine/precision.h"

#include "pipeline/base/processor.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

Precision Automatic(const at::Device& device) {
  if (device.is_cuda()) return {at::kBFloat16, "bf16", "auto: bf16, the fastest type of this build on a GPU"};
  if (ProcessorHasAvx512Bf16())
    return {at::kBFloat16, "bf16", "auto: bf16, which this processor multiplies in hardware (AVX512_BF16)"};
  return {at::kFloat, "fp32", "auto: fp32, as this processor has no fast bf16 (AVX512_BF16)"};
}

}  // namespace

absl::StatusOr<Precision> ChoosePrecision(std::string_view asked, const at::Device& device) {
  if (asked == "auto") return Automatic(device);
  if (asked == "fp32") return Precision{at::kFloat, "fp32", ""};
  if (asked == "bf16") return Precision{at::kBFloat16, "bf16", ""};
  if (asked == "fp16") return Precision{at::kHalf, "fp16", ""};
  if (asked == "fp8" || asked == "fp8-weight-only" || asked == "int8")
    return absl::UnimplementedError(
        StrCat("precision '", asked, "': this version computes in fp32, bf16 and fp16 only; use one of these or auto"));
  return absl::InvalidArgumentError(StrCat("precision '", asked, "' is unknown: it is fp32, bf16, fp16 or auto"));
}

}  // namespace fresco
