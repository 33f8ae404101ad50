#include "server/scheduler/policy/cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr double kTokensWhereAttentionEqualsLinears = 14600;
// Of a new measurement: in the pace, and in its cell, where it is to tell what the pace does not.
constexpr double kWeightInPace = 0.1;
constexpr double kWeightInCell = 0.01;
// One that is out of all proportion counts as so many times what was predicted, or as its inverse.
constexpr double kMostOff = 4;
// A cell is the mean of its first measurements; with these it knows enough to tell the pace.
constexpr int64_t kMeanUntil = 10;
// The line changes slowly once it has its cells; to draw it again after every step would cost more than it tells.
constexpr int64_t kRecordsPerFit = 64;
// With a single point there is no line. Taking this share of it for overhead predicts that batches pay, so that they
// are tried and measured.
constexpr double kOverheadOfOnePoint = 0.25;
constexpr int kMaxRows = 1024;
constexpr int kMaxTokens = 1 << 20;
// Bounds of what is believed, so that sums of it stay numbers.
constexpr double kLeastSeconds = 1e-9, kMostSeconds = 1e6;
constexpr int64_t kMostCount = int64_t{1} << 50;
constexpr int64_t kMostBytes = int64_t{1} << 50;

}  // namespace

double RelativeWork(int tokens) {
  return tokens * (1 + tokens / kTokensWhereAttentionEqualsLinears);
}

int CostModel::Model(std::string_view name) {
  for (size_t i = 0; i < models_.size(); ++i) {
    if (models_[i].name == name) return static_cast<int>(i);
  }
  models_.emplace_back().name = std::string(name);
  return static_cast<int>(models_.size()) - 1;
}

CurveId CostModel::Curve(std::string_view model, int tokens) {
  const int index = Model(model);
  const auto [entry, is_new] = ids_.try_emplace({index, tokens}, static_cast<CurveId>(curves_.size()));
  if (is_new) {
    curves_.push_back({index, tokens, RelativeWork(tokens), {}, {}, false});
    models_[index].curves.push_back(entry->second);
  }
  return entry->second;
}

CostModel::Cell* CostModel::MutableCell(CurveId curve, int rows) {
  std::vector<Cell>& cells = curves_.at(curve).cells;
  if (static_cast<int>(cells.size()) < rows) cells.resize(rows);
  return &cells[rows - 1];
}

void CostModel::RecordStep(CurveId curve, int rows, absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!(seconds >= kLeastSeconds && seconds <= kMostSeconds) || rows < 1 || rows > kMaxRows) return;
  Cell* cell = MutableCell(curve, rows);
  ModelState& model = models_[curves_[curve].model];
  if (++cell->count <= kMeanUntil) {
    cell->seconds += (seconds / model.pace - cell->seconds) / static_cast<double>(cell->count);
  } else {
    const double off = std::clamp(seconds / (model.pace * cell->seconds), 1 / kMostOff, kMostOff) - 1;
    model.pace *= 1 + kWeightInPace * off;
    cell->seconds *= 1 + kWeightInCell * off;
  }
  RefitCurve(&curves_[curve]);
  if (cell->count == 1 || ++model.records % kRecordsPerFit == 0) RefitModel(&model);
}

void CostModel::RecordMemory(CurveId curve, int rows, int64_t activation_bytes) {
  if (activation_bytes < 0 || activation_bytes > kMostBytes || rows < 1 || rows > kMaxRows) return;
  Cell* cell = MutableCell(curve, rows);
  cell->activation_bytes = std::max(cell->activation_bytes, activation_bytes);
  const CurveState& state = curves_[curve];
  double& most = models_[state.model].bytes_per_token;
  most = std::max(most, static_cast<double>(activation_bytes) / (static_cast<double>(rows) * state.tokens));
}

// Least squares of the relative error, (overhead + slope * x) / y - 1, neither below 0.
class CostModel::Fit {
 public:
  void Add(double x, double y, double weight) {
    const double u = 1 / y;
    const double v = x / y;
    uu_ += weight * u * u;
    uv_ += weight * u * v;
    vv_ += weight * v * v;
    u_ += weight * u;
    v_ += weight * v;
    ++points_;
  }
  // Of one x there is no line.
  bool IsLine() const { return points_ >= 2 && Determinant() > 1e-9 * uu_ * vv_; }
  Line Result() const {
    if (!IsLine()) return {kOverheadOfOnePoint * u_ / uu_, (1 - kOverheadOfOnePoint) * v_ / vv_};
    const Line line = {(vv_ * u_ - uv_ * v_) / Determinant(), (uu_ * v_ - uv_ * u_) / Determinant()};
    if (line.overhead < 0) return {0, v_ / vv_};
    if (line.slope < 0) return {u_ / uu_, 0};
    return line;
  }

 private:
  double Determinant() const { return uu_ * vv_ - uv_ * uv_; }

  double uu_ = 0, uv_ = 0, vv_ = 0, u_ = 0, v_ = 0;
  int points_ = 0;
};

void CostModel::RefitCurve(CurveState* curve) {
  Fit fit;
  for (size_t i = 0; i < curve->cells.size(); ++i) {
    const Cell& cell = curve->cells[i];
    if (cell.count == 0) continue;
    fit.Add(static_cast<double>(i + 1), cell.seconds, static_cast<double>(std::min(cell.count, kMeanUntil)));
  }
  curve->own_line = fit.IsLine();
  curve->line = fit.Result();
}

void CostModel::RefitModel(ModelState* model) const {
  Fit fit;
  for (CurveId id : model->curves) {
    const CurveState& curve = curves_[id];
    for (size_t i = 0; i < curve.cells.size(); ++i) {
      if (curve.cells[i].count == 0) continue;
      fit.Add(static_cast<double>(i + 1) * curve.work, curve.cells[i].seconds, 1);
    }
  }
  model->line = fit.Result();
}

// Null: none is measured.
const CostModel::Cell* CostModel::Nearest(const CurveState& curve, int rows, int* found_rows) const {
  const int size = static_cast<int>(curve.cells.size());
  for (int distance = 0; distance < std::max(rows, size); ++distance) {
    for (const int candidate : {rows - distance, rows + distance}) {
      if (candidate < 1 || candidate > size || curve.cells[candidate - 1].count == 0) continue;
      *found_rows = candidate;
      return &curve.cells[candidate - 1];
    }
  }
  return nullptr;
}

double CostModel::StepSeconds(CurveId id, int rows) const {
  const CurveState& curve = curves_[id];
  return models_[curve.model].pace * AtPaceOne(curve, rows);
}

double CostModel::AtPaceOne(const CurveState& curve, int rows) const {
  const bool measured = rows <= static_cast<int>(curve.cells.size()) && curve.cells[rows - 1].count > 0;
  if (!measured) return FromOthers(curve, rows);
  const Cell& cell = curve.cells[rows - 1];
  if (cell.count >= kMeanUntil) return cell.seconds;
  const double share = static_cast<double>(cell.count) / kMeanUntil;
  return share * cell.seconds + (1 - share) * FromOthers(curve, rows);
}

double CostModel::FromOthers(const CurveState& curve, int rows) const {
  if (curve.own_line) return curve.line.At(rows);
  const ModelState& model = models_[curve.model];
  int near_rows = 0;
  const Cell* near = Nearest(curve, rows, &near_rows);
  const double line = model.line.At(rows * curve.work);
  if (near == nullptr) return line;
  const double line_there = model.line.At(near_rows * curve.work);
  return line_there > 0 ? line * near->seconds / line_there : near->seconds;
}

int64_t CostModel::ActivationBytes(CurveId id, int rows) const {
  if (rows < 1) return 0;
  const CurveState& curve = curves_[id];
  if (rows <= static_cast<int>(curve.cells.size()) && curve.cells[rows - 1].activation_bytes > 0) {
    return curve.cells[rows - 1].activation_bytes;
  }
  const double bytes = models_[curve.model].bytes_per_token * rows * curve.tokens;
  return static_cast<int64_t>(std::min(bytes, static_cast<double>(std::numeric_limits<int64_t>::max() / 2)));
}

std::vector<MeasuredStep> CostModel::Measured() const {
  std::vector<MeasuredStep> measured;
  for (const CurveState& curve : curves_) {
    for (size_t i = 0; i < curve.cells.size(); ++i) {
      const Cell& cell = curve.cells[i];
      if (cell.count == 0) continue;
      const ModelState& model = models_[curve.model];
      measured.push_back({model.name, curve.tokens, static_cast<int>(i) + 1, model.pace * cell.seconds, cell.count,
                          cell.activation_bytes});
    }
  }
  const auto order = [](const MeasuredStep& m) { return std::tie(m.model, m.tokens, m.rows); };
  std::sort(measured.begin(), measured.end(), [&](const auto& a, const auto& b) { return order(a) < order(b); });
  return measured;
}

absl::Status CostModel::Add(const MeasuredStep& measured) {
  const auto refuse = [](std::string_view field, std::string_view must) {
    return absl::InvalidArgumentError(StrCat(field, ": ", must));
  };
  if (measured.model.empty()) return refuse("model", "must not be empty");
  if (measured.tokens < 1 || measured.tokens > kMaxTokens) return refuse("tokens", "must be from 1 to 1048576");
  if (measured.rows < 1 || measured.rows > kMaxRows) return refuse("rows", "must be from 1 to 1024");
  if (!(measured.seconds >= kLeastSeconds && measured.seconds <= kMostSeconds)) {
    return refuse("seconds", "must be from 1e-9 to 1e6");
  }
  if (measured.count < 1 || measured.count > kMostCount) return refuse("count", "must be from 1 to 2^50");
  if (measured.activation_bytes < 0 || measured.activation_bytes > kMostBytes) {
    return refuse("activation_bytes", "must be from 0 to 2^50");
  }
  const CurveId curve = Curve(measured.model, measured.tokens);
  Cell* cell = MutableCell(curve, measured.rows);
  cell->seconds = measured.seconds / models_[curves_[curve].model].pace;
  cell->count = measured.count;
  if (measured.activation_bytes > 0) RecordMemory(curve, measured.rows, measured.activation_bytes);
  RefitCurve(&curves_[curve]);
  RefitModel(&models_[curves_[curve].model]);
  return absl::OkStatus();
}

}  // namespace fresco
