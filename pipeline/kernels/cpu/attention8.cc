#include "pipeline/kernels/cpu/attention8.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include "pipeline/kernels/attention8_program.h"
#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/cpu/serial_team.h"
#include "pipeline/kernels/encode_heads.h"

namespace fresco::kernels {
namespace {

constexpr size_t kDim = kAttention8Dim;

// A head's codes as the numbers that they are.
struct HeadValues {
  std::vector<float> keys;    // [tokens, 64]
  std::vector<float> values;  // [64, tokens]
};

HeadValues Expand(const Attention8Job& job, int64_t head) {
  const auto tokens = static_cast<size_t>(job.tokens), filled = static_cast<size_t>(FilledTokens(job.tokens));
  const auto index = static_cast<size_t>(head);
  HeadValues expanded{std::vector<float>(tokens * kDim), std::vector<float>(kDim * tokens)};
  ExpandE4M3({job.codes.k + index * filled * kDim, tokens * kDim}, expanded.keys.data());
  std::vector<float> channel(filled);
  for (size_t c = 0; c < kDim; ++c) {
    ExpandE4M3({job.codes.v + (index * kDim + c) * filled, filled}, channel.data());
    for (size_t position = 0; position < filled; ++position) {
      const size_t token = position / kKeysAtOnce * kKeysAtOnce + static_cast<size_t>(KeyAt(position % kKeysAtOnce));
      if (token < tokens) expanded.values[c * tokens + token] = channel[position];
    }
  }
  return expanded;
}

// One row after another.
class RowAttention {
 public:
  RowAttention(const Attention8Job& job, int64_t head)
      : job_(job),
        head_(head),
        scales_(job.codes.heads[head]),
        expanded_(Expand(job, head)),
        weights_(static_cast<size_t>(job.tokens)) {}

  void Compute(int64_t token, float* mixture) {
    const float sum = Weigh(token);
    for (size_t c = 0; c < kDim; ++c) {
      const float mixed = Dot(weights_, expanded_.values.data() + c * weights_.size());
      mixture[c] = MultiplyAdd(mixed / sum, scales_.v_scale[c], scales_.v_mean[c]);
    }
  }

 private:
  // The weights' codes as numbers; returns their sum.
  float Weigh(int64_t token) {
    const int64_t row = head_ * job_.tokens + token;
    float query[kDim];
    ExpandE4M3({job_.codes.q + row * kAttention8Dim, kDim}, query);
    const float unit = job_.codes.q_scales[row] * scales_.k_scale * job_.scale * std::numbers::log2e_v<float>;
    float largest = -FLT_MAX;
    for (size_t i = 0; i < weights_.size(); ++i) {
      weights_[i] = Dot({query, kDim}, expanded_.keys.data() + i * kDim) * unit;
      largest = std::max(largest, weights_[i]);
    }
    const float shift = kWeightBits - std::ceil(largest);
    for (float& weight : weights_) weight = std::exp2(weight + shift);
    RoundTripE4M3(weights_, 1.0F, weights_.data());
    float sum = 0;
    for (const float weight : weights_) sum += weight;
    return sum;
  }

  const Attention8Job& job_;
  const int64_t head_;
  const HeadScales& scales_;
  const HeadValues expanded_;
  std::vector<float> weights_;  // [tokens]
};

}  // namespace

template <typename Type>
void EncodeHeadOnCpu(const EncodeHeadsJob& job, int64_t head) {
  const int64_t tiles = TilesOf(job.tokens), filled = FilledTokens(job.tokens);
  SerialTeam<kStatisticsLanes> channels;
  for (int64_t i = 0; i < tiles; ++i) TileStatisticsOf<Type>(&channels, job, head * tiles + i);
  SerialTeam<kAttention8Dim> all;
  TotalsOfHead(&all, job, head);
  SerialTeam<kRowOfHeadLanes> row;
  for (int64_t i = 0; i < filled; ++i) EncodeRow<Type>(&row, job, head * filled + i);
  const int64_t values = EncodeValuesCount(job) / HeadsOf(job);
  for (int64_t i = 0; i < values; ++i) EncodeValues<Type>(job, head * values + i);
}

template <typename Type>
void AttendHeadOnCpu(const Attention8Job& job, int64_t head) {
  RowAttention attention(job, head);
  const int64_t sample = head / job.heads;
  for (int64_t token = 0; token < job.tokens; ++token) {
    float mixture[kDim];
    attention.Compute(token, mixture);
    auto* const out = static_cast<typename Type::Storage*>(job.out) +
                      ((sample * job.tokens + token) * job.heads + head % job.heads) * kAttention8Dim;
    std::transform(mixture, mixture + kDim, out, [](float value) { return Type::Store(value); });
  }
}

template void EncodeHeadOnCpu<Float32>(const EncodeHeadsJob&, int64_t);
template void EncodeHeadOnCpu<BFloat16>(const EncodeHeadsJob&, int64_t);
template void EncodeHeadOnCpu<Float16>(const EncodeHeadsJob&, int64_t);
template void AttendHeadOnCpu<Float32>(const Attention8Job&, int64_t);
template void AttendHeadOnCpu<BFloat16>(const Attention8Job&, int64_t);
template void AttendHeadOnCpu<Float16>(const Attention8Job&, int64_t);

}  // namespace fresco::kernels
