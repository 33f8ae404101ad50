// How long a step takes and how much memory it needs, learned from the steps that were made.
//
// A step's cost is decided by the model, by how many tokens each row of the forward has (image and text), and by how
// many rows there are: an image with guidance is two rows, one without is one. Batches are chosen by comparing row
// counts, so what matters most is that these are right against each other. Three things are learned apart:
//
//   pace    of a model: by how much all its steps take longer lately than was learned of them, since others use the
//           machine, or it is hot. Else a size that ran last in a slow phase would stay unattractive, not be chosen,
//           and never be measured again.
//   line    of each number of tokens, overhead + slope * rows, through all its cells; where these do not tell, in the
//           proportions of the line of the whole model, overhead + slope * rows * RelativeWork(tokens).
//   cell    (model, tokens, rows): what was measured. Steps do not grow evenly with the rows.
//   mixing  of a model: by how much its mixed steps (step_size.h), whose rows have different numbers of tokens, take
//           longer than as much work in rows of the widest size. Attention is computed size by size, and of what comes
//           but once nothing is recorded for the next time. Were that taken for the cost of a cell, a size would look
//           expensive, by itself too, for having been mixed.
//
// A step is predicted by pace * (line and cell, by how much the cell is worth); a mixed one between the two whole
// numbers of rows that its work lies between, times mixing. A cell is worth less while other sizes
// of its tokens run and it does not, so that what was learned in unusual circumstances is forgotten, and tried again.
// Devices of different types ("cpu", "cuda") take different times for the same step: each type has all of this to
// itself. What is known without a type, from a caller or a file that names none, is where a type begins with a model of
// which nothing is known of it yet.
//
// Where nothing tells, batches are taken to pay, so that they are tried. Every model begins with a measurement at load
// (a few sizes and row counts); until there is one, predictions are 0.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduler/policy/step_size.h"

namespace fresco {

// One measured cell, as saved.
struct MeasuredStep {
  std::string model;
  int tokens = 0;                // of a row
  int rows = 0;                  // of the forward
  double seconds = 0;            // an average in which the newest counts most
  int64_t count = 0;             // measurements in it
  int64_t activation_bytes = 0;  // the most that was seen; 0: not known
  std::string type;              // of the device; empty: of those whose type nobody has said
  bool operator==(const MeasuredStep&) const = default;
};

// Of a type of devices; 0: those whose type nobody has said. Valid as long as its CostModel.
using CostTypeId = int;

// Not thread-safe. Copyable: a copy is a snapshot.
class CostModel {
 public:
  // Found or made; "" is 0.
  CostTypeId Type(std::string_view name);
  // What is known of the type alone, under the same CurveIds; of 0 it is this one. Curves and types are made by this
  // one only; a type that is new moves the others.
  CostModel* MutableOf(CostTypeId type);
  const CostModel& Of(CostTypeId type) const;
  // Whether a device of the type has the model. What this one predicts of a model is of the fastest of the types that
  // have it: nobody knows yet which device an image will be drawn by, and what can be in time there is not hopeless.
  void SetPresent(CostTypeId type, std::string_view model, bool present);

  // Found or made. A model has fewer curves than the longest sequence has tokens, so that callers who choose their
  // sizes cannot make it grow without bound.
  CurveId Curve(std::string_view model, int tokens);

  void RecordStep(CurveId curve, int rows, absl::Duration duration);
  void RecordStep(const StepSize& size, absl::Duration duration);
  // What a step held on the device beyond weights and the jobs' own state. Of a mixed one all that is learned is what a
  // token needs: what a size by itself needs of memory decides who is refused.
  void RecordMemory(CurveId curve, int rows, int64_t activation_bytes);
  void RecordMemory(const StepSize& size, int64_t activation_bytes);

  // Seconds of a step of `rows` rows, at least 1.
  double StepSeconds(CurveId curve, int rows) const;
  // Of a step without rows: 0.
  double StepSeconds(const StepSize& size) const;
  // Bytes likewise. Where the cell is not known, what the next smaller of the curve that is needed for each of its rows
  // or, where none is, what the model's cell that used the most per token did: rather too many, so that batches that
  // are chosen by it fit.
  int64_t ActivationBytes(CurveId curve, int rows) const;
  int64_t ActivationBytes(const StepSize& size) const { return ActivationBytes(size.curve(), size.RowsByTokens()); }
  // What such a step needs at least: the most that this process has seen a step of no more tokens and no more rows use.
  // Nothing is scaled up, and nothing taken from a file, which may be of other settings: what is refused by it is never
  // drawn, so that nobody would find out.
  int64_t LeastActivationBytes(CurveId curve, int rows) const;
  // The same of this cell alone; 0: none was seen.
  int64_t SeenActivationBytes(CurveId curve, int rows) const;
  // Both are of one model, and the first has no fewer tokens and rows than the other.
  bool NeedsNoLess(CurveId curve, int rows, CurveId other, int other_rows) const;

  // Of all types. Sorted by model, type, tokens and rows.
  std::vector<MeasuredStep> Measured() const;
  // Takes them for measured, as at load, beside what has been. INVALID_ARGUMENT for a cell that cannot be.
  absl::Status Add(const MeasuredStep& measured);

 private:
  struct Cell {
    double seconds = 0;  // at pace 1
    double weight = 0;   // as so many measurements; less the longer ago
    int64_t count = 0;   // measurements that there have been
    int64_t activation_bytes = 0;
    int64_t seen_bytes = 0;  // the same, without what was added
  };
  struct Line {
    double overhead = 0;  // seconds at pace 1
    double slope = 0;     // likewise, for each of what it goes by
    double At(double x) const { return overhead + slope * x; }
  };
  class Fit;
  struct CurveState {
    int model = 0;
    int tokens = 0;
    double work = 0;          // RelativeWork(tokens)
    std::vector<Cell> cells;  // by rows, from 1
    Line line;                // by rows
    bool known = false;       // it has a cell that was measured
  };
  struct ModelState {
    std::string name;
    std::vector<CurveId> curves;
    double pace = 1;             // what a step takes lately, over what was learned of it
    Cell mixing;                 // as a cell is learned, but its `seconds` are a ratio
    Line line;                   // by rows * work
    double bytes_per_token = 0;  // the most seen
    int64_t records = 0;
    bool present = false;  // see SetPresent
  };
  struct TypeState;

  TypeState* FindType(std::string_view name);
  bool Knows(int model) const;
  void TakeOver(int model, const CostModel& from);
  double FastestSeconds(CurveId curve, int rows, bool present) const;  // 0: of no type anything is known
  double OwnStepSeconds(CurveId curve, int rows) const;
  double SecondsBetween(CurveId curve, double rows) const;
  double MixingOf(CurveId curve) const;
  void AddMeasured(CostTypeId type, std::vector<MeasuredStep>* measured) const;
  int Model(std::string_view name);
  void RaiseMemory(CurveId curve, int rows, int64_t activation_bytes);
  Cell* MutableCell(CurveId curve, int rows);
  double LineSeconds(const CurveState& curve, int rows) const;
  static void Learn(double seconds, double line_seconds, Cell* cell, double* pace);
  void RefitCurve(CurveState* curve) const;
  void RefitModel(ModelState* model) const;

  std::vector<ModelState> models_;
  std::vector<CurveState> curves_;
  std::map<std::pair<int, int>, CurveId> ids_;  // by model and tokens
  std::vector<TypeState> types_;                // by CostTypeId, from 1
};

struct CostModel::TypeState {
  std::string name;
  CostModel costs;
};

}  // namespace fresco
