#include "bench/scheduler/curves.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace fresco {
namespace {

constexpr double kWidth = 460, kHeight = 300;  // of a chart, pixels
constexpr double kLeft = 60, kRight = 12, kTop = 32, kBottom = 42;
constexpr int kColumns = 2;
constexpr int kTicks = 5;
constexpr std::array<const char*, 4> kColours = {"#b5453c", "#c08a1e", "#2f6f9f", "#4d8a3d"};

template <typename... Values>
std::string Format(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

std::string Text(double x, double y, const std::string& anchor, const std::string& text) {
  return Format("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor.c_str(), text.c_str());
}

// From values to pixels, within one chart.
class Axes {
 public:
  explicit Axes(const Chart& chart) : logarithmic_(chart.logarithmic) {
    for (const Curve& curve : chart.curves) {
      for (const auto& [x, y] : curve.points) Include(x, y);
    }
    if (logarithmic_) {
      low_ = std::floor(low_);
      high_ = std::max(std::ceil(high_), low_ + 1);
    } else {
      low_ = std::min(low_, 0.0);
      high_ = Nice(high_);
    }
  }

  double X(double x) const { return kLeft + (x - first_) / std::max(1e-9, last_ - first_) * (kWidth - kLeft - kRight); }
  double Y(double y) const {
    const double value = logarithmic_ ? std::log10(y) : y;
    return kHeight - kBottom - (value - low_) / (high_ - low_) * (kHeight - kTop - kBottom);
  }
  bool Shows(double y) const { return !logarithmic_ || y > 0; }
  std::vector<double> Ticks() const {
    std::vector<double> ticks;
    if (logarithmic_) {
      for (double decade = low_; decade <= high_; ++decade) ticks.push_back(std::pow(10, decade));
    } else {
      for (int i = 0; i <= kTicks; ++i) ticks.push_back(low_ + (high_ - low_) * i / kTicks);
    }
    return ticks;
  }

 private:
  void Include(double x, double y) {
    first_ = std::min(first_, x);
    last_ = std::max(last_, x);
    if (!Shows(y)) return;
    const double value = logarithmic_ ? std::log10(y) : y;
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }
  static double Nice(double value) {
    const double unit = std::pow(10, std::floor(std::log10(std::max(value, 1e-9))));
    for (double step : {1.0, 2.0, 2.5, 5.0}) {
      if (step * unit >= value * 0.999) return step * unit;
    }
    return 10 * unit;
  }

  const bool logarithmic_;
  double first_ = 1e300, last_ = -1e300, low_ = 1e300, high_ = -1e300;
};

std::string DrawFrame(const Chart& chart, const Axes& axes) {
  std::string svg;
  svg += "<g font-weight=\"bold\">" + Text(kLeft, kTop - 14, "start", chart.title) + "</g>\n";
  for (double tick : axes.Ticks()) {
    const double y = axes.Y(tick);
    svg += Format("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", kLeft, y,
                  kWidth - kRight, y);
    svg += Text(kLeft - 6, y + 4, "end", Format("%.4g", tick));
  }
  for (const auto& [x, y] : chart.curves.front().points) {
    svg += Text(axes.X(x), kHeight - kBottom + 16, "middle", Format("%g", x));
  }
  svg += Text((kLeft + kWidth) / 2, kHeight - 8, "middle", chart.x_label);
  svg += Format("<text transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\">%s</text>\n", kHeight / 2,
                chart.y_label.c_str());
  return svg;
}

std::string DrawCurve(const Curve& curve, size_t index, const Axes& axes) {
  const char* colour = kColours[index % kColours.size()];
  std::string points;
  std::string marks;
  for (const auto& [x, y] : curve.points) {
    if (!axes.Shows(y)) continue;
    points += Format("%.1f,%.1f ", axes.X(x), axes.Y(y));
    marks += Format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"/>\n", axes.X(x), axes.Y(y), colour);
  }
  std::string svg = "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + std::string(colour) + "\" points=\"" +
                    points + "\"/>\n" + marks;
  const double legend = kWidth - kRight - 96.0 * static_cast<double>(3 - std::min<size_t>(index, 3));
  svg += "<g fill=\"" + std::string(colour) + "\">" + Text(legend, kTop - 14, "start", curve.name) + "</g>\n";
  return svg;
}

}  // namespace

std::string ChartsToSvg(const std::vector<Chart>& charts) {
  const int rows = (static_cast<int>(charts.size()) + kColumns - 1) / kColumns;
  std::string svg = Format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" "
      "font-size=\"11\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      kColumns * kWidth, rows * kHeight);
  for (size_t i = 0; i < charts.size(); ++i) {
    const Axes axes(charts[i]);
    svg += Format("<g transform=\"translate(%.0f %.0f)\">\n", static_cast<double>(i % kColumns) * kWidth,
                  static_cast<double>(i / kColumns) * kHeight);
    svg += DrawFrame(charts[i], axes);
    for (size_t c = 0; c < charts[i].curves.size(); ++c) svg += DrawCurve(charts[i].curves[c], c, axes);
    svg += "</g>\n";
  }
  return svg + "</svg>\n";
}

}  // namespace fresco
