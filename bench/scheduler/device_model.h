// How long a step of the simulated device takes.
//
// SD3.5 Large with guidance, one row: linears 23.9 and attention 7.25 TFLOP at 4,429 tokens (docs/facts/sd35.md,
// "Work per forward"), the first in proportion to the tokens, the second to their square. The device: an H100 SXM with
// 1,979 TFLOP/s of dense FP8 (NVIDIA's data sheet), of which kernels reach 40 % (an assumption: all times scale with
// it, loads are relative to capacity, and targets follow from the work, so no figure of the simulation depends on it
// but seconds).
//
// The batch curve: a GEMM's last wave of thread blocks is half empty on average. A wave is 132 multiprocessors, each
// with a tile of 128 tokens by 256 columns; with Large's 2,432 columns that is 132 * 256 / 2432 * 128 = 1,779 tokens.
// A step thus costs what 889 more tokens would, whatever its size: a third of a 512x512 image with guidance, a tenth of
// one of 1024x1024. (Measured curves can take its place: --cost-model, a file that a server saved.)
//
// In a mixed step the linears take all rows together, with one last wave; attention is computed size by size, each with
// a last wave of its own. What else mixing may cost (nothing is recorded for a mixture that comes but once) is a share
// of the step that a caller names.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "server/scheduler/policy/cost_model.h"

namespace fresco {

inline constexpr double kFlopsPerSecond = 1979e12 * 0.4;
inline constexpr int kTextTokens = 333;
inline constexpr double kBytesPerSecondToHost = 25e9;  // PCIe 4 x16, as it is measured

int TokensOf(int width, int height);  // of a row: image (a token for 16x16 pixels) and text

// Of a model: one row of 4,429 tokens, and by how many tokens a last wave is empty on average.
struct ModelWork {
  double linear_flops = 0, attention_flops = 0;
  double empty_wave_tokens = 0;
};
inline constexpr ModelWork kLarge = {23.9e12, 7.25e12, 889};
inline constexpr ModelWork kMedium = {7.1e12, 4.2e12, 1408};

class DeviceModel {
 public:
  DeviceModel() = default;
  explicit DeviceModel(const ModelWork& work) : work_(work) {}
  // Predictions of a saved cost model, for `model` in it.
  DeviceModel(CostModel measured, std::string model) : measured_(std::move(measured)), name_(std::move(model)) {}
  double StepSeconds(int tokens, int rows) const { return StepSeconds({{tokens, rows}}); }
  // Rows by their tokens.
  double StepSeconds(const std::map<int, int>& rows) const;
  // A mixed step takes longer by this share.
  void set_mixing(double share) { mixing_ = share; }

 private:
  double MeasuredSeconds(const std::map<int, int>& rows) const;

  std::optional<CostModel> measured_;
  std::string name_;
  ModelWork work_ = kLarge;
  double mixing_ = 0;
};

}  // namespace fresco
