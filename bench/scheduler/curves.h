// Line charts as SVG, drawn with nothing but text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fresco {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x, y; sorted by x
};

struct Chart {
  std::string title, x_label, y_label;
  std::vector<Curve> curves;  // at most four: there are as many colours
  bool logarithmic = false;   // y; points at or below 0 are left out
};

// Side by side, two in a row.
std::string ChartsToSvg(const std::vector<Chart>& charts);

}  // namespace fresco
