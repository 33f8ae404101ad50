#include "pipeline/tool/activations_page.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include "absl/strings/str_format.h"
#include "pipeline/base/strings.h"
#include "pipeline/tool/html.h"

namespace fresco {
namespace {

constexpr char kStyle[] = R"(
  svg { display: block; font: 10px ui-monospace, monospace; } svg text { fill: currentColor; }
  .fallen { color: #c22; font-weight: 600; }
)";

constexpr int kCell = 14;        // pixels, of a map
constexpr int kNameWidth = 420;  // pixels
constexpr size_t kRanked = 40;   // layers in the table

// 0 (blue) to 1 (red), the middle pale: readable in grey as well, since both ends are dark and named by the legend.
std::string Colour(double x) {
  x = std::clamp(x, 0.0, 1.0);
  const double hue = x < 0.5 ? 220 : 10;
  const double light = 90 - 45 * std::abs(2 * x - 1);
  return absl::StrFormat("hsl(%.0f 70%% %.0f%%)", hue, light);
}

// What a map shows of a layer's step; nothing where it has none.
struct Measure {
  std::string title, legend;
  std::function<std::optional<double>(const InspectedStep&)> value;
  double least = 0, most = 1;  // the ends of the colours
  std::function<std::string(double)> text;
};

bool Shows(const InspectedLayer& layer, const Measure& measure) {
  return std::any_of(layer.steps.begin(), layer.steps.end(),
                     [&](const InspectedStep& step) { return measure.value(step).has_value(); });
}

std::string Row(const InspectedLayer& layer, const Measure& measure, int y) {
  std::string row = absl::StrFormat("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", kNameWidth - 6,
                                    y + kCell - 3, EscapedHtml(layer.name));
  for (size_t step = 0; step < layer.steps.size(); ++step) {
    const std::optional<double> value = measure.value(layer.steps[step]);
    if (!value) continue;
    const double share = std::isnan(*value) ? 1 : (*value - measure.least) / (measure.most - measure.least);
    const bool decoding = step + 1 == layer.steps.size();
    row += absl::StrFormat(
        "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"><title>%s, %s: %s</title></rect>\n",
        kNameWidth + static_cast<int>(step) * kCell, y, kCell - 1, kCell - 1, Colour(share), EscapedHtml(layer.name),
        decoding ? "decoding" : StrCat("step ", step + 1), EscapedHtml(measure.text(*value)));
  }
  return row;
}

std::string Map(const Inspection& inspection, const Measure& measure) {
  std::string rows;
  int y = 0;
  for (const InspectedLayer& layer : inspection.layers) {
    if (!Shows(layer, measure)) continue;
    rows += Row(layer, measure, y);
    y += kCell;
  }
  if (y == 0) return "";
  const auto steps = static_cast<int>(inspection.layers.front().steps.size());
  return StrCat("<h2>", EscapedHtml(measure.title), "</h2>\n<p class=\"quiet\">", EscapedHtml(measure.legend),
                " A column is a step, the last the decoding.</p>\n",
                absl::StrFormat("<svg width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"%s\">\n",
                                kNameWidth + steps * kCell, y, EscapedHtml(measure.title)),
                rows, "</svg>\n");
}

std::optional<double> Decibels(const Fidelity& fidelity) {
  if (!fidelity.known()) return std::nullopt;
  const double decibels = fidelity.decibels();
  return std::isinf(decibels) ? 200 : decibels;  // equal
}

std::vector<Measure> Measures() {
  const auto decibels = [](double x) { return std::isnan(x) ? "not finite" : absl::StrFormat("%.1f dB", x); };
  return {
      {"Noise of each layer's own",
       "Signal to noise of what the layer makes of the reference's input: red from 10 dB down, blue from 60 dB up.",
       [](const InspectedStep& step) { return Decibels(step.own); }, 60, 10, decibels},
      {"Noise that has come through",
       "Signal to noise of a stage, with all before it: red from 10 dB down, blue from 60 dB up.",
       [](const InspectedStep& step) { return Decibels(step.through); }, 60, 10, decibels},
      {"Clamped or kept by the guard",
       "Quantised activations beyond what their scale leaves: blue none, red one in a hundred or more.",
       [](const InspectedStep& step) -> std::optional<double> {
         const auto count = static_cast<double>(step.saturated + step.guarded);
         const auto all = static_cast<double>(step.values.counts().count);
         if (count == 0) return std::nullopt;
         return all > 0 ? count / all : std::nan("");
       },
       0, 0.01, [](double x) { return std::isnan(x) ? "some" : absl::StrFormat("%.4f %%", 100 * x); }},
      {"Largest magnitude",
       "Of a linear's input or a stage's value, as a power of two: red from 448 up, E4M3's largest without a scale.",
       [](const InspectedStep& step) -> std::optional<double> {
         if (step.values.counts().count == 0) return std::nullopt;
         const double absmax = static_cast<double>(step.values.Range().absmax());
         return std::log2(std::max(absmax, 1e-6));
       },
       std::log2(448) - 16, std::log2(448), [](double x) { return absl::StrFormat("%.4g", std::exp2(x)); }},
  };
}

std::string Ranking(const Inspection& inspection) {
  const std::vector<const InspectedLayer*> ranked = ByOwnNoise(inspection);
  if (ranked.empty()) return "";
  const InspectedLayer* const fallen = FirstToFall(inspection);
  std::string table =
      "<h2>Quantised linears, the worst first</h2>\n<table>\n<tr><th>layer</th><th>scheme</th><th>own, "
      "dB</th><th>largest</th>"
      "<th>99.9 %</th><th>above 448</th><th>saturated</th><th>guarded</th></tr>\n";
  for (size_t i = 0; i < std::min(kRanked, ranked.size()); ++i) {
    const InspectedLayer& layer = *ranked[i];
    const InspectedStep all = layer.all();
    const ActivationRange range = all.values.Range();
    table += absl::StrFormat(
        "<tr%s><td>%s</td><td>%s</td><td>%s</td><td>%.4g</td><td>%.4g</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
        &layer == fallen ? " class=\"fallen\"" : "",
        StrCat(EscapedHtml(layer.name), layer.others.empty() ? "" : StrCat(" (+ ", layer.others.size(), ")")),
        EscapedHtml(layer.scheme), FidelityText(all.own), range.absmax(), range.percentiles[1],
        ShareText(all.beyond_e4m3, range.count), ShareText(all.saturated, range.count),
        ShareText(all.guarded, range.count));
  }
  table += "</table>\n";
  return StrCat(table, "<p>",
                fallen != nullptr
                    ? StrCat("First to fall: <b>", EscapedHtml(fallen->name), "</b>: ", FidelityText(fallen->all().own),
                             " dB, where the median is ", FidelityText(ranked[ranked.size() / 2]->all().own), " dB.")
                    : StrCat("None lies ", kFall, " dB below the median."),
                "</p>\n");
}

std::string Summary(const Inspection& inspection) {
  const ImageSpec& spec = inspection.specs.front();
  std::string summary =
      StrCat("<p>", EscapedHtml(inspection.model.precision), " on ", EscapedHtml(inspection.model.device));
  if (!inspection.reference.precision.empty())
    summary += StrCat(", against ", EscapedHtml(inspection.reference.precision), " from the same latents at each step");
  summary += StrCat("; ", spec.width, "×", spec.height, ", ", spec.steps, " steps, guidance ", spec.guidance_scale,
                    ".</p>\n<ul>\n");
  for (const std::string& note : inspection.model.notes)
    summary += StrCat("<li class=\"quiet\">", EscapedHtml(note), "</li>\n");
  for (const ImageSpec& each : inspection.specs)
    summary += StrCat("<li>", EscapedHtml(each.prompt), " <span class=\"quiet\">seed ", each.seed, "</span></li>\n");
  return summary + "</ul>\n";
}

}  // namespace

std::string FidelityText(const Fidelity& fidelity) {
  if (!fidelity.known()) return "-";
  const double decibels = fidelity.decibels();
  if (std::isnan(decibels)) return "NaN";
  return std::isinf(decibels) ? "equal" : absl::StrFormat("%.2f", decibels);
}

std::string ShareText(int64_t count, int64_t of) {
  if (count == 0) return "-";
  return absl::StrFormat("%.4f %%", 100.0 * static_cast<double>(count) / static_cast<double>(std::max<int64_t>(1, of)));
}

std::string ActivationsPage(const Inspection& inspection) {
  std::string page =
      StrCat("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>",
             EscapedHtml(inspection.model.name), ": activations</title>\n<style>", kPageStyle, kStyle, "</style>\n<h1>",
             EscapedHtml(inspection.model.name), "</h1>\n", Summary(inspection), Ranking(inspection));
  for (const Measure& measure : Measures()) page += Map(inspection, measure);
  return page + "</html>\n";
}

}  // namespace fresco
