// The warps of attention8_program.h on the CPU: one thread plays all lanes, and the tensor cores' instructions are what
// the PTX ISA says of them, fragment by fragment.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "pipeline/kernels/attention8_program.h"

namespace fresco::kernels {

// What both kinds of warps have.
class HostWarp {
 public:
  template <typename T>
  class PerLane {
   public:
    explicit PerLane(const HostWarp&) {}
    T& operator[](int lane) { return values_.at(static_cast<size_t>(lane)); }
    const T& operator[](int lane) const { return values_.at(static_cast<size_t>(lane)); }

   private:
    std::array<T, kWarp> values_{};
  };

  template <typename F>
  void ForEach(const F& f) {
    for (int lane = 0; lane < kWarp; ++lane) f(lane);
  }

  void QuadMax(PerLane<RowPair>* pairs) {
    for (int half = 0; half < 2; ++half) {
      for (int first = 0; first < kWarp; first += 4) {
        float most = (*pairs)[first].row[half];
        for (int i = 1; i < 4; ++i) most = std::fmax(most, (*pairs)[first + i].row[half]);
        for (int i = 0; i < 4; ++i) (*pairs)[first + i].row[half] = most;
      }
    }
  }

  void QuadFirst(PerLane<RowPair>* pairs) {
    for (int lane = 0; lane < kWarp; ++lane) (*pairs)[lane] = (*pairs)[lane / 4 * 4];
  }

  float Exp2(float x) const { return std::exp2(x); }

 protected:
  using Left = PerLane<LeftFragment>;

  // Of the left factor, row and column of one product of 32 terms.
  static float LeftAt(const Left& left, int step, int row, int column) {
    const int lane = row % 8 * 4 + column % 16 / 4, word = column / 16 * 2 + row / 8;
    return FromE4M3(static_cast<uint8_t>(left[lane].word[step][word] >> (8 * (column % 4))));
  }

  // sums = left times right, `right(row, column)` of 64 terms and 8 columns for each part.
  template <typename Fragment, typename Right>
  static void Multiply(const Left& left, const Right& right, PerLane<Fragment>* sums) {
    constexpr int kParts = sizeof(Fragment) / sizeof(float[4]), kTerms = 32 * kSteps;
    std::array<std::array<double, kTerms>, kWarpRows> rows;
    for (int row = 0; row < kWarpRows; ++row)
      for (int term = 0; term < kTerms; ++term) rows[row][term] = LeftAt(left, term / 32, row, term % 32);
    for (int column = 0; column < 8 * kParts; ++column) {
      std::array<double, kTerms> factors;
      for (int term = 0; term < kTerms; ++term) factors[term] = right(term, column);
      for (int row = 0; row < kWarpRows; ++row) {
        const double sum = std::inner_product(factors.begin(), factors.end(), rows[row].begin(), 0.0);
        (*sums)[row % 8 * 4 + column % 8 / 2].part[column / 8][row / 8 * 2 + column % 2] = static_cast<float>(sum);
      }
    }
  }
};

// mma.sync, its right factor by ldmatrix.
class SyncHostWarp : public HostWarp {
 public:
  explicit SyncHostWarp(const uint8_t*) {}
  void Scores(const Left& q, const uint8_t* keys, PerLane<ScoreFragment>* scores) { Product(q, keys, scores); }
  void Mix(const Left& weights, const uint8_t* values, PerLane<MixFragment>* mix) { Product(weights, values, mix); }

 private:
  // What ldmatrix.x4 gives each lane.
  static PerLane<std::array<uint32_t, 4>> LoadMatrices(const HostWarp& warp, const uint8_t* rows, int n) {
    PerLane<std::array<uint32_t, 4>> words(warp);
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const uint8_t* const row = rows + MatrixRowOffset(8 * matrix + lane / 4, n);
        memcpy(&words[lane][static_cast<size_t>(matrix)], row + 4 * (lane % 4), 4);
      }
    }
    return words;
  }

  template <typename Fragment>
  void Product(const Left& left, const uint8_t* rows, PerLane<Fragment>* sums) {
    std::vector<PerLane<std::array<uint32_t, 4>>> words;
    for (size_t n = 0; n < sizeof(Fragment) / sizeof(float[4]); ++n)
      words.push_back(LoadMatrices(*this, rows, static_cast<int>(n)));
    Multiply(
        left,
        [&](int term, int column) {
          // Of step's two words the first has terms 0 to 15, the second 16 to 31.
          const int lane = column % 8 * 4 + term % 16 / 4, word = term / 16;
          const uint32_t four = words[static_cast<size_t>(column / 8)][lane][static_cast<size_t>(word)];
          return FromE4M3(static_cast<uint8_t>(four >> (8 * (term % 4))));
        },
        sums);
  }
};

// wgmma, its right factor by descriptors of `shared`, whose address is 0.
class GroupHostWarp : public HostWarp {
 public:
  explicit GroupHostWarp(const uint8_t* shared) : shared_(shared) {}
  void Scores(const Left& q, const uint8_t* keys, PerLane<ScoreFragment>* scores) { Product(q, keys, scores); }
  void Mix(const Left& weights, const uint8_t* values, PerLane<MixFragment>* mix) { Product(weights, values, mix); }

 private:
  // Rows of 64 bytes, eight of them in one piece; with the swizzle of 64 bytes the address's bits 4 and 5 are xored
  // with its bits 7 and 8.
  uint8_t ByteOf(uint64_t factor, int row, int byte) const {
    const uint64_t start = (factor & 0x3fff) << 4, eight_rows = (factor >> 32 & 0x3fff) << 4;
    const uint64_t address =
        start + static_cast<uint64_t>(row / 8) * eight_rows + static_cast<uint64_t>(row % 8 * 64 + byte);
    return shared_[factor >> 62 == 2 ? address ^ (address >> 7 & 3) << 4 : address];
  }

  template <typename Fragment>
  void Product(const Left& left, const uint8_t* rows, PerLane<Fragment>* sums) {
    const uint64_t factor = RightFactor(static_cast<uint32_t>(rows - shared_));
    Multiply(
        left,
        [&](int term, int column) {
          return FromE4M3(ByteOf(factor + static_cast<uint64_t>(term / 32) * kStepOfFactor, column, term % 32));
        },
        sums);
  }

  const uint8_t* const shared_;
};

// The job on the CPU's memory, as the blocks of a GPU compute it.
template <typename Type, class Warp>
void RunOnHost(const Attention8Job& job) {
  constexpr uint8_t kNaN = 0x7f;
  alignas(1024) uint8_t stage[kStageBytes];
  for (int64_t head = 0; head < job.samples * job.heads; ++head) {
    for (int64_t first = 0; first < job.tokens; first += kWarpRows) {
      Warp warp(stage);
      QueryRows<Warp> rows(&warp, job, head, first);
      for (int64_t tile = 0; tile < TilesOf(job.tokens); ++tile) {
        memset(stage, kNaN, sizeof(stage));  // what nobody writes
        for (int i = 0; i < kSumRows * kTileRowBytes / 4; ++i) WriteSumRows(stage, i);
        for (int i = 0; i < kChunksOfTile; ++i)
          CopyChunk(job.codes, job.tokens, head, tile, i,
                    [&](int offset, const uint8_t* source) { memcpy(stage + offset, source, kChunkBytes); });
        rows.Add(stage, static_cast<int>(std::min<int64_t>(job.tokens - tile * kAttention8Tile, kAttention8Tile)));
      }
      rows.template Store<Type>();
    }
  }
}

}  // namespace fresco::kernels
