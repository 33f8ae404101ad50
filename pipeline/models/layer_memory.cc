#include "pipeline/models/layer_memory.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "pipeline/base/ceiling.h"
#include "pipeline/base/processor.h"
#include "pipeline/kernels/row_jobs.h"
#include "pipeline/precision/fp8_attention.h"
#include "pipeline/precision/packed_product.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/row_independence.h"

namespace fresco {
namespace {

constexpr int64_t kMiB = 1 << 20;
// quantized_linear.cc's.
constexpr int64_t kCpuPieceBytes = 6 * kMiB, kGpuPieceBytes = 32 * kMiB;
constexpr int64_t kMinPieceRows = 64, kSumRows = 1024, kSumColumns = 1536, kExactTerms = 1024;
constexpr int64_t kScaleBytes = 4;
// libtorch's own attention on a CPU cuts queries and keys into blocks, and has scores and sums of one for each thread.
constexpr int64_t kMostQueries = 256, kKeysAtOnce = 512;

int64_t PieceRows(int64_t bytes, int64_t in, int64_t element, int64_t out) {
  return std::min(out, std::max(kMinPieceRows, bytes / (in * element)));
}

// Of ForPiecesOfThreads.
int64_t ThreadRows(int64_t out, int64_t piece_rows, int64_t threads) {
  constexpr int64_t kMultiple = 16;
  const int64_t count = CeilingOf(CeilingOf(out, piece_rows), threads) * threads;
  return CeilingOf(CeilingOf(out, count), kMultiple) * kMultiple;
}

bool IsHalfWide(at::ScalarType type) {
  return type == at::kBFloat16 || type == at::kHalf;
}

}  // namespace

int64_t WeightBytesOf(const Linear& linear) {
  int64_t bytes = 0;
  if (linear.parts != nullptr) {
    for (const Linear& part : *linear.parts) bytes += WeightBytesOf(part);
    return bytes;
  }
  if (linear.quantized != nullptr) return linear.quantized->weight().bytes();
  return static_cast<int64_t>(linear.weight.nbytes() + (linear.bias.defined() ? linear.bias.nbytes() : 0));
}

int64_t InputsOf(const Linear& linear) {
  if (linear.parts != nullptr) return InputsOf(linear.parts->front());
  return linear.quantized != nullptr ? linear.quantized->weight().codes.size(1) : linear.weight.size(1);
}

int64_t OutputsOf(const Linear& linear) {
  if (linear.parts == nullptr)
    return linear.quantized != nullptr ? linear.quantized->weight().codes.size(0) : linear.weight.size(0);
  int64_t outputs = 0;
  for (const Linear& part : *linear.parts) outputs += OutputsOf(part);
  return outputs;
}

LayerMemory::LayerMemory(ActivationLedger* ledger, const Placement& placement, int threads)
    : ledger_(*ledger),
      placement_(placement),
      element_(static_cast<int64_t>(c10::elementSize(placement.dtype))),
      threads_(threads) {}

bool LayerMemory::has_row_kernels(int64_t width) const {
  return placement_.device.is_cuda() && IsHalfWide(placement_.dtype) && width % kernels::kVector == 0 &&
         width <= kernels::kMaxRowWidth;
}

bool LayerMemory::has_head_kernels(int64_t width, int64_t heads) const {
  const int64_t dim = width / heads;
  return has_row_kernels(3 * width) && dim % kernels::kVector == 0 && std::has_single_bit(static_cast<uint64_t>(dim));
}

bool LayerMemory::TakesCodes(const Linear& linear, int64_t width) const {
  return linear.quantized != nullptr && QuantisesActivations(linear.quantized->scheme()) && has_row_kernels(width);
}

LayerMemory::Held LayerMemory::Codes(const Linear& linear, int64_t samples, int64_t tokens) {
  const int64_t rows = samples * tokens;
  const Held codes = ledger_.Hold(rows * (InputsOf(linear) + kScaleBytes));
  return QuantizedOnGpu(linear, rows);
}

LayerMemory::Held LayerMemory::QuantizedOnGpu(const Linear& linear, int64_t rows) {
  const int64_t out = OutputsOf(linear);
  Held sums;
  if (linear.quantized->scheme() == LinearScheme::kInt8) sums = HoldFloats(rows * out);
  return Hold(rows * out);
}

// The weight-only schemes.
LayerMemory::Held LayerMemory::Expanded(const Linear& linear, int64_t samples, int64_t tokens) {
  const int64_t in = InputsOf(linear), out = OutputsOf(linear), rows = samples * tokens;
  Held result = Hold(rows * out);
  if (!on_cpu()) {
    const int64_t piece = PieceRows(kGpuPieceBytes, in, element_, out);
    // Expanded in fp32, twice, and then in the model's type; its product.
    ledger_.Touch(piece * in * (2 * kFloat + element_) + rows * piece * element_);
    return result;
  }
  const bool packed = placement_.dtype == at::kBFloat16 && IsFp8(linear.quantized->scheme()) && in % 2 == 0;
  if (packed && HasPackedProducts()) return result;  // whose blocks are no tensors
  const int64_t piece = ThreadRows(out, std::max(kMinPieceRows, kCpuPieceBytes / (in * element_)), threads_);
  ledger_.Touch(std::min<int64_t>(threads_, CeilingOf(out, piece)) * piece * in * element_);
  return result;
}

LayerMemory::Held LayerMemory::Quantized(const Linear& linear, int64_t samples, int64_t tokens) {
  const LinearScheme scheme = linear.quantized->scheme();
  if (!QuantisesActivations(scheme)) return Expanded(linear, samples, tokens);
  const int64_t in = InputsOf(linear), out = OutputsOf(linear), rows = samples * tokens;
  if (!on_cpu()) return Codes(linear, samples, tokens);
  const bool fp8 = scheme == LinearScheme::kFp8;
  const Held codes = ledger_.Hold(rows * (in * (fp8 ? kFloat : 1) + kScaleBytes));
  Held bias;
  if (placement_.dtype != at::kFloat) bias = HoldFloats(out);
  Held result = Hold(rows * out);
  if (fp8) {
    const int64_t piece = PieceRows(kCpuPieceBytes, in, kFloat, out);
    TouchFloats(piece * (in + tokens));  // the weight's values, and a sample's sums
    return result;
  }
  const int64_t piece = ThreadRows(out, kSumColumns, threads_), at_once = std::min(rows, kSumRows);
  int64_t sums = at_once * piece;
  if (!ProcessorHasAvx512Vnni()) sums = 3 * sums + std::min(in, kExactTerms) * (piece + at_once);
  TouchFloats(std::min<int64_t>(threads_, CeilingOf(out, piece)) * sums);
  return result;
}

LayerMemory::Held LayerMemory::Product(const Linear& linear, int64_t samples, int64_t tokens) {
  if (linear.parts != nullptr) {
    std::vector<Held> parts;
    for (const Linear& part : *linear.parts) parts.push_back(Product(part, samples, tokens));
    return Hold(samples * tokens * OutputsOf(linear));
  }
  if (linear.quantized != nullptr) return Quantized(linear, samples, tokens);
  const int64_t results = samples * tokens * OutputsOf(linear);
  Held apart;
  if (samples > 1 && on_cpu() && !RowsAreIndependent(placement_.dtype)) apart = Hold(results);
  return Hold(results);
}

LayerMemory::Held LayerMemory::Tokens(const Linear& linear, int64_t samples, int64_t tokens, bool contiguous) {
  const bool padded = tokens < Linear::kMinTokens && (on_cpu() || linear.quantized == nullptr);
  Held copy;
  if (padded || !contiguous)
    copy = Hold(samples * std::max(tokens, padded ? Linear::kMinTokens : 0) * InputsOf(linear));
  return Product(linear, samples, padded ? Linear::kMinTokens : tokens);
}

LayerMemory::Held LayerMemory::Rows(const Linear& linear, int64_t rows) {
  const int64_t out = OutputsOf(linear), padded = CeilingOf(rows, Linear::kRows) * Linear::kRows;
  Held chunks;
  if (padded > Linear::kRows) chunks = Hold(padded * out);
  return Hold(padded * out);
}

LayerMemory::Held LayerMemory::RmsNorm(int64_t elements) {
  Held wide;
  if (placement_.dtype != at::kFloat) wide = HoldFloats(elements);
  TouchFloats(elements);  // squares
  if (placement_.dtype == at::kFloat) return HoldFloats(elements);
  const Held scaled = HoldFloats(elements);
  return Hold(elements);
}

LayerMemory::Held LayerMemory::Attention(const Heads& heads, bool plain) {
  const int64_t mixtures = heads.samples * heads.queries * heads.heads;
  Held result = Hold(mixtures * heads.width);
  if (!on_cpu()) {
    TouchFloats(mixtures);  // the logarithms of the sums
    return result;
  }
  if (plain && placement_.dtype == at::kBFloat16 && heads.width % 2 == 0 && HasPackedProducts()) return result;
  const int64_t queries = heads.queries >= 768 ? kMostQueries : heads.queries >= 192 ? 64 : 32;
  const int64_t rows = std::min(queries, heads.queries), keys = std::min(kKeysAtOnce, heads.keys);
  int64_t scratch = threads_ * rows * (keys + 2 + heads.width) * kFloat + mixtures * kFloat;
  if (placement_.dtype != at::kFloat) scratch += threads_ * rows * keys * element_;
  ledger_.Touch(scratch);
  return result;
}

LayerMemory::Held LayerMemory::Attention(const Heads& heads, AttentionScheme scheme) {
  if (scheme != AttentionScheme::kFp8 || !(on_cpu() || IsHalfWide(placement_.dtype))) return Attention(heads);
  const Held codes = ledger_.Hold(Fp8AttentionBytes(heads.samples, heads.heads, heads.queries));
  return Hold(heads.samples * heads.queries * heads.heads * heads.width);
}

}  // namespace fresco
