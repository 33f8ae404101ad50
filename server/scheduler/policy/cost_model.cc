#include "server/scheduler/policy/cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// Of a new measurement, in the pace, once its cell is known well.
constexpr double kPaceGain = 0.2;
// A cell is the mean of about so many of its last measurements.
constexpr double kMostWeight = 100;
// Its weight is down to 1/e after so many steps with other numbers of rows.
constexpr double kForgottenAfter = 300;
// Of the line, in what is predicted for a cell and in the pace: as so many measurements.
constexpr double kLineWeight = 4;
// One measurement that is out of all proportion (the first of a size compiles, allocates, pages in) counts as so many
// times what was predicted, or as its inverse.
constexpr double kMostOff = 3;
// What is known from elsewhere of a line's proportions, as measurements: it decides where these do not.
constexpr double kWeightOfProportions = 0.01;
// Where nothing is known, this share of a step is overhead: batches pay, so that they are tried and measured.
constexpr double kOverheadUntilKnown = 0.25;
// A model's line changes slowly once it has its cells; to draw it again after every step would cost more than it tells.
constexpr int64_t kRecordsPerFit = 64;
constexpr int kMaxRows = 1024;
constexpr int kMaxTokens = 1 << 20;
// Bounds of what is believed, so that sums of it stay numbers.
constexpr double kLeastSeconds = 1e-9, kMostSeconds = 1e6;
constexpr int64_t kMostCount = int64_t{1} << 50;
constexpr int64_t kMostBytes = int64_t{1} << 50;

bool IsBelieved(double seconds) {
  return seconds >= kLeastSeconds && seconds <= kMostSeconds;
}

}  // namespace

CostModel* CostModel::MutableOf(CostTypeId type) {
  return type == 0 ? this : &types_.at(type - 1).costs;
}

const CostModel& CostModel::Of(CostTypeId type) const {
  return type == 0 ? *this : types_.at(type - 1).costs;
}

// One that is new has the same curves, of which it knows nothing.
CostModel::TypeState* CostModel::FindType(std::string_view name) {
  const auto found =
      std::find_if(types_.begin(), types_.end(), [&](const TypeState& type) { return type.name == name; });
  if (found != types_.end()) return &*found;
  TypeState& type = types_.emplace_back();
  type.name = std::string(name);
  for (const ModelState& model : models_) type.costs.Model(model.name);
  for (const CurveState& curve : curves_) type.costs.Curve(models_[curve.model].name, curve.tokens);
  return &type;
}

CostTypeId CostModel::Type(std::string_view name) {
  if (name.empty()) return 0;
  TypeState* const type = FindType(name);
  for (size_t i = 0; i < models_.size(); ++i) {
    const int model = static_cast<int>(i);
    if (!type->costs.Knows(model)) type->costs.TakeOver(model, *this);
  }
  return static_cast<CostTypeId>(type - types_.data()) + 1;
}

bool CostModel::Knows(int model) const {
  const std::vector<CurveId>& curves = models_[model].curves;
  return std::any_of(curves.begin(), curves.end(), [&](CurveId curve) { return !curves_[curve].cells.empty(); });
}

void CostModel::TakeOver(int model, const CostModel& from) {
  const bool present = models_[model].present;
  models_[model] = from.models_[model];
  models_[model].present = present;
  for (CurveId curve : models_[model].curves) curves_[curve] = from.curves_[curve];
}

void CostModel::SetPresent(CostTypeId type, std::string_view model, bool present) {
  const int index = Model(model);
  MutableOf(type)->models_[index].present = present;
}

int CostModel::Model(std::string_view name) {
  for (size_t i = 0; i < models_.size(); ++i) {
    if (models_[i].name == name) return static_cast<int>(i);
  }
  models_.emplace_back().name = std::string(name);
  for (TypeState& type : types_) type.costs.Model(name);
  return static_cast<int>(models_.size()) - 1;
}

CurveId CostModel::Curve(std::string_view model, int tokens) {
  const int index = Model(model);
  const auto [entry, is_new] = ids_.try_emplace({index, tokens}, static_cast<CurveId>(curves_.size()));
  if (is_new) {
    CurveState& curve = curves_.emplace_back();
    curve.model = index;
    curve.tokens = tokens;
    curve.work = RelativeWork(tokens);
    models_[index].curves.push_back(entry->second);
    for (TypeState& type : types_) type.costs.Curve(model, tokens);
  }
  return entry->second;
}

CostModel::Cell* CostModel::MutableCell(CurveId curve, int rows) {
  std::vector<Cell>& cells = curves_.at(curve).cells;
  if (static_cast<int>(cells.size()) < rows) cells.resize(rows);
  return &cells[rows - 1];
}

void CostModel::RecordStep(CurveId id, int rows, absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!IsBelieved(seconds) || rows < 1 || rows > kMaxRows) return;
  Cell* const cell = MutableCell(id, rows);
  CurveState& curve = curves_[id];
  ModelState& model = models_[curve.model];
  for (Cell& other : curve.cells) {
    if (&other != cell) other.weight *= 1 - 1 / kForgottenAfter;
  }
  model.mixing.weight *= 1 - 1 / kForgottenAfter;
  Learn(seconds, LineSeconds(curve, rows), cell, &model.pace);
  const bool is_new = ++cell->count == 1;
  if (is_new || ++model.records % kRecordsPerFit == 0) RefitModel(&model);
  RefitCurve(&curve);
}

// Where nothing is known that it could be compared with, it stands for a step of the nearest number of rows.
void CostModel::RecordStep(const StepSize& size, absl::Duration duration) {
  if (!size.mixed()) return RecordStep(size.curve(), size.rows(), duration);
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!IsBelieved(seconds) || size.rows() > kMaxRows) return;
  const double rows = size.RowsByWork();
  ModelState& model = models_[curves_.at(size.curve()).model];
  const double uniform = SecondsBetween(size.curve(), rows) / model.pace;
  if (uniform > 0) return Learn(seconds / uniform, 1, &model.mixing, &model.pace);
  const int nearest = static_cast<int>(std::lround(rows));
  RecordStep(size.curve(), nearest, absl::Seconds(seconds * nearest / rows));
}

// The better a cell is known, the less of what it is off by is taken for its own, and the more for the pace.
void CostModel::Learn(double seconds, double line_seconds, Cell* cell, double* pace) {
  const auto off = [&](double learned) { return std::clamp(seconds / (*pace * learned), 1 / kMostOff, kMostOff); };
  const double trust = cell->weight / (cell->weight + kLineWeight);
  if (cell->weight > 0) *pace *= 1 + kPaceGain * trust * (off(cell->seconds) - 1);
  if (cell->weight == 0) cell->seconds = line_seconds > 0 ? line_seconds : seconds / *pace;
  cell->seconds *= 1 + (off(cell->seconds) - 1) / (cell->weight + 1);
  cell->weight = std::min(cell->weight + 1, kMostWeight);
}

void CostModel::RecordMemory(CurveId curve, int rows, int64_t activation_bytes) {
  if (activation_bytes < 0 || activation_bytes > kMostBytes || rows < 1 || rows > kMaxRows) return;
  RaiseMemory(curve, rows, activation_bytes);
  Cell* cell = MutableCell(curve, rows);
  cell->seen_bytes = std::max(cell->seen_bytes, activation_bytes);
}

void CostModel::RecordMemory(const StepSize& size, int64_t activation_bytes) {
  if (!size.mixed()) return RecordMemory(size.curve(), size.rows(), activation_bytes);
  if (activation_bytes < 0 || activation_bytes > kMostBytes || size.rows() > kMaxRows) return;
  double& most = models_[curves_.at(size.curve()).model].bytes_per_token;
  most = std::max(most, static_cast<double>(activation_bytes) / static_cast<double>(size.tokens()));
}

void CostModel::RaiseMemory(CurveId curve, int rows, int64_t activation_bytes) {
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
    weight_ += weight;
  }

  // Where the points are.
  double MeanX() const { return v_ / u_; }

  // With what is known from elsewhere as one more point: this share of what is at MeanX is overhead.
  Line Result(double overhead_share) const {
    const double u = u_ / weight_ * (1 - overhead_share);
    const double v = v_ / weight_ * overhead_share;
    const double uu = uu_ + kWeightOfProportions * u * u;
    const double uv = uv_ - kWeightOfProportions * u * v;
    const double vv = vv_ + kWeightOfProportions * v * v;
    const double determinant = uu * vv - uv * uv;
    const Line line = {(vv * u_ - uv * v_) / determinant, (uu * v_ - uv * u_) / determinant};
    if (!(line.overhead >= 0)) return {0, v_ / vv_};
    if (!(line.slope >= 0)) return {u_ / uu_, 0};
    return line;
  }

 private:
  double uu_ = 0, uv_ = 0, vv_ = 0, u_ = 0, v_ = 0;
  double weight_ = 0;
};

void CostModel::RefitCurve(CurveState* curve) const {
  Fit fit;
  for (size_t i = 0; i < curve->cells.size(); ++i) {
    const Cell& cell = curve->cells[i];
    if (cell.weight > 0) fit.Add(static_cast<double>(i + 1), cell.seconds, cell.weight);
  }
  const Line& of_model = models_[curve->model].line;
  const double overhead_share = of_model.overhead / of_model.At(fit.MeanX() * curve->work);
  curve->line = fit.Result(overhead_share);
  curve->known = true;
}

void CostModel::RefitModel(ModelState* model) const {
  Fit fit;
  for (CurveId id : model->curves) {
    const CurveState& curve = curves_[id];
    for (size_t i = 0; i < curve.cells.size(); ++i) {
      const Cell& cell = curve.cells[i];
      if (cell.weight > 0) fit.Add(static_cast<double>(i + 1) * curve.work, cell.seconds, cell.weight);
    }
  }
  model->line = fit.Result(kOverheadUntilKnown);
}

double CostModel::LineSeconds(const CurveState& curve, int rows) const {
  return curve.known ? curve.line.At(rows) : models_[curve.model].line.At(rows * curve.work);
}

double CostModel::StepSeconds(CurveId id, int rows) const {
  const int model = curves_[id].model;
  const bool typed = std::any_of(types_.begin(), types_.end(),
                                 [&](const TypeState& type) { return type.costs.models_[model].present; });
  if (typed) return FastestSeconds(id, rows, /*present=*/true);
  const double own = OwnStepSeconds(id, rows);
  return own > 0 ? own : FastestSeconds(id, rows, /*present=*/false);
}

double CostModel::StepSeconds(const StepSize& size) const {
  if (size.rows() == 0) return 0;
  if (!size.mixed()) return StepSeconds(size.curve(), size.rows());
  return SecondsBetween(size.curve(), size.RowsByWork()) * MixingOf(size.curve());
}

double CostModel::SecondsBetween(CurveId curve, double rows) const {
  const int below = static_cast<int>(rows);
  const double seconds = StepSeconds(curve, below);
  return seconds + (rows - below) * (StepSeconds(curve, below + 1) - seconds);
}

double CostModel::MixingOf(CurveId curve) const {
  const Cell& mixing = models_[curves_[curve].model].mixing;
  return 1 + mixing.weight / (mixing.weight + kLineWeight) * (mixing.seconds - 1);
}

double CostModel::FastestSeconds(CurveId id, int rows, bool present) const {
  double least = 0;
  for (const TypeState& type : types_) {
    if (present && !type.costs.models_[curves_[id].model].present) continue;
    const double seconds = type.costs.OwnStepSeconds(id, rows);
    if (seconds > 0 && (least == 0 || seconds < least)) least = seconds;
  }
  return least;
}

double CostModel::OwnStepSeconds(CurveId id, int rows) const {
  const CurveState& curve = curves_[id];
  const double pace = models_[curve.model].pace;
  const double line = LineSeconds(curve, rows);
  if (rows > static_cast<int>(curve.cells.size())) return pace * line;
  const Cell& cell = curve.cells[rows - 1];
  return pace * (line + cell.weight / (cell.weight + kLineWeight) * (cell.seconds - line));
}

int64_t CostModel::ActivationBytes(CurveId id, int rows) const {
  if (rows < 1) return 0;
  const CurveState& curve = curves_[id];
  double bytes = models_[curve.model].bytes_per_token * rows * curve.tokens;
  for (int smaller = std::min(rows, static_cast<int>(curve.cells.size())); smaller > 0; --smaller) {
    const int64_t known = curve.cells[smaller - 1].activation_bytes;
    if (known == 0) continue;
    if (smaller == rows) return known;
    bytes = static_cast<double>(known) * rows / smaller;
    break;
  }
  // Nothing is known without a type: of the one that needs the most.
  for (const TypeState& type : types_) {
    if (models_[curve.model].bytes_per_token > 0) break;
    bytes = std::max(bytes, static_cast<double>(type.costs.ActivationBytes(id, rows)));
  }
  return static_cast<int64_t>(std::min(bytes, static_cast<double>(int64_t{1} << 62)));
}

int64_t CostModel::LeastActivationBytes(CurveId id, int rows) const {
  const CurveState& curve = curves_[id];
  int64_t least = 0;
  for (CurveId other : models_[curve.model].curves) {
    if (curves_[other].tokens > curve.tokens) continue;
    const std::vector<Cell>& cells = curves_[other].cells;
    for (int i = 0; i < std::min(rows, static_cast<int>(cells.size())); ++i)
      least = std::max(least, cells[i].seen_bytes);
  }
  return least;
}

int64_t CostModel::SeenActivationBytes(CurveId id, int rows) const {
  const std::vector<Cell>& cells = curves_[id].cells;
  return rows < 1 || rows > static_cast<int>(cells.size()) ? 0 : cells[rows - 1].seen_bytes;
}

bool CostModel::NeedsNoLess(CurveId id, int rows, CurveId other_id, int other_rows) const {
  const CurveState& curve = curves_[id];
  const CurveState& other = curves_[other_id];
  return curve.model == other.model && curve.tokens >= other.tokens && rows >= other_rows;
}

void CostModel::AddMeasured(CostTypeId type, std::vector<MeasuredStep>* measured) const {
  const CostModel& costs = Of(type);
  for (const CurveState& curve : costs.curves_) {
    for (size_t i = 0; i < curve.cells.size(); ++i) {
      const Cell& cell = curve.cells[i];
      if (cell.count == 0) continue;
      const ModelState& model = costs.models_[curve.model];
      measured->push_back({model.name, curve.tokens, static_cast<int>(i) + 1, model.pace * cell.seconds, cell.count,
                           cell.activation_bytes, type == 0 ? std::string() : types_[type - 1].name});
    }
  }
}

std::vector<MeasuredStep> CostModel::Measured() const {
  std::vector<MeasuredStep> measured;
  for (size_t type = 0; type <= types_.size(); ++type) AddMeasured(static_cast<CostTypeId>(type), &measured);
  const auto order = [](const MeasuredStep& m) { return std::tie(m.model, m.type, m.tokens, m.rows); };
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
  if (!IsBelieved(measured.seconds)) return refuse("seconds", "must be from 1e-9 to 1e6");
  if (measured.count < 1 || measured.count > kMostCount) return refuse("count", "must be from 1 to 2^50");
  if (measured.activation_bytes < 0 || measured.activation_bytes > kMostBytes) {
    return refuse("activation_bytes", "must be from 0 to 2^50");
  }
  const CurveId curve = Curve(measured.model, measured.tokens);
  if (!measured.type.empty()) {
    MeasuredStep own = measured;
    own.type.clear();
    return FindType(measured.type)->costs.Add(own);
  }
  Cell* cell = MutableCell(curve, measured.rows);
  ModelState& model = models_[curves_[curve].model];
  const double weight = std::min(static_cast<double>(measured.count), kMostWeight);
  const double seconds = measured.seconds / model.pace;
  cell->seconds = (cell->weight * cell->seconds + weight * seconds) / (cell->weight + weight);
  cell->weight = std::min(cell->weight + weight, kMostWeight);
  cell->count = std::min(cell->count + measured.count, kMostCount);
  if (measured.activation_bytes > 0) RaiseMemory(curve, measured.rows, measured.activation_bytes);
  RefitModel(&model);
  RefitCurve(&curves_[curve]);
  return absl::OkStatus();
}

}  // namespace fresco
