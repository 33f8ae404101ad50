#include "pipeline/models/gpu_attention.h"

#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <optional>
#include <string>

#include "pipeline/precision/candidate_results.h"

namespace fresco {
namespace {

constexpr int64_t kSamples = 2;
// Texts make the number of tokens none of the multiples that kernels like best.
constexpr int64_t kOffStep = 19;
// Beyond, two products write more than a gigabyte of scores, which no other kernel does.
constexpr int64_t kMostTokensOfMath = 1024;

at::ScalarType TypeOf(const KernelTask& task) {
  return task.type == "fp16" ? at::kHalf : task.type == "fp32" ? at::kFloat : at::kBFloat16;
}

const char* NameOf(at::ScalarType type) {
  return type == at::kHalf ? "fp16" : type == at::kFloat ? "fp32" : "bf16";
}

constexpr char kFlash[] = "flash";
constexpr double kDropout = 0;
constexpr bool kCausal = false, kMask = false, kLogSumExp = false;

struct Heads {
  at::Tensor q, k, v;
};

// As one product gives them: a token's queries, keys and values beside each other.
Heads RandomHeads(const KernelTask& task, const at::Device& device) {
  const auto [heads, head_dim, tokens] = task.sizes;
  const at::Tensor qkv =
      at::randn({kSamples, tokens - kOffStep, 3, heads, head_dim}, at::TensorOptions(device).dtype(TypeOf(task)));
  const auto part = [&](int64_t index) { return qkv.select(2, index).transpose(1, 2); };
  return {part(0), part(1), part(2)};
}

}  // namespace

at::Tensor AttentionBy(std::string_view kernel, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       double scale) {
  if (kernel == "libtorch") return at::scaled_dot_product_attention(q, k, v, std::nullopt, kDropout, kCausal, scale);
  if (kernel == "cudnn") {
    return std::get<0>(
        at::_scaled_dot_product_cudnn_attention(q, k, v, std::nullopt, kLogSumExp, kDropout, kCausal, kMask, scale));
  }
  if (kernel == kFlash)
    return std::get<0>(at::_scaled_dot_product_flash_attention(q, k, v, kDropout, kCausal, kMask, scale));
  if (kernel == "efficient") {
    return std::get<0>(
        at::_scaled_dot_product_efficient_attention(q, k, v, std::nullopt, kLogSumExp, kDropout, kCausal, scale));
  }
  if (kernel == "math") {
    return std::get<0>(
        at::_scaled_dot_product_attention_math(q, k, v, std::nullopt, kDropout, kCausal, std::nullopt, scale));
  }
  return {};
}

at::Tensor PackedFlashAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts,
                                int64_t longest) {
  return std::get<0>(at::_flash_attention_forward(q, k, v, starts, starts, longest, longest, kDropout, kCausal, kMask));
}

bool FlashIsFastest(const DeviceKernels& kernels, at::ScalarType type, int64_t heads, int64_t head_dim,
                    int64_t tokens) {
  const std::string* const kernel = kernels.choices.WinnerOf(AttentionTask(type, heads, head_dim, tokens));
  return kernel != nullptr && *kernel == kFlash;
}

KernelTask AttentionTask(at::ScalarType type, int64_t heads, int64_t head_dim, int64_t tokens) {
  return {"attention", NameOf(type), {heads, head_dim, tokens}};
}

std::vector<KernelCandidate> AttentionCandidates(const KernelTask& task, const at::Device& device) {
  const Heads heads = RandomHeads(task, device);
  const double scale = 1 / std::sqrt(static_cast<double>(task.sizes[1]));
  CandidateResults results;
  std::vector<KernelCandidate> candidates;
  for (const std::string name : {"libtorch", "cudnn", kFlash, "efficient", "math"}) {
    if (name == "math" && task.sizes[2] > kMostTokensOfMath) continue;
    candidates.push_back(
        results.Candidate(name, [name, heads, scale] { return AttentionBy(name, heads.q, heads.k, heads.v, scale); }));
  }
  return candidates;
}

}  // namespace fresco
