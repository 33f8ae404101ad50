#include "pipeline/precision/weight_rounding.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/round.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "pipeline/precision/row_codes.h"

namespace fresco {
namespace {

constexpr int64_t kOutputsOfAThread = 64;  // at least
constexpr int64_t kBlock = 64;  // columns whose errors are spread among themselves first, then over the rest at once

// The values of the codes of x / scale.
at::Tensor Rounded(const at::Tensor& x, const at::Tensor& inverse_scale, LinearScheme scheme) {
  return CodesByTensors(x, inverse_scale, scheme).to(at::kFloat);
}

// What to try in place of the scale that just holds a row's largest magnitude. E4M3 has the same steps in every octave:
// what a scale changes is where in it the weights lie. int8 gains where few large weights are cut off.
std::vector<double> ScaleFactors(LinearScheme scheme) {
  constexpr int kTried = 24;
  std::vector<double> factors;
  for (int i = 0; i < kTried; ++i) factors.push_back(IsFp8(scheme) ? std::exp2(i / 24.0) : 1 - 0.02 * i);
  if (IsFp8(scheme)) factors.insert(factors.end(), {0.97, 0.94});
  return factors;
}

// [out, 1]
at::Tensor BestScales(const at::Tensor& weight, const at::Tensor& second, LinearScheme scheme) {
  const at::Tensor plain = ScalesByTensors(weight, scheme);
  at::Tensor best = plain.clone();
  at::Tensor least = at::full({weight.size(0), 1}, std::numeric_limits<float>::infinity(), plain.options());
  for (const double factor : ScaleFactors(scheme)) {
    const at::Tensor scale = plain * factor;
    const at::Tensor error = Rounded(weight, scale.reciprocal(), scheme).mul_(scale).sub_(weight);
    const at::Tensor cost = at::mm(error, second).mul_(error).sum({1}, /*keepdim=*/true);  // of the products
    best = at::where(cost < least, scale, best);
    least = at::where(cost < least, cost, least);
  }
  return best;
}

// The upper triangular U with UᵀU = H⁻¹: row k says how an error in column k is made up for by those after it.
at::Tensor ErrorSpread(const at::Tensor& second, double damping) {
  at::Tensor h = second.to(at::kDouble);
  h.diagonal().add_(h.diagonal().mean() * damping + 1e-12);
  return at::linalg_cholesky(at::cholesky_inverse(at::linalg_cholesky(h)), /*upper=*/true).to(at::kFloat);
}

// Some outputs of RoundColumns, each a row of the weight and independent of the others.
void RoundOutputs(const at::Tensor& weight, const at::Tensor& spread, const at::Tensor& scale, LinearScheme scheme,
                  const at::Tensor& codes) {
  const int64_t in = weight.size(0);
  const at::Tensor inverse = scale.reciprocal();
  for (int64_t begin = 0; begin < in; begin += kBlock) {
    const int64_t count = std::min(kBlock, in - begin), rest = in - begin - count;
    const at::Tensor block = weight.narrow(0, begin, count);
    const at::Tensor own = spread.narrow(0, begin, count).narrow(1, begin, count);
    const at::Tensor errors = at::empty_like(block);
    for (int64_t k = 0; k < count; ++k) {
      const at::Tensor code = Rounded(block[k], inverse, scheme);
      codes[begin + k].copy_(code);
      const at::Tensor error = (block[k] - code * scale).div_(own[k][k]);
      block.narrow(0, k, count - k).sub_(at::outer(own[k].narrow(0, k, count - k), error));
      errors[k].copy_(error);
    }
    if (rest == 0) break;
    weight.narrow(0, begin + count, rest)
        .sub_(at::mm(spread.narrow(0, begin, count).narrow(1, begin + count, rest).t(), errors));
  }
}

// weight [in, out], a column of the weight to a row, overwritten; scale [out]. Returns the codes' values in the same
// layout. Each thread takes outputs of its own: the many small steps are not worth sharing.
at::Tensor RoundColumns(const at::Tensor& weight, const at::Tensor& spread, const at::Tensor& scale,
                        LinearScheme scheme) {
  at::Tensor codes = at::empty_like(weight);
  at::parallel_for(0, weight.size(1), kOutputsOfAThread, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode inference(weight.is_inference());
    const int64_t count = end - begin;
    RoundOutputs(weight.narrow(1, begin, count), spread, scale.narrow(0, begin, count), scheme,
                 codes.narrow(1, begin, count));
  });
  return codes;
}

// Half of what makes a channel's inputs larger than others' moves into its weights; powers of two, so that moving costs
// no bits. [in]: what inputs are multiplied by.
at::Tensor Smoothing(const at::Tensor& weight, const at::Tensor& input_absmax) {
  const at::Tensor inputs = input_absmax.clamp_min(1e-5), weights = weight.abs().amax({0}).clamp_min(1e-6);
  const at::Tensor exponent = (weights / inputs).log2().mul_(0.5);
  return at::exp2((exponent - exponent.mean()).round_());
}

}  // namespace

InputMoments::InputMoments(int64_t in)
    : second_(at::zeros({in, in}, at::kFloat)),
      sum_(at::zeros({in}, at::kFloat)),
      absmax_(at::zeros({in}, at::kFloat)) {}

void InputMoments::Add(const at::Tensor& x) {
  const at::Tensor wide = x.to(at::kFloat);
  if (rows_ == 0) {
    for (at::Tensor* tensor : {&second_, &sum_, &absmax_}) *tensor = tensor->to(x.device());
  }
  second_.addmm_(wide.t(), wide);
  sum_ += wide.sum(0);
  absmax_ = at::maximum(absmax_, wide.abs().amax({0}));
  rows_ += x.size(0);
}

at::Tensor InputMoments::Mean() const {
  return (sum_ / static_cast<double>(std::max<int64_t>(1, rows_))).to(at::kCPU);
}

at::Tensor InputMoments::Second() const {
  return (second_ / static_cast<double>(std::max<int64_t>(1, rows_))).to(at::kCPU);
}

at::Tensor InputMoments::AbsMax() const {
  return absmax_.to(at::kCPU);
}

RoundedWeight RoundWeight(const at::Tensor& given, const at::Tensor& bias, LinearScheme scheme,
                          const InputMoments& moments, double damping) {
  RoundedWeight result;
  at::Tensor weight = given.to(at::kFloat), second = moments.Second(), mean = moments.Mean();
  if (scheme == LinearScheme::kInt8) {
    const at::Tensor multiplier = result.input_multiplier = Smoothing(weight, moments.AbsMax());
    weight = weight / multiplier;
    second = second * at::outer(multiplier, multiplier);
    mean = mean * multiplier;
  }
  const at::Tensor scale = BestScales(weight, second, scheme);
  const at::Tensor order = at::argsort(second.diagonal(), /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor spread = ErrorSpread(second.index_select(0, order).index_select(1, order), damping);
  const at::Tensor rounded =
      RoundColumns(weight.t().index_select(0, order).contiguous(), spread, scale.squeeze(1), scheme);
  const at::Tensor values = rounded.index_select(0, at::argsort(order)).t().contiguous();
  result.weight = {values.to(CodeType(scheme)), scale.squeeze(1).contiguous()};
  if (bias.defined()) result.bias = bias.to(at::kFloat) + at::mv(weight - values * scale, mean);
  return result;
}

}  // namespace fresco
