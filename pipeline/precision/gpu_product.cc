#include "pipeline/precision/gpu_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "pipeline/base/strings.h"
#include "pipeline/precision/candidate_results.h"
#include "pipeline/precision/fused_rows.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

constexpr char kRowWise[] = "row-wise", kRowWiseHalf[] = "row-wise fp16", kPerTensor[] = "per-tensor", kSums[] = "sums";
constexpr std::string_view kCublasLt = "cublaslt:";
constexpr std::string_view kStatic = " static", kBias = "+bias";
constexpr int kAlgorithms = 8;  // of cuBLASLt's that are measured: what its heuristics name later is hardly ever better
// Of a measurement's largest result, with four of which at most it is done.
constexpr int64_t kMostResultBytes = 192 << 20;

std::optional<at::Tensor> Optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

bool IsInt8(const CodesProduct& product) {
  return product.codes.scalar_type() == at::kChar;
}

// ---- by libtorch ----------------------------------------------------------------------------------------------------

// The bias is in the type of the result.
at::Tensor RowWise(const CodesProduct& product, at::ScalarType type) {
  const at::Tensor bias = product.bias.defined() ? product.bias.to(type) : product.bias;
  return at::_scaled_mm(product.codes, product.weight.codes.t(), product.scale.unsqueeze(1),
                        product.weight.scale.unsqueeze(0), Optional(bias), std::nullopt, type,
                        /*use_fast_accum=*/true);
}

// What has only the tokens' scale is rounded once more, to bf16, where the result is bf16 too.
at::Tensor PerTensor(const CodesProduct& product) {
  const at::ScalarType between = product.type == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const at::Tensor sums = at::_scaled_mm(product.codes, product.weight.codes.t(), product.scale.narrow(0, 0, 1),
                                         product.one, std::nullopt, std::nullopt, between, /*use_fast_accum=*/true);
  at::Tensor result = at::empty(sums.sizes(), sums.options().dtype(product.type));
  if (product.bias.defined()) {
    at::addcmul_out(result, product.bias, sums, product.weight.scale);
  } else {
    at::mul_out(result, sums, product.weight.scale);
  }
  return result;
}

// _int_mm takes 17 rows at least.
at::Tensor SumsOfInt8(const CodesProduct& product) {
  constexpr int64_t kMinRows = 32;
  const int64_t rows = product.codes.size(0), missing = std::max<int64_t>(0, kMinRows - rows);
  const at::Tensor padded = missing == 0 ? product.codes : at::constant_pad_nd(product.codes, {0, 0, 0, missing});
  return at::_int_mm(padded, product.weight.codes.t()).narrow(0, 0, rows);
}

at::Tensor Scaled(const at::Tensor& sums, const CodesProduct& product) {
  return DequantizeSums(sums, product.scale, product.weight.scale, product.bias, product.type);
}

// ---- by cuBLASLt ----------------------------------------------------------------------------------------------------

// A job, and the tensors that it points to.
struct LtProduct {
  CodesProductJob job;
  at::Tensor result, bias;

  explicit LtProduct(const CodesProduct& product) {
    const bool int8 = IsInt8(product), half = product.type == at::kHalf;
    const at::ScalarType type = int8 ? at::kInt : half ? at::kHalf : at::kBFloat16;
    job.codes = int8 ? CodesProductJob::Codes::kInt8 : CodesProductJob::Codes::kE4M3;
    job.type = half ? CodesProductJob::Result::kFloat16 : CodesProductJob::Result::kBFloat16;
    job.rows = product.codes.size(0);
    job.in = product.codes.size(1);
    job.out = product.weight.codes.size(0);
    job.x = product.codes.const_data_ptr();
    job.weight = product.weight.codes.const_data_ptr();
    result = at::empty({job.rows, job.out}, product.codes.options().dtype(type));
    job.result = result.data_ptr();
    if (int8) return;
    job.x_scale = product.scale.const_data_ptr<float>();
    job.weight_scale = product.weight.scale.const_data_ptr<float>();
    if (!product.bias.defined()) return;
    bias = product.bias.to(type);
    job.bias = bias.const_data_ptr();
  }

  // Allocations are; a view into one need not be.
  bool aligned() const {
    const auto is = [](const void* pointer) {
      return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(CublasLt::kAlignment) == 0;
    };
    return is(job.x) && is(job.weight) && is(job.result);
  }
};

// The current one; null on a CPU, which has none.
void* StreamOf(const at::Device& device) {
  if (device.is_cpu()) return nullptr;
  const c10::impl::VirtualGuardImpl guard(device.type());
  return guard.getStreamNativeHandle(guard.getStream(device));
}

// Nothing where the algorithm does not take the product.
at::Tensor ByCublasLt(const CublasLtAlgorithm& algorithm, const CodesProduct& product, const CublasLt& library) {
  const KernelScope scope("fresco::cublas_lt");
  const LtProduct lt(product);
  if (!lt.aligned()) return {};
  const at::Tensor workspace = at::empty({CublasLt::kWorkspaceBytes}, product.codes.options().dtype(at::kByte));
  void* const stream = StreamOf(product.codes.device());
  if (!library.Multiply(lt.job, algorithm, workspace.mutable_data_ptr(), stream).ok()) return {};
  return IsInt8(product) ? Scaled(lt.result, product) : lt.result;
}

// Of a kernel's name; nothing for one that is no algorithm.
std::optional<CublasLtAlgorithm> AlgorithmOf(std::string_view kernel) {
  if (!kernel.starts_with(kCublasLt)) return std::nullopt;
  return CublasLtAlgorithm::FromHex(kernel.substr(kCublasLt.size()));
}

// By that kernel alone; undefined where it is none, or does not take the product.
at::Tensor Try(const std::string& kernel, const CodesProduct& product, const DeviceKernels* kernels) {
  if (const auto algorithm = AlgorithmOf(kernel)) {
    if (kernels == nullptr || kernels->cublas_lt == nullptr) return {};
    return ByCublasLt(*algorithm, product, *kernels->cublas_lt);
  }
  if (IsInt8(product)) return kernel == kSums ? Scaled(SumsOfInt8(product), product) : at::Tensor();
  if (kernel == kRowWise) return RowWise(product, at::kBFloat16);
  if (kernel == kRowWiseHalf && product.type == at::kHalf) return RowWise(product, at::kHalf);
  if (kernel == kPerTensor && product.one.defined()) return PerTensor(product);
  return {};
}

// ---- measuring ------------------------------------------------------------------------------------------------------

const char* NameOf(at::ScalarType type) {
  return type == at::kHalf ? "fp16" : type == at::kFloat ? "fp32" : "bf16";
}

at::ScalarType TypeOf(const KernelTask& task) {
  return task.type == "fp16" ? at::kHalf : task.type == "fp32" ? at::kFloat : at::kBFloat16;
}

// Every value but NaN, whose last bit is set.
at::Tensor RandomCodes(int64_t rows, int64_t columns, LinearScheme scheme, const at::Device& device) {
  const at::Tensor bytes = at::randint(0, 256, {rows, columns}, at::TensorOptions(device).dtype(at::kByte));
  return IsFp8(scheme) ? bytes.bitwise_and_(0xfe).view(at::kFloat8_e4m3fn) : bytes.view(at::kChar);
}

// Results near 1.
CodesProduct RandomProduct(const KernelTask& task, const at::Device& device) {
  const auto [in, out, rows] = task.sizes;
  const LinearScheme scheme = task.operation.starts_with("fp8") ? LinearScheme::kFp8 : LinearScheme::kInt8;
  const auto options = at::TensorOptions(device).dtype(at::kFloat);
  CodesProduct product;
  product.type = TypeOf(task);
  const bool one_scale = task.operation.find(kStatic) != std::string::npos;
  if (one_scale) product.one = UnitScale(device);
  product.codes = RandomCodes(rows, in, scheme, device);
  product.scale = one_scale ? at::full({rows}, 1e-3, options) : at::rand({rows}, options) * 1e-3 + 1e-3;
  product.weight = {RandomCodes(out, in, scheme, device), at::rand({out}, options) * 1e-3 + 1e-3};
  if (task.operation.ends_with(kBias)) product.bias = at::randn({out}, options).to(product.type);
  return product;
}

std::vector<std::string> NamesOf(const CodesProduct& product, const DeviceKernels& kernels) {
  std::vector<std::string> names = {IsInt8(product) ? kSums : kRowWise};
  if (!IsInt8(product) && product.type == at::kHalf) names.emplace_back(kRowWiseHalf);
  if (!IsInt8(product) && product.one.defined()) names.emplace_back(kPerTensor);
  if (kernels.cublas_lt == nullptr) return names;
  const auto algorithms = kernels.cublas_lt->AlgorithmsFor(LtProduct(product).job, kAlgorithms);
  if (!algorithms.ok()) return names;  // this GPU has none: libtorch's kernels are all there is
  for (const CublasLtAlgorithm& algorithm : *algorithms) names.push_back(StrCat(kCublasLt, algorithm.ToHex()));
  return names;
}

}  // namespace

at::Tensor UnitScale(const at::Device& device) {
  return at::ones({1}, at::TensorOptions(device).dtype(at::kFloat));
}

KernelTask ProductTask(const ProductKind& kind, int64_t rows) {
  const bool fp8 = kind.scheme == LinearScheme::kFp8;
  return {StrCat(fp8 ? "fp8" : "int8", fp8 && kind.one_scale ? kStatic : "", kind.bias ? kBias : ""),
          NameOf(kind.type),
          {kind.in, kind.out, rows}};
}

at::Tensor MultiplyCodesBy(const std::string& kernel, const CodesProduct& product, const DeviceKernels* kernels) {
  at::Tensor result = Try(kernel, product, kernels);
  if (result.defined()) return result;
  return IsInt8(product) ? Scaled(SumsOfInt8(product), product) : RowWise(product, at::kBFloat16);
}

at::Tensor MultiplyCodes(const CodesProduct& product, const DeviceKernels* kernels) {
  const std::string* winner = nullptr;
  if (kernels != nullptr) {
    const LinearScheme scheme = IsInt8(product) ? LinearScheme::kInt8 : LinearScheme::kFp8;
    const ProductKind kind{scheme,
                           product.type,
                           product.codes.size(1),
                           product.weight.codes.size(0),
                           product.bias.defined(),
                           product.one.defined()};
    winner = kernels->choices.WinnerOf(ProductTask(kind, product.codes.size(0)));
  }
  return MultiplyCodesBy(winner != nullptr ? *winner : std::string(), product, kernels);
}

std::vector<KernelCandidate> ProductCandidates(const KernelTask& task, const at::Device& device,
                                               std::shared_ptr<const DeviceKernels> kernels) {
  const int64_t bytes_of_result = task.operation.starts_with("int8") ? 4 : 2;
  if (task.sizes[1] * task.sizes[2] * bytes_of_result > kMostResultBytes) return {};
  const auto product = std::make_shared<const CodesProduct>(RandomProduct(task, device));
  CandidateResults results;
  std::vector<KernelCandidate> candidates;
  for (const std::string& name : NamesOf(*product, *kernels)) {
    candidates.push_back(results.Candidate(name, [name, product, kernels] {
      at::Tensor result = Try(name, *product, kernels.get());
      TORCH_CHECK(result.defined(), "does not take the product");
      return result;
    }));
  }
  return candidates;
}

}  // namespace fresco
