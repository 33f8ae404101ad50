// How heads become the codes of FP8 attention (attention8_jobs.h), as what a team of lanes does (row_programs.h says
// what a team is). In this order, each over everything before the next begins: TileStatisticsOf, TotalsOfHead, then
// EncodeRow and EncodeValues. Shared by host and device code.
//
// A NaN or an infinity in a query makes its token's results NaN, in a key or a value all of its head's or its
// channel's.
#pragma once

#include "pipeline/kernels/attention8_jobs.h"
#include "pipeline/kernels/row_programs.h"

namespace fresco::kernels {

constexpr int kStatisticsLanes = kAttention8Dim / 2;  // two channels each
constexpr int kRowOfHeadLanes = kAttention8Dim / kVector;
constexpr int kKeysAtOnce = 16;  // of EncodeValues

struct HeadIndex {
  int64_t sample, head;
};
FRESCO_HOST_DEVICE HeadIndex HeadOf(const EncodeHeadsJob& job, int64_t index) {
  return {index / job.heads, index % job.heads};
}
template <typename Type>
FRESCO_HOST_DEVICE const typename Type::Storage* RowOfHead(const HeadRows& rows, HeadIndex of, int64_t token) {
  return static_cast<const typename Type::Storage*>(rows.data) + of.sample * rows.sample + of.head * rows.head +
         token * rows.token;
}

FRESCO_HOST_DEVICE float LesserOf(float a, float b) {
  return b < a ? b : a;
}
FRESCO_HOST_DEVICE float GreaterOf(float a, float b) {
  return b > a ? b : a;
}

// ---- statistics -----------------------------------------------------------------------------------------------------

struct ChannelStatistics {
  float sum = 0, least = FLT_MAX, most = -FLT_MAX;
  FRESCO_HOST_DEVICE void Add(float x) {
    sum += x;
    least = LesserOf(least, x);
    most = GreaterOf(most, x);
  }
};

template <typename Type>
FRESCO_HOST_DEVICE void StatisticsOfPair(const HeadRows& rows, HeadIndex of, int64_t first, int tokens, int lane,
                                         float* sum, float* least, float* most) {
  ChannelStatistics own[2];
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
  for (int token = 0; token < tokens; ++token) {
    struct alignas(2 * sizeof(typename Type::Storage)) Pair {
      typename Type::Storage element[2];
    };
    const Pair pair = reinterpret_cast<const Pair*>(RowOfHead<Type>(rows, of, first + token))[lane];
    for (int i = 0; i < 2; ++i) own[i].Add(Type::Load(pair.element[i]));
  }
  for (int i = 0; i < 2; ++i) {
    sum[2 * lane + i] = own[i].sum;
    least[2 * lane + i] = own[i].least;
    most[2 * lane + i] = own[i].most;
  }
}

// Of the index-th tile of all heads, by kStatisticsLanes lanes.
template <typename Type, class Team>
FRESCO_HOST_DEVICE void TileStatisticsOf(Team* team, const EncodeHeadsJob& job, int64_t index) {
  const int64_t tiles = TilesOf(job.tokens), first = index % tiles * kAttention8Tile;
  const int64_t left = job.tokens - first;
  const int tokens = static_cast<int>(left < kAttention8Tile ? left : kAttention8Tile);
  const HeadIndex of = HeadOf(job, index / tiles);
  TileStatistics* const result = job.tiles + index;
  team->ForEach([&](int lane) {
    StatisticsOfPair<Type>(job.k, of, first, tokens, lane, result->k_sum, result->k_least, result->k_most);
    StatisticsOfPair<Type>(job.v, of, first, tokens, lane, result->v_sum, result->v_least, result->v_most);
  });
}

// The largest magnitude of x - mean, where x is between the two.
FRESCO_HOST_DEVICE float SpreadAround(float mean, float least, float most) {
  return GreaterOf(most - mean, mean - least);
}

// Means and scales of a head, by kAttention8Dim lanes, a channel each.
template <class Team>
FRESCO_HOST_DEVICE void TotalsOfHead(Team* team, const EncodeHeadsJob& job, int64_t head) {
  const int64_t tiles = TilesOf(job.tokens);
  const TileStatistics* const of_tile = job.tiles + head * tiles;
  HeadScales* const result = job.codes.heads + head;
  typename Team::template PerLane<uint32_t> spreads(*team);
  team->ForEach([&](int lane) {
    ChannelStatistics k, v;
    for (int64_t i = 0; i < tiles; ++i) {
      const TileStatistics& tile = of_tile[i];
      k = {k.sum + tile.k_sum[lane], LesserOf(k.least, tile.k_least[lane]), GreaterOf(k.most, tile.k_most[lane])};
      v = {v.sum + tile.v_sum[lane], LesserOf(v.least, tile.v_least[lane]), GreaterOf(v.most, tile.v_most[lane])};
    }
    const float count = static_cast<float>(job.tokens);
    const float k_mean = Divide(k.sum, count), v_mean = Divide(v.sum, count);
    result->k_mean[lane] = k_mean;
    result->v_mean[lane] = v_mean;
    // Where the mean is NaN or infinite, so is the scale NaN: comparisons of it are all false.
    const float v_spread = v_mean - v_mean + SpreadAround(v_mean, v.least, v.most);
    result->v_scale[lane] = E4M3Scale(v_spread);
    spreads[lane] = MagnitudeBits(k_mean - k_mean + SpreadAround(k_mean, k.least, k.most));
  });
  const float k_scale = E4M3Scale(FloatOfBits(team->Reduce(spreads, Larger())));
  team->ForEach([&](int lane) {
    if (lane == 0) result->k_scale = k_scale;
  });
}

// ---- codes ----------------------------------------------------------------------------------------------------------

FRESCO_HOST_DEVICE void StoreCodes(const float* values, float scale, uint8_t* codes) {
  const float inverse = InverseScale(scale);
  struct alignas(8) {
    uint32_t four[2];
  } packed = {{FourE4M3Codes(values, inverse), FourE4M3Codes(values + 4, inverse)}};
  memcpy(codes, &packed, sizeof(packed));
}

// The codes of one token's query and key in one head, by kRowOfHeadLanes lanes. `index` counts tokens, filled, over all
// heads.
template <typename Type, class Team>
FRESCO_HOST_DEVICE void EncodeRow(Team* team, const EncodeHeadsJob& job, int64_t index) {
  const int64_t filled = FilledTokens(job.tokens), head = index / filled, token = index % filled;
  const bool there = token < job.tokens;
  const HeadIndex of = HeadOf(job, head);
  typename Team::template PerLane<Vector<float>> q(*team);
  typename Team::template PerLane<uint32_t> largest(*team);
  team->ForEach([&](int lane) {
    float k[kVector] = {};
    if (there) {
      const auto queries = LoadVector<typename Type::Storage>(RowOfHead<Type>(job.q, of, token), lane);
      const auto keys = LoadVector<typename Type::Storage>(RowOfHead<Type>(job.k, of, token), lane);
      for (int i = 0; i < kVector; ++i) {
        q[lane].element[i] = Type::Load(queries.element[i]);
        largest[lane] = Larger()(largest[lane], MagnitudeBits(q[lane].element[i]));
        k[i] = Type::Load(keys.element[i]) - job.codes.heads[head].k_mean[lane * kVector + i];
      }
    }
    StoreCodes(k, job.codes.heads[head].k_scale, job.codes.k + index * kAttention8Dim + lane * kVector);
  });
  const float scale = E4M3Scale(FloatOfBits(team->Reduce(largest, Larger())));
  team->ForEach([&](int lane) {
    if (!there) return;
    const int64_t row = head * job.tokens + token;
    StoreCodes(q[lane].element, scale, job.codes.q + row * kAttention8Dim + lane * kVector);
    if (lane == 0) job.codes.q_scales[row] = scale;
  });
}

// The codes of 16 keys' values in one channel. `index` counts channels, then sixteens of the filled tokens, over all
// heads: neighbours read neighbours.
template <typename Type>
FRESCO_HOST_DEVICE void EncodeValues(const EncodeHeadsJob& job, int64_t index) {
  const int64_t filled = FilledTokens(job.tokens), sixteens = filled / kKeysAtOnce;
  const int channel = static_cast<int>(index % kAttention8Dim);
  const int64_t group = index / kAttention8Dim % sixteens, head = index / kAttention8Dim / sixteens;
  const HeadIndex of = HeadOf(job, head);
  const HeadScales& scales = job.codes.heads[head];
  float values[kKeysAtOnce];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int position = 0; position < kKeysAtOnce; ++position) {
    const int64_t token = group * kKeysAtOnce + KeyAt(position);
    const bool there = token < job.tokens;
    values[position] = there ? Type::Load(RowOfHead<Type>(job.v, of, token)[channel]) - scales.v_mean[channel] : 0.0f;
  }
  uint8_t* const codes = job.codes.v + (head * kAttention8Dim + channel) * filled + group * kKeysAtOnce;
  for (int i = 0; i < kKeysAtOnce; i += kVector) StoreCodes(values + i, scales.v_scale[channel], codes + i);
}

FRESCO_HOST_DEVICE int64_t HeadsOf(const EncodeHeadsJob& job) {
  return job.samples * job.heads;
}
FRESCO_HOST_DEVICE int64_t EncodeValuesCount(const EncodeHeadsJob& job) {
  return HeadsOf(job) * kAttention8Dim * (FilledTokens(job.tokens) / kKeysAtOnce);
}

}  // namespace fresco::kernels
