// What the kernels of FP8 attention are asked to do, and how its codes lie in memory: plain structs, passed by value to
// a GPU. Pointers are to memory of the device that computes, aligned to 16 bytes.
//
// For each head, over its N tokens, softmax(q k^T scale) v with both products on E4M3 codes:
//   q = codes * scale, a scale for each token;
//   k - mean = codes * scale, one scale for the head: softmax does not change when all keys lose the same vector;
//   v - mean = codes * scale, a scale for each channel; the mean is added to the result, as the weights' sum is 1;
//   a weight's code is 2^8 * 2^(score - m), m the row's running maximum rounded up to a whole number: a new maximum
//     scales codes by powers of two alone, so that they do not depend on how the keys are cut into tiles;
//   the weights' sum is the sum of their codes.
// Smoothed keys are SageAttention's (arXiv:2410.02367), smoothed values SageAttention2's (arXiv:2411.10958).
#pragma once

#include <cstdint>

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

constexpr int kAttention8Dim = 64;   // channels of a head
constexpr int kAttention8Tile = 64;  // tokens that are keys at a time

// Rows of 64 elements, each in one piece; from one sample's, head's, token's to the next one's, in elements, multiples
// of 8.
struct HeadRows {
  const void* data = nullptr;
  int64_t sample = 0, head = 0, token = 0;
};

// Of a head's keys and values.
struct HeadScales {
  float k_mean[kAttention8Dim], v_mean[kAttention8Dim], v_scale[kAttention8Dim];
  float k_scale, unused[3];
};

// Of a tile of a head's tokens.
struct TileStatistics {
  float k_sum[kAttention8Dim], k_least[kAttention8Dim], k_most[kAttention8Dim];
  float v_sum[kAttention8Dim], v_least[kAttention8Dim], v_most[kAttention8Dim];
};

// Heads as codes, H = samples * heads of them, of `tokens` each, `filled` to whole tiles with zeros.
struct HeadCodes {
  uint8_t* q = nullptr;         // [H, tokens, 64]
  uint8_t* k = nullptr;         // [H, filled, 64]
  uint8_t* v = nullptr;         // [H, 64, filled], each 16 keys in the order of KeyAt
  float* q_scales = nullptr;    // [H, tokens]
  HeadScales* heads = nullptr;  // [H]
};

struct EncodeHeadsJob {
  int64_t samples = 0, tokens = 0;
  int32_t heads = 0;
  HeadRows q, k, v;
  HeadCodes codes;
  TileStatistics* tiles = nullptr;  // [H, filled / 64], for the kernels' own use
};

// `scale` is positive.
struct Attention8Job {
  int64_t samples = 0, tokens = 0;
  int32_t heads = 0;
  float scale = 0;
  HeadCodes codes;
  void* out = nullptr;  // [samples, tokens, heads, 64] elements
};

// Changes when the structs do (see kJobsLayout).
constexpr int64_t kAttention8Layout =
    (static_cast<int64_t>(sizeof(EncodeHeadsJob)) * 1009 + sizeof(Attention8Job)) * 1009 + sizeof(HeadScales);

FRESCO_HOST_DEVICE constexpr int64_t TilesOf(int64_t tokens) {
  return (tokens + kAttention8Tile - 1) / kAttention8Tile;
}
FRESCO_HOST_DEVICE constexpr int64_t FilledTokens(int64_t tokens) {
  return TilesOf(tokens) * kAttention8Tile;
}

// Which of 16 keys lies at a position of v's codes: the order in which the lanes of a tensor core's product hold scores
// is so that in which they must hold weights, and no score moves from lane to lane in between.
FRESCO_HOST_DEVICE constexpr int KeyAt(int position) {
  return (position >> 1 & 1) * 8 + (position >> 2) * 2 + (position & 1);
}

}  // namespace fresco::kernels
