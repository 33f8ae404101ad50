#include "server/scheduler/policy/cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr double kTokensWhereAttentionEqualsLinears = 14600;
constexpr double kWeightOfNewest = 0.1;
// The first measurements count in full: their mean, until there are as many as the average forgets in.
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
    curves_.push_back({index, tokens, RelativeWork(tokens), {}});
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
  ++cell->count;
  const double weight = cell->count <= kMeanUntil ? 1.0 / static_cast<double>(cell->count) : kWeightOfNewest;
  cell->seconds += weight * (seconds - cell->seconds);
  ModelState& model = models_[curves_[curve].model];
  if (cell->count == 1 || ++model.records % kRecordsPerFit == 0) Refit(&model);
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
void CostModel::Refit(ModelState* model) const {
  double uu = 0;
  double uv = 0;
  double vv = 0;
  double u_sum = 0;
  double v_sum = 0;
  double points = 0;
  for (CurveId id : model->curves) {
    const CurveState& curve = curves_[id];
    for (size_t i = 0; i < curve.cells.size(); ++i) {
      if (curve.cells[i].count == 0) continue;
      const double u = 1 / curve.cells[i].seconds;
      const double v = static_cast<double>(i + 1) * curve.work * u;
      uu += u * u;
      uv += u * v;
      vv += v * v;
      u_sum += u;
      v_sum += v;
      ++points;
    }
  }
  const double determinant = uu * vv - uv * uv;
  if (points < 2 || determinant <= 1e-9 * uu * vv) {
    model->overhead = kOverheadOfOnePoint * u_sum / uu;
    model->slope = (1 - kOverheadOfOnePoint) * v_sum / vv;
    return;
  }
  model->overhead = (vv * u_sum - uv * v_sum) / determinant;
  model->slope = (uu * v_sum - uv * u_sum) / determinant;
  if (model->overhead < 0) {
    model->overhead = 0;
    model->slope = v_sum / vv;
  } else if (model->slope < 0) {
    model->slope = 0;
    model->overhead = u_sum / uu;
  }
}

double CostModel::Line(const CurveState& curve, int rows) const {
  const ModelState& model = models_[curve.model];
  return model.overhead + model.slope * rows * curve.work;
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
  int near_rows = 0;
  const Cell* near = Nearest(curve, rows, &near_rows);
  if (near != nullptr && near_rows == rows) return near->seconds;
  const double line = Line(curve, rows);
  if (near == nullptr) return line;
  const double line_there = Line(curve, near_rows);
  return line_there > 0 ? line * near->seconds / line_there : near->seconds;
}

int64_t CostModel::ActivationBytes(CurveId id, int rows) const {
  if (rows < 1) return 0;
  const CurveState& curve = curves_[id];
  if (rows <= static_cast<int>(curve.cells.size()) && curve.cells[rows - 1].activation_bytes > 0) {
    return curve.cells[rows - 1].activation_bytes;
  }
  const double bytes = models_[curve.model].bytes_per_token * rows * curve.tokens;
  return static_cast<int64_t>(std::min(bytes, static_cast<double>(int64_t{1} << 62)));
}

std::vector<MeasuredStep> CostModel::Measured() const {
  std::vector<MeasuredStep> measured;
  for (const CurveState& curve : curves_) {
    for (size_t i = 0; i < curve.cells.size(); ++i) {
      const Cell& cell = curve.cells[i];
      if (cell.count == 0) continue;
      measured.push_back({models_[curve.model].name, curve.tokens, static_cast<int>(i) + 1, cell.seconds, cell.count,
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
  cell->seconds = measured.seconds;
  cell->count = measured.count;
  if (measured.activation_bytes > 0) RecordMemory(curve, measured.rows, measured.activation_bytes);
  Refit(&models_[curves_[curve].model]);
  return absl::OkStatus();
}

}  // namespace fresco
