#include "pipeline/tool/modules_page.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "pipeline/base/format_bytes.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"
#include "pipeline/tool/html.h"
#include "pipeline/tool/module_table.h"

namespace fresco {
namespace {

constexpr char kStyle[] = R"(
  svg { display: block; font: 11px ui-monospace, monospace; } svg text { fill: currentColor; }
  .tree { font: 13px/1.7 ui-monospace, monospace; } .tree details, .tree .leaf { margin-left: 1.2rem; }
  .tree .leaf { padding-left: 1rem; } .tree summary { cursor: pointer; }
  .name { display: inline-block; min-width: calc(19rem - 1.2rem * var(--level)); }
  .share { display: inline-block; width: 8rem; height: .6rem; background: #8883; margin-right: .6rem; }
  .share i { display: block; height: 100%; background: hsl(220 70% 55%); }
)";

constexpr int kOpen = 2;          // levels that are shown at first
constexpr int kBarWidth = 900;    // pixels
constexpr int kNameWidth = 420;   // pixels
constexpr int kRangeWidth = 480;  // pixels
constexpr int kRow = 14;          // pixels

std::string Printable(const std::string& name) {
  return EscapedHtml(PrintableName(name));
}

// One after the other, each as wide as its share.
std::string Bar(const std::vector<Module>& parts) {
  const auto all = static_cast<double>(std::max<int64_t>(1, BytesOf(parts)));
  std::string bar =
      absl::StrFormat("<svg width=\"%d\" height=\"44\" role=\"img\" aria-label=\"bytes of each part\">\n", kBarWidth);
  double x = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const double width = kBarWidth * static_cast<double>(parts[i].bytes) / all;
    const std::string name = Printable(parts[i].name);
    bar += absl::StrFormat(
        "<rect x=\"%.1f\" y=\"0\" width=\"%.1f\" height=\"24\" fill=\"hsl(%d 60%% 55%%)\"><title>%s: %s, %.1f "
        "%%</title></rect>\n",
        x, width, 220 + 50 * static_cast<int>(i), name, FormatBytes(parts[i].bytes), 100 * width / kBarWidth);
    constexpr double kPerLetter = 7;
    if (width > kPerLetter * static_cast<double>(name.size()))
      bar += absl::StrFormat("<text x=\"%.1f\" y=\"38\">%s</text>\n", x, name);
    x += width;
  }
  return bar + "</svg>\n";
}

std::string Line(const Module& module, int64_t all, int level) {
  const double share = 100.0 * static_cast<double>(module.bytes) / static_cast<double>(all);
  std::string line = StrCat("<span class=\"name\" style=\"--level:", level, "\"><b>", Printable(module.name), "</b>",
                            module.alike > 1 ? StrCat(" × ", module.alike) : "", "</span>");
  line += absl::StrFormat("<span class=\"share\"><i style=\"width:%.2f%%\"></i></span>%.2f %% · %s", share, share,
                          FormatBytes(module.bytes));
  line += StrCat(" <span class=\"quiet\">", EscapedHtml(TypesText(module.dtypes)));
  if (!module.computed.empty()) line += StrCat(" → ", EscapedHtml(TypesText(module.computed)));
  if (module.modules.empty()) {
    for (const std::string& own : module.own) line += StrCat(" · ", Printable(own));
  }
  if (module.scales) line += StrCat(" · scales ", ScalesText(module.scales));
  return line + "</span>";
}

std::string Tree(const Module& module, int64_t all, int level = 0) {
  if (module.modules.empty()) return StrCat("<div class=\"leaf\">", Line(module, all, level), "</div>\n");
  std::string tree =
      StrCat("<details", level < kOpen ? " open" : "", "><summary>", Line(module, all, level), "</summary>\n");
  for (const Module& child : module.modules) tree += Tree(child, all, level + 1);
  return tree + "</details>\n";
}

void CollectScaled(const Module& module, const std::string& part, std::vector<std::pair<std::string, ScaleRange>>* to) {
  if (module.modules.empty() && module.scales) to->emplace_back(StrCat(part, ".", module.path), *module.scales);
  for (const Module& child : module.modules) CollectScaled(child, part, to);
}

// From the least to the most scale of each linear, on a logarithmic axis.
std::string Scales(const std::vector<Module>& parts) {
  std::vector<std::pair<std::string, ScaleRange>> scaled;
  for (const Module& part : parts) CollectScaled(part, part.name, &scaled);
  if (scaled.empty()) return "";
  float least = scaled.front().second.least, most = scaled.front().second.most;
  for (const auto& [name, range] : scaled) {
    least = std::min(least, range.least);
    most = std::max(most, range.most);
  }
  const double from = std::log2(static_cast<double>(least)), to = std::log2(static_cast<double>(most));
  const auto place = [&](float scale) {
    return to > from ? kRangeWidth * (std::log2(static_cast<double>(scale)) - from) / (to - from) : 0;
  };
  std::string rows;
  for (size_t i = 0; i < scaled.size(); ++i) {
    const auto& [name, range] = scaled[i];
    const int y = static_cast<int>(i) * kRow;
    rows += absl::StrFormat(
        "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text><rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"8\" "
        "fill=\"hsl(220 70%% 55%%)\"><title>%s</title></rect>\n",
        kNameWidth - 6, y + kRow - 3, Printable(name), kNameWidth + place(range.least), y + 4,
        std::max(2.0, place(range.most) - place(range.least)), ScalesText(range));
  }
  return StrCat(
      "<h2>Scales of weights</h2>\n<p class=\"quiet\">From ", absl::StrFormat("%.3g to %.3g", least, most),
      ", logarithmic. A linear that lies far to the right of its neighbours, or reaches far, has rows of large "
      "weights.</p>\n",
      absl::StrFormat("<svg width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"scales\">\n", kNameWidth + kRangeWidth,
                      static_cast<int>(scaled.size()) * kRow),
      rows, "</svg>\n");
}

}  // namespace

std::string ModulesPage(const std::string& title, const std::string& summary, const std::vector<Module>& parts) {
  const int64_t all = std::max<int64_t>(1, BytesOf(parts));
  std::string page = StrCat("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>", Printable(title),
                            ": modules</title>\n<style>", kPageStyle, kStyle, "</style>\n<h1>", Printable(title),
                            "</h1>\n<p>", EscapedHtml(summary), "</p>\n", Bar(parts), "<div class=\"tree\">\n");
  for (const Module& part : parts) page += Tree(part, all);
  return StrCat(page, "</div>\n", Scales(parts), "</html>\n");
}

}  // namespace fresco
