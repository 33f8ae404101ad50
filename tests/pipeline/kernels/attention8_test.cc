// FP8 attention: its codes, the kernels' program executed on the CPU, and the CPU's emulation, against fp64.
#include "pipeline/kernels/cpu/attention8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "pipeline/kernels/encode_heads.h"
#include "tests/pipeline/kernels/host_warps.h"

namespace fresco::kernels {
namespace {

constexpr int kDim = kAttention8Dim;
constexpr size_t kD = kAttention8Dim;

// Queries, keys and values [samples, tokens, 3, heads, 64] in bfloat16, with their codes.
class Heads {
 public:
  static constexpr int64_t kSamples = 2, kHeads = 2;

  explicit Heads(int64_t tokens) : tokens_(tokens), qkv_(static_cast<size_t>(kSamples * tokens * 3 * kHeads * kDim)) {
    std::mt19937 random(static_cast<unsigned>(tokens));
    std::normal_distribution<float> normal;
    for (auto& element : qkv_) element = BFloat16::Store(normal(random));
  }

  enum Part { kQuery, kKey, kValue };
  static constexpr Part kParts[] = {kQuery, kKey, kValue};

  // f(x, token, channel) for each element of the part.
  void Change(Part part, const std::function<float(float, int64_t, int)>& f) {
    for (int64_t head = 0; head < kSamples * kHeads; ++head) {
      for (int64_t token = 0; token < tokens_; ++token) {
        for (int c = 0; c < kDim; ++c) {
          auto& element = qkv_[IndexOf(part, head, token) + static_cast<size_t>(c)];
          element = BFloat16::Store(f(BFloat16::Load(element), token, c));
        }
      }
    }
  }

  float At(Part part, int64_t head, int64_t token, int channel) const {
    return BFloat16::Load(qkv_[IndexOf(part, head, token) + static_cast<size_t>(channel)]);
  }

  void Encode() {
    const auto tokens = static_cast<size_t>(tokens_), filled = static_cast<size_t>(FilledTokens(tokens_));
    const size_t heads = kSamples * kHeads;
    q_.assign(heads * tokens * kD, 0x55);
    k_.assign(heads * filled * kD, 0x55);
    v_.assign(heads * filled * kD, 0x55);
    q_scales_.assign(heads * tokens, -1);
    scales_.assign(heads, HeadScales{});
    tiles_.assign(heads * static_cast<size_t>(TilesOf(tokens_)), TileStatistics{});
    const auto rows = [&](Part part) {
      constexpr int64_t kRow = 3 * kHeads * kDim;
      return HeadRows{qkv_.data() + part * kHeads * kDim, tokens_ * kRow, kDim, kRow};
    };
    const EncodeHeadsJob job{kSamples, tokens_, kHeads, rows(kQuery), rows(kKey), rows(kValue), codes(), tiles_.data()};
    for (int64_t head = 0; head < kSamples * kHeads; ++head) EncodeHeadOnCpu<BFloat16>(job, head);
  }

  HeadCodes codes() { return {q_.data(), k_.data(), v_.data(), q_scales_.data(), scales_.data()}; }
  int64_t tokens() const { return tokens_; }

  // What the codes stand for.
  float Decoded(Part part, int64_t head, int64_t token, int channel) const {
    const int64_t filled = FilledTokens(tokens_);
    const HeadScales& scales = scales_[static_cast<size_t>(head)];
    if (part == kQuery) {
      const int64_t row = head * tokens_ + token;
      return FromE4M3(q_[static_cast<size_t>(row * kDim + channel)]) * q_scales_[static_cast<size_t>(row)];
    }
    if (part == kKey) {
      const uint8_t code = k_[static_cast<size_t>((head * filled + token) * kDim + channel)];
      return FromE4M3(code) * scales.k_scale + scales.k_mean[channel];
    }
    int position = 0;
    while (KeyAt(position) != token % 16) ++position;
    const uint8_t code = v_[static_cast<size_t>((head * kDim + channel) * filled + token / 16 * 16 + position)];
    return FromE4M3(code) * scales.v_scale[channel] + scales.v_mean[channel];
  }

  // Results [samples, tokens, heads, 64] of the job, computed by `run`.
  template <typename Type>
  std::vector<float> Results(const std::function<void(const Attention8Job&)>& run) {
    std::vector<typename Type::Storage> out(static_cast<size_t>(kSamples * tokens_ * kHeads * kDim));
    run({kSamples, tokens_, kHeads, 0.125f, codes(), out.data()});
    std::vector<float> results;
    for (const auto element : out) results.push_back(Type::Load(element));
    return results;
  }

  // In fp64: attention over `value` of queries, keys and values, whose weights are rounded where `in_codes`.
  using Value = std::function<double(Part, int64_t head, int64_t token, int channel)>;
  std::vector<double> Attention(const Value& value, bool in_codes) const {
    std::vector<double> results(static_cast<size_t>(kSamples * tokens_ * kHeads * kDim));
    for (int64_t head = 0; head < kSamples * kHeads; ++head) {
      for (int64_t token = 0; token < tokens_; ++token) {
        const int64_t row = head / kHeads * tokens_ + token;
        double* const result = results.data() + (row * kHeads + head % kHeads) * kDim;
        const std::vector<double> weights = Weights(value, head, token, in_codes);
        for (size_t key = 0; key < weights.size(); ++key)
          for (int c = 0; c < kDim; ++c) result[c] += weights[key] * value(kValue, head, static_cast<int64_t>(key), c);
      }
    }
    return results;
  }

 private:
  size_t IndexOf(Part part, int64_t head, int64_t token) const {
    return static_cast<size_t>((((head / kHeads * tokens_ + token) * 3 + part) * kHeads + head % kHeads) * kDim);
  }

  std::vector<double> Weights(const Value& value, int64_t head, int64_t token, bool in_codes) const {
    std::vector<double> weights(static_cast<size_t>(tokens_));
    for (size_t key = 0; key < weights.size(); ++key) {
      for (int c = 0; c < kDim; ++c)
        weights[key] += value(kQuery, head, token, c) * value(kKey, head, static_cast<int64_t>(key), c);
      weights[key] *= std::log2(std::exp(1.0)) / 8;
    }
    // The keys' mean changes all scores of a row alike.
    double mean = 0;
    if (in_codes)
      for (int c = 0; c < kDim; ++c)
        mean += value(kQuery, head, token, c) * static_cast<double>(scales_[static_cast<size_t>(head)].k_mean[c]);
    mean *= std::log2(std::exp(1.0)) / 8;
    const double most = std::ceil(*std::max_element(weights.begin(), weights.end()) - mean);
    double sum = 0;
    for (double& weight : weights) {
      weight = std::exp2(weight - mean - most + kWeightBits);
      if (in_codes) weight = FromE4M3(ToE4M3(static_cast<float>(weight)));
      sum += weight;
    }
    for (double& weight : weights) weight /= sum;
    return weights;
  }

  const int64_t tokens_;
  std::vector<BFloat16::Storage> qkv_;
  std::vector<uint8_t> q_, k_, v_;
  std::vector<float> q_scales_;
  std::vector<HeadScales> scales_;
  std::vector<TileStatistics> tiles_;
};

double Distance(const std::vector<float>& actual, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);
}

std::vector<double> Wide(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

template <typename Type>
void OnCpu(const Attention8Job& job) {
  for (int64_t head = 0; head < job.samples * job.heads; ++head) AttendHeadOnCpu<Type>(job, head);
}

// One token; part of a tile; a whole one; one more key; two tiles, the last of them next to empty.
class Attention8 : public ::testing::TestWithParam<int64_t> {
 protected:
  Heads::Value Exact() const {
    return [this](Heads::Part part, int64_t head, int64_t token, int channel) {
      return static_cast<double>(heads_.At(part, head, token, channel));
    };
  }
  Heads::Value Decoded() const {
    return [this](Heads::Part part, int64_t head, int64_t token, int channel) {
      return static_cast<double>(heads_.Decoded(part, head, token, channel));
    };
  }

  Heads heads_{GetParam()};
};

// Codes are within half a step, 2^-4 of the value, and of the scale's smallest step where the value is small.
TEST_P(Attention8, CodesStandForTheirElements) {
  heads_.Change(Heads::kKey, [](float x, int64_t, int c) { return c == 5 ? x + 30 : x; });
  heads_.Change(Heads::kValue, [](float x, int64_t, int c) { return c % 7 == 3 ? 100 * x - 50 : x; });
  heads_.Encode();
  const HeadCodes codes = heads_.codes();
  for (int64_t head = 0; head < Heads::kSamples * Heads::kHeads; ++head) {
    for (int64_t token = 0; token < heads_.tokens(); ++token) {
      for (int c = 0; c < kDim; ++c) {
        const float scales[] = {codes.q_scales[head * heads_.tokens() + token], codes.heads[head].k_scale,
                                codes.heads[head].v_scale[c]};
        const float means[] = {0, codes.heads[head].k_mean[c], codes.heads[head].v_mean[c]};
        for (const Heads::Part part : Heads::kParts) {
          const float exact = heads_.At(part, head, token, c), decoded = heads_.Decoded(part, head, token, c);
          const float step = std::abs(exact - means[part]) * 0x1p-4f + scales[part] * 0x1p-10f;
          ASSERT_NEAR(decoded, exact, step * 1.01f + std::abs(means[part]) * 1e-6f) << part << " " << token << " " << c;
        }
      }
    }
  }
}

// A row's fp32 sums differ from the reference's, so that a weight on the border between two codes may get the other
// one, a sixteenth away; rounding the result to bf16 is 2^-9 of it.
TEST_P(Attention8, KernelsProgramIsAttentionOverTheCodes) {
  heads_.Encode();
  const std::vector<double> expected = heads_.Attention(Decoded(), /*in_codes=*/true);
  const auto half = heads_.Results<Float16>(RunOnHost<Float16, SyncHostWarp>);
  EXPECT_LT(Distance(half, expected), 1e-3);
  EXPECT_LT(Distance(heads_.Results<BFloat16>(RunOnHost<BFloat16, SyncHostWarp>), expected), 3e-3);
  EXPECT_EQ(heads_.Results<Float16>(RunOnHost<Float16, GroupHostWarp>), half);
}

TEST_P(Attention8, CpuComputesWhatTheKernelsDo) {
  heads_.Encode();
  const auto kernels = heads_.Results<Float32>(RunOnHost<Float32, SyncHostWarp>);
  EXPECT_LT(Distance(heads_.Results<Float32>(OnCpu<Float32>), Wide(kernels)), 5e-4);
}

// E4M3 rounds by 2.5 % in the mean square, of random elements each on its own: queries, keys, weights and values
// together by twice that.
TEST_P(Attention8, IsCloseToAttentionOfTheElements) {
  heads_.Encode();
  const std::vector<double> exact = heads_.Attention(Exact(), /*in_codes=*/false);
  EXPECT_LT(Distance(heads_.Results<Float32>(OnCpu<Float32>), exact), 0.06);
}

// Without smoothing the outliers would take all of the scales' range: a channel of keys far from 0 for every token, and
// values with a mean far beyond their spread.
TEST_P(Attention8, MeansCostNothing) {
  heads_.Encode();
  const double plain = Distance(heads_.Results<Float32>(OnCpu<Float32>), heads_.Attention(Exact(), false));
  heads_.Change(Heads::kKey, [](float x, int64_t, int c) { return c == 9 ? x + 1000 : x; });
  heads_.Change(Heads::kValue, [](float x, int64_t, int c) { return c == 3 ? x + 64 : x; });
  // The elements are rounded by it, and its part of the result is large: what is left when it is taken away counts.
  heads_.Encode();
  std::vector<double> exact = heads_.Attention(Exact(), /*in_codes=*/false);
  std::vector<float> actual = heads_.Results<Float32>(OnCpu<Float32>);
  for (size_t i = 3; i < exact.size(); i += kD) {
    exact[i] -= 64;
    actual[i] -= 64;
  }
  EXPECT_LT(Distance(actual, exact), 1.5 * plain + 1e-3);
}

// Each tile's largest score is above all before it, by far: what was added up must be scaled down each time.
TEST_P(Attention8, TheMaximumMayGrow) {
  heads_.Change(Heads::kQuery, [](float, int64_t, int) { return 1.0f; });
  heads_.Change(Heads::kKey, [](float x, int64_t token, int) { return x + static_cast<float>(token) / 16; });
  heads_.Encode();
  const auto kernels = heads_.Results<Float32>(RunOnHost<Float32, SyncHostWarp>);
  EXPECT_LT(Distance(kernels, heads_.Attention(Decoded(), /*in_codes=*/true)), 1e-3);
}

TEST_P(Attention8, NotANumberReachesWhatItWouldInAttention) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  heads_.Change(Heads::kQuery, [](float x, int64_t token, int c) { return token == 0 && c == 1 ? kInfinity : x; });
  heads_.Change(Heads::kValue, [](float x, int64_t token, int c) { return token == 0 && c == 2 ? kNaN : x; });
  heads_.Encode();
  for (const auto& results :
       {heads_.Results<Float32>(OnCpu<Float32>), heads_.Results<Float32>(RunOnHost<Float32, SyncHostWarp>)}) {
    for (size_t i = 0; i < results.size(); ++i) {
      const bool first_token = i / (kD * Heads::kHeads) % static_cast<size_t>(heads_.tokens()) == 0;
      ASSERT_EQ(std::isnan(results[i]), first_token || i % kD == 2) << i;
    }
  }
  heads_.Change(Heads::kKey, [](float x, int64_t token, int c) { return token == 0 && c == 0 ? -kInfinity : x; });
  heads_.Encode();
  for (const auto& results :
       {heads_.Results<Float32>(OnCpu<Float32>), heads_.Results<Float32>(RunOnHost<Float32, SyncHostWarp>)})
    EXPECT_TRUE(std::all_of(results.begin(), results.end(), [](float x) { return std::isnan(x); }));
}

// The product of the scales is no float any more: then all keys count alike, and those beyond the last not at all.
TEST_P(Attention8, WhatIsTooSmallToMatterIsNoNaN) {
  const auto tiny = [](float x, int64_t, int) { return std::ldexp(x, -90); };
  heads_.Change(Heads::kQuery, tiny);
  heads_.Change(Heads::kKey, tiny);
  heads_.Encode();
  const auto kernels = heads_.Results<Float32>(RunOnHost<Float32, SyncHostWarp>);
  EXPECT_LT(Distance(kernels, heads_.Attention(Decoded(), /*in_codes=*/true)), 1e-3);
}

TEST_P(Attention8, NothingButZerosIsZero) {
  for (const Heads::Part part : Heads::kParts) heads_.Change(part, [](float, int64_t, int) { return 0.0f; });
  heads_.Encode();
  for (const auto& results :
       {heads_.Results<Float32>(OnCpu<Float32>), heads_.Results<Float32>(RunOnHost<Float32, SyncHostWarp>)})
    EXPECT_TRUE(std::all_of(results.begin(), results.end(), [](float x) { return x == 0; }));
}

INSTANTIATE_TEST_SUITE_P(Tokens, Attention8, ::testing::Values(1, 15, 63, 64, 65, 130));

}  // namespace
}  // namespace fresco::kernels
