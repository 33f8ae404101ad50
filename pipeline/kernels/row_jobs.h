// What the row kernels are asked to do: plain structs, passed by value to a GPU. Every pointer is to memory of the
// device that computes, aligned to 16 bytes; rows are contiguous. Elements are bfloat16 or fp16, all of a job's alike.
#pragma once

#include <cstdint>

namespace fresco::kernels {

// Elements that are loaded and stored at once. Every width is a multiple of it.
constexpr int kVector = 8;
// Of a row: 32 elements for each of the 1024 lanes that work on it at most.
constexpr int kMaxRowWidth = 32768;

enum class RowFormat : int32_t {
  kPlain,  // elements
  kE4M3,   // codes and a scale for each row, as e4m3.h defines them
  kInt8,
};

// What becomes of a row's fp32 results, and where it goes. Each is first multiplied by its column's `multiplier`.
struct RowOutput {
  RowFormat format = RowFormat::kPlain;
  void* values = nullptr;             // [rows, width]
  float* scales = nullptr;            // [rows]; none for kPlain
  const float* multiplier = nullptr;  // [width], or null: SmoothQuant's migration
  float fixed_scale = 0;              // of every row, from calibration; 0: each row's own, from its largest magnitude
  bool guard = false;                 // rows that a fixed scale would saturate take their own
  // Incremented by the results that saturate: there are none but with a fixed scale without guard, and none in rows
  // with a NaN or an infinity, which always have their own scale, NaN. Or null.
  unsigned long long* saturated = nullptr;
};

// One vector of `width` elements for each sample, `stride` elements apart.
struct SampleVectors {
  const void* data = nullptr;
  int64_t stride = 0;
};

// Rows of several samples, one after the other.
struct RowShape {
  int64_t rows = 0;
  int64_t rows_per_sample = 1;
  int32_t width = 0;
  // [rows]: whose each is, where samples have different numbers of rows; rows_per_sample means nothing then. Or null.
  const int32_t* sample_of_row = nullptr;
};

// out = LayerNorm(x) * (1 + scale) + shift. With a branch, x is first replaced by `sum`, which is written:
// x + gate * branch, rounded to its element.
struct NormModulateJob {
  RowShape shape;
  const void* x = nullptr;
  const void* branch = nullptr;  // or null
  SampleVectors gate;
  void* sum = nullptr;  // may be x
  SampleVectors scale, shift;
  float eps = 0;
  RowOutput out;
};

// out = x, or GELU(x) by its tanh formula.
struct RowJob {
  RowShape shape;
  const void* x = nullptr;
  int64_t x_sample_rows = 1;  // from one sample's first row in x to the next one's; in `out` they adjoin
  bool gelu = false;
  RowOutput out;
};

// sum = x + gate * branch, rounded to its element.
struct GateResidualJob {
  RowShape shape;
  const void* x = nullptr;
  const void* branch = nullptr;
  SampleVectors gate;
  void* sum = nullptr;  // may be x
};

// x / rms(x) * weight over each head of q and k, v as it is: token n of a sample becomes token first_token + n of the
// out_tokens that the sample has there. In place where both are one (and v is then not touched).
struct NormHeadsJob {
  int64_t rows = 0, rows_per_sample = 1;
  int32_t heads = 0;
  int32_t head_dim = 0;          // 8, 16, 32, 64, 128 or 256
  const void* qkv = nullptr;     // [rows, 3, heads, head_dim]
  const void* norm_q = nullptr;  // [head_dim], or null: q as it is
  const void* norm_k = nullptr;
  float eps = 0;
  void* out = nullptr;  // [samples, out_tokens, 3, heads, head_dim]
  int64_t out_tokens = 1;
  int64_t first_token = 0;
  // [rows]: which token of all in `out` each becomes, for samples of different lengths; rows_per_sample, out_tokens and
  // first_token mean nothing then. Or null.
  const int32_t* out_rows = nullptr;
};

// out = Dequantized(sums, row_scales[row], column_scales[column], bias[column]), rounded to the element.
struct DequantizeJob {
  RowShape shape;
  const int32_t* sums = nullptr;
  const float* row_scales = nullptr;     // [rows]
  const float* column_scales = nullptr;  // [width]
  const void* bias = nullptr;            // [width], or null
  void* out = nullptr;
};

// Changes when the structs do: a library built from others would read nonsense.
constexpr int64_t kJobsLayout =
    ((((static_cast<int64_t>(sizeof(NormModulateJob)) * 1009 + sizeof(RowJob)) * 1009 + sizeof(GateResidualJob)) *
          1009 +
      sizeof(NormHeadsJob)) *
         1009 +
     sizeof(DequantizeJob));

}  // namespace fresco::kernels
