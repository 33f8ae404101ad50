// What the layers of layers.h hold while they compute, by shapes: parts of the models' *_memory.cc.
#pragma once

#include <cstdint>

#include "pipeline/models/activation_ledger.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/placement.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// Where and in what a model computes. Its weights may be shapes alone (WeightReader::OfShapes).
class LayerMemory {
 public:
  using Held = ActivationLedger::Held;

  // `threads`: that compute on a CPU, each of which has some memory of its own.
  LayerMemory(ActivationLedger* ledger, const Placement& placement, int threads);

  // Elements of the model's type, of fp32.
  [[nodiscard]] Held Hold(int64_t elements) { return ledger_.Hold(elements * element_); }
  [[nodiscard]] Held HoldFloats(int64_t elements) { return ledger_.Hold(elements * kFloat); }
  void TouchFloats(int64_t elements) { ledger_.Touch(elements * kFloat); }

  // The result of linear.Tokens over [samples, tokens, in]; `contiguous`: what it is given.
  Held Tokens(const Linear& linear, int64_t samples, int64_t tokens, bool contiguous = true);
  // The result of linear.Rows.
  Held Rows(const Linear& linear, int64_t rows);
  // The result of a linear whose tokens a GPU's kernel makes into codes on their way, where that is how it computes
  // (TakesCodes of mmdit.cc), from an input that is not there in any other form.
  Held Codes(const Linear& linear, int64_t samples, int64_t tokens);
  bool TakesCodes(const Linear& linear, int64_t width) const;

  // The result of RmsNorm of so many elements.
  Held RmsNorm(int64_t elements);
  // The result of Attention: `heads` of `width` over `queries` and `keys` tokens. Its inputs are the caller's.
  struct Heads {
    int64_t samples = 1, heads = 1, width = 64, queries = 1, keys = 1;
  };
  Held Attention(const Heads& heads, bool plain = true);
  // The same, or where the scheme is FP8 and it is to be had, Fp8Attention's.
  Held Attention(const Heads& heads, AttentionScheme scheme);

  // fused_rows.h's, of tokens of such a width.
  bool has_row_kernels(int64_t width) const;
  bool has_head_kernels(int64_t width, int64_t heads) const;

  const Placement& placement() const { return placement_; }
  int64_t element() const { return element_; }  // bytes
  bool on_cpu() const { return placement_.device.is_cpu(); }
  int threads() const { return threads_; }
  ActivationLedger& ledger() { return ledger_; }

  static constexpr int64_t kFloat = 4;  // bytes

 private:
  Held Product(const Linear& linear, int64_t samples, int64_t tokens);
  Held Quantized(const Linear& linear, int64_t samples, int64_t tokens);
  Held QuantizedOnGpu(const Linear& linear, int64_t rows);
  Held Expanded(const Linear& linear, int64_t samples, int64_t tokens);

  ActivationLedger& ledger_;
  const Placement placement_;
  const int64_t element_;
  const int threads_;
};

int64_t WeightBytesOf(const Linear& linear);
// Features that a linear takes and gives.
int64_t InputsOf(const Linear& linear);
int64_t OutputsOf(const Linear& linear);

}  // namespace fresco
