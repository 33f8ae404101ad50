// What a step computes: rows of one number of tokens or, where images of different sizes share it, of several.
#pragma once

#include <cstdint>

namespace fresco {

// Of one model and number of tokens; valid as long as its CostModel.
using CurveId = int;

// Multiplications of one row, in units of what a token costs where attention costs nothing: linears grow with the
// tokens, attention with their square, and is as much as the linears at 14,600 tokens (SD3.5 Large at 1024x1024: 4,429
// tokens, linears 23.9 and attention 7.25 TFLOP; docs/facts/sd35.md).
double RelativeWork(int tokens);

// Of one model. A mixed step is counted in rows of its widest size, as what is known of steps is known by size and
// whole rows.
class StepSize {
 public:
  // `curve`: of the model's rows of so many tokens.
  void Add(CurveId curve, int tokens, int rows);
  void Add(const StepSize& other);

  bool mixed() const { return mixed_; }
  CurveId curve() const { return curve_; }    // of the widest rows
  int rows() const { return rows_; }          // of all sizes
  int64_t tokens() const { return tokens_; }  // of all rows
  double work() const { return work_; }       // RelativeWork of all rows
  // Of the widest size as many rows are as much work: what a step's time goes by. rows() where all are of one size,
  // else fewer, and no whole number.
  double RowsByWork() const;
  // And so many have no fewer tokens: what its memory goes by, rather too much.
  int RowsByTokens() const;

 private:
  bool mixed_ = false;
  CurveId curve_ = 0;
  int widest_ = 0;  // tokens
  int rows_ = 0;
  int64_t tokens_ = 0;
  double work_ = 0;
};

}  // namespace fresco
