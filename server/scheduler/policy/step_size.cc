#include "server/scheduler/policy/step_size.h"

namespace fresco {
namespace {

constexpr double kTokensWhereAttentionEqualsLinears = 14600;

}  // namespace

double RelativeWork(int tokens) {
  return tokens * (1 + tokens / kTokensWhereAttentionEqualsLinears);
}

void StepSize::Add(CurveId curve, int tokens, int rows) {
  StepSize more;
  more.curve_ = curve;
  more.widest_ = tokens;
  more.rows_ = rows;
  more.tokens_ = int64_t{rows} * tokens;
  more.work_ = rows * RelativeWork(tokens);
  Add(more);
}

void StepSize::Add(const StepSize& other) {
  mixed_ = mixed_ || other.mixed_ || (rows_ > 0 && other.rows_ > 0 && other.widest_ != widest_);
  if (rows_ == 0 || other.widest_ > widest_) {
    widest_ = other.widest_;
    curve_ = other.curve_;
  }
  rows_ += other.rows_;
  tokens_ += other.tokens_;
  work_ += other.work_;
}

double StepSize::RowsByWork() const {
  return mixed_ ? work_ / RelativeWork(widest_) : rows_;
}

int StepSize::RowsByTokens() const {
  return mixed_ ? static_cast<int>((tokens_ + widest_ - 1) / widest_) : rows_;
}

}  // namespace fresco
