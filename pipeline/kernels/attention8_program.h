// FP8 attention as what a warp does to 16 query rows of a head (attention8_jobs.h says what is computed). On a GPU a
// lane is a thread; in tests one thread plays all lanes in turn, so that fragments, masks, the running maximum and
// stores are executed there as they are on a GPU. Shared by host and device code.
//
// A Warp, all of whose 32 lanes call each of these together, has
//   Warp::PerLane<T>           a T for each lane
//   warp.ForEach(f)            calls f(lane) for each lane
//   warp.QuadMax(&x)           of a PerLane<RowPair>: each lane gets the largest of its four neighbours' (lane / 4)
//   warp.QuadFirst(&x)         each lane gets that of the first of the four
//   warp.Scores(q, k, &out)    out = q k^T, of a tile's codes
//   warp.Mix(weights, v, &out) out = weights v
//   warp.Exp2(x)               2^x to a few units in the last place; 0 of -infinity
// The fragments are those of mma.sync.m16n8k32 (PTX ISA, "Matrix Fragments for mma.m16n8k32"): of 16 rows a lane has
// row lane / 4 and the one 8 below. wgmma's of 64 rows are the same for each of its four warps.
#pragma once

#include "pipeline/kernels/attention8_jobs.h"
#include "pipeline/kernels/row_programs.h"

#if defined(__CUDA_ARCH__)
#define FRESCO_UNROLL _Pragma("unroll")
#else
#define FRESCO_UNROLL
#endif

namespace fresco::kernels {

// ---- a tile of keys and values, where the products read it ----------------------------------------------------------

// Rows of 64 bytes, in which chunks of 16 bytes are swapped with each other (wgmma's "64-byte swizzle", with which
// eight rows' chunks of one number also lie in different banks): first the keys, a row for each; then the values, a row
// for each channel, and behind these eight rows that are 1 in the first and 0 in the rest, for the sum of the weights.
constexpr int kTileRowBytes = 64, kChunkBytes = 16;
constexpr int kSumRows = 8;
constexpr int kMixRows = kAttention8Dim + kSumRows;
constexpr int kKeyTileBytes = kAttention8Tile * kTileRowBytes;
constexpr int kStageBytes = 9216;  // a multiple of 1024, as the swizzle wants
static_assert(kKeyTileBytes + kMixRows * kTileRowBytes <= kStageBytes);
constexpr uint8_t kE4M3One = 0x38;

FRESCO_HOST_DEVICE int ChunkOffset(int row, int chunk) {
  return row * kTileRowBytes + (chunk ^ (row >> 1 & 3)) * kChunkBytes;
}

constexpr int kChunksOfTile = (kAttention8Tile + kAttention8Dim) * kTileRowBytes / kChunkBytes;

// Calls copy(offset, source) for the index-th 16 bytes of a tile, index < kChunksOfTile: `offset` in the stage.
template <typename Copy>
FRESCO_HOST_DEVICE void CopyChunk(const HeadCodes& codes, int64_t tokens, int64_t head, int64_t tile, int index,
                                  const Copy& copy) {
  const int64_t filled = FilledTokens(tokens), first = tile * kAttention8Tile;
  const int row = index / 4 % kAttention8Tile, chunk = index % 4;
  if (index < kChunksOfTile / 2) {
    copy(ChunkOffset(row, chunk), codes.k + (head * filled + first + row) * kAttention8Dim + chunk * kChunkBytes);
  } else {
    copy(kKeyTileBytes + ChunkOffset(row, chunk),
         codes.v + (head * kAttention8Dim + row) * filled + first + chunk * kChunkBytes);
  }
}

// Four bytes of the rows of a stage's end, index < kSumRows * 16.
FRESCO_HOST_DEVICE void WriteSumRows(uint8_t* stage, int index) {
  const uint32_t word = index < kTileRowBytes / 4 ? kE4M3One * 0x01010101u : 0;
  memcpy(stage + kKeyTileBytes + kAttention8Dim * kTileRowBytes + 4 * index, &word, sizeof(word));
}

// Where lane `lane` points ldmatrix.x4 to for rows 8 n to 8 n + 7 of keys or values: it gives the lane both words of
// the right factor for the first 32 columns, then for the second.
FRESCO_HOST_DEVICE int MatrixRowOffset(int lane, int n) {
  return ChunkOffset(8 * n + lane % 8, lane / 8);
}

// wgmma's name for the right factor that begins at `address` of shared memory, a multiple of 512 (PTX ISA, "Matrix
// Descriptor Format"): eight rows after the other 512 bytes apart, chunks swapped within 64 bytes. kStepOfFactor, added
// to it, is 32 columns.
FRESCO_HOST_DEVICE uint64_t RightFactor(uint32_t address) {
  constexpr uint64_t kSwizzle64 = 2, kEightRows = 8 * kTileRowBytes;
  return kSwizzle64 << 62 | (kEightRows >> 4) << 32 | uint64_t{1} << 16 | (address & 0x3ffffu) >> 4;
}
constexpr uint64_t kStepOfFactor = 32 >> 4;

// ---- fragments ------------------------------------------------------------------------------------------------------

constexpr int kSteps = 2;  // products of 32 terms that make one of 64
constexpr int kScoreParts = kAttention8Tile / 8, kMixParts = kMixRows / 8;

struct LeftFragment {
  uint32_t word[kSteps][4];
};
struct ScoreFragment {
  float part[kScoreParts][4];
};
struct MixFragment {
  float part[kMixParts][4];
};
struct RowPair {
  float row[2];
};

// ---- the program ----------------------------------------------------------------------------------------------------

constexpr int kWarpRows = 16;
constexpr float kWeightBits = 8;  // weights' codes are 2^8 times them

template <class Warp>
class QueryRows {
 public:
  // Rows [first, first + 16) of a head's tokens; those beyond its last are zeros, and not stored.
  FRESCO_HOST_DEVICE QueryRows(Warp* warp, const Attention8Job& job, int64_t head, int64_t first)
      : warp_(warp), job_(job), head_(head), first_(first) {
    warp_->ForEach([&](int lane) { Load(lane); });
  }

  // The next tile, of which the first `keys` are there.
  FRESCO_HOST_DEVICE void Add(const uint8_t* stage, int keys) {
    warp_->Scores(q_, stage, &scores_);
    if (keys < kAttention8Tile) warp_->ForEach([&](int lane) { Mask(lane, keys); });
    typename Warp::template PerLane<RowPair> largest(*warp_);
    warp_->ForEach([&](int lane) { largest[lane] = LargestOf(scores_[lane]); });
    warp_->QuadMax(&largest);
    warp_->ForEach([&](int lane) { Weigh(lane, largest[lane]); });
    warp_->Mix(weights_, stage + kKeyTileBytes, &mix_);
    warp_->ForEach([&](int lane) { AddMix(lane); });
  }

  template <typename Type>
  FRESCO_HOST_DEVICE void Store() {
    typename Warp::template PerLane<RowPair> sums(*warp_);
    warp_->ForEach([&](int lane) {
      const float(&of_ones)[4] = sums_[lane].part[kMixParts - 1];
      sums[lane] = {{of_ones[0], of_ones[2]}};
    });
    warp_->QuadFirst(&sums);
    warp_->ForEach([&](int lane) { StoreLane<Type>(lane, sums[lane]); });
  }

 private:
  FRESCO_HOST_DEVICE int64_t RowAt(int lane, int half) const { return first_ + lane / 4 + 8 * half; }

  FRESCO_HOST_DEVICE void Load(int lane) {
    constexpr float kLog2E = 1.44269504f;
    const float k_scale = Multiply(job_.codes.heads[head_].k_scale, Multiply(job_.scale, kLog2E));
    FRESCO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = RowAt(lane, half);
      const bool there = row < job_.tokens;
      const uint8_t* const codes = job_.codes.q + (head_ * job_.tokens + row) * kAttention8Dim + 4 * (lane % 4);
      FRESCO_UNROLL
      for (int i = 0; i < 2 * kSteps; ++i) {
        uint32_t word = 0;
        if (there) memcpy(&word, codes + 16 * i, sizeof(word));
        q_[lane].word[i / 2][i % 2 * 2 + half] = word;
      }
      // Not 0, which a masked key's score, that is -inf, would make NaN of; a NaN stays one.
      const float unit = there ? Multiply(job_.codes.q_scales[head_ * job_.tokens + row], k_scale) : 0;
      units_[lane].row[half] = unit < FLT_MIN ? FLT_MIN : unit;
      largest_[lane].row[half] = -FLT_MAX;
    }
    sums_[lane] = MixFragment{};
  }

  FRESCO_HOST_DEVICE void Mask(int lane, int keys) {
    FRESCO_UNROLL
    for (int n = 0; n < kScoreParts; ++n) {
      FRESCO_UNROLL
      for (int i = 0; i < 4; ++i)
        if (8 * n + 2 * (lane % 4) + i % 2 >= keys) scores_[lane].part[n][i] = -INFINITY;
    }
  }

  FRESCO_HOST_DEVICE static RowPair LargestOf(const ScoreFragment& scores) {
    RowPair largest = {{scores.part[0][0], scores.part[0][2]}};
    FRESCO_UNROLL
    for (int n = 0; n < kScoreParts; ++n) {
      FRESCO_UNROLL
      for (int i = 0; i < 4; ++i) largest.row[i / 2] = fmaxf(largest.row[i / 2], scores.part[n][i]);
    }
    return largest;
  }

  // The weights' codes by the new maximum, and what the sums so far are to be scaled by.
  FRESCO_HOST_DEVICE void Weigh(int lane, const RowPair& of_tile) {
    float shift[2];
    FRESCO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float before = largest_[lane].row[half];
      const float now = fmaxf(before, ceilf(Multiply(of_tile.row[half], units_[lane].row[half])));
      largest_[lane].row[half] = now;
      decay_[lane].row[half] = warp_->Exp2(before - now);
      shift[half] = kWeightBits - now;
    }
    FRESCO_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      FRESCO_UNROLL
      for (int word = 0; word < 4; ++word) {
        const int half = word % 2, n = 4 * step + word / 2 * 2;
        float weight[4];
        FRESCO_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float score = scores_[lane].part[n + i / 2][2 * half + i % 2];
          weight[i] = warp_->Exp2(MultiplyAdd(score, units_[lane].row[half], shift[half]));
        }
        weights_[lane].word[step][word] = FourE4M3Codes(weight);
      }
    }
  }

  // Each tile's mixture is added up in fp32: within a product tensor cores keep fewer bits.
  FRESCO_HOST_DEVICE void AddMix(int lane) {
    FRESCO_UNROLL
    for (int n = 0; n < kMixParts; ++n) {
      FRESCO_UNROLL
      for (int i = 0; i < 4; ++i) {
        float& sum = sums_[lane].part[n][i];
        sum = MultiplyAdd(sum, decay_[lane].row[i / 2], mix_[lane].part[n][i]);
      }
    }
  }

  template <typename Type>
  FRESCO_HOST_DEVICE void StoreLane(int lane, const RowPair& of_weights) {
    const HeadScales& scales = job_.codes.heads[head_];
    struct alignas(4) Pair {
      typename Type::Storage element[2];
    };
    FRESCO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = RowAt(lane, half);
      if (row >= job_.tokens) continue;
      const int64_t token = head_ / job_.heads * job_.tokens + row;
      auto* const out =
          static_cast<typename Type::Storage*>(job_.out) + (token * job_.heads + head_ % job_.heads) * kAttention8Dim;
      const float inverse = Reciprocal(of_weights.row[half]);
      FRESCO_UNROLL
      for (int n = 0; n < kMixParts - 1; ++n) {
        Pair pair;
        FRESCO_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int channel = 8 * n + 2 * (lane % 4) + i;
          const float mixture = Multiply(sums_[lane].part[n][2 * half + i], inverse);
          pair.element[i] = Type::Store(MultiplyAdd(mixture, scales.v_scale[channel], scales.v_mean[channel]));
        }
        memcpy(out + 8 * n + 2 * (lane % 4), &pair, sizeof(pair));
      }
    }
  }

  Warp* const warp_;
  const Attention8Job& job_;
  const int64_t head_, first_;
  typename Warp::template PerLane<LeftFragment> q_{*warp_}, weights_{*warp_};
  typename Warp::template PerLane<RowPair> units_{*warp_};    // a score's worth of a product of codes, in powers of 2
  typename Warp::template PerLane<RowPair> largest_{*warp_};  // so far, whole numbers
  typename Warp::template PerLane<RowPair> decay_{*warp_};
  typename Warp::template PerLane<ScoreFragment> scores_{*warp_};
  typename Warp::template PerLane<MixFragment> mix_{*warp_}, sums_{*warp_};  // of the tile; of all
};

}  // namespace fresco::kernels
