#include "pipeline/tool/compare_page.h"

#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr char kStyle[] = R"(
  :root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
  body { max-width: 90rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
  th:first-child, td:first-child { text-align: left; }
  .quiet { opacity: .7; } li { opacity: .8; }
  .row { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; }
  figure { margin: 0; } figcaption { font-size: .85rem; }
  img { width: 100%; display: block; margin-top: .3rem; }
)";

std::string Escaped(std::string_view text) {
  return absl::StrReplaceAll(ToAbsl(text), {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Picture(const std::string& png, const Comparison& comparison, std::string_view alternative) {
  return StrCat("<img width=\"", comparison.width, "\" height=\"", comparison.height, "\" alt=\"", Escaped(alternative),
                "\" src=\"data:image/png;base64,", absl::Base64Escape(png), "\">\n");
}

std::string TableRow(const PrecisionResult& result, double base) {
  constexpr double kMiB = 1 << 20;
  const double seconds = result.seconds_per_image();
  return absl::StrFormat(
      "<tr><td>%s</td><td>%.3f</td><td>%.2f×</td><td>%.1f</td><td>%.1f</td><td>%s</td><td>%s</td><td>%.4f</td>"
      "<td>%s</td></tr>\n",
      Escaped(result.precision), seconds, base / seconds, result.weight_bytes / kMiB, result.peak_memory_bytes / kMiB,
      Decibels(result.psnr()), Decibels(result.psnr_min()), result.ssim(),
      result.saturated_share ? absl::StrFormat("%.4f %%", 100 * *result.saturated_share) : "–");
}

std::string Table(const Comparison& comparison) {
  std::string table =
      "<table>\n<tr><th>precision</th><th>s / image</th><th>speed-up</th><th>weights, MiB</th>"
      "<th>peak memory, MiB</th><th>PSNR, dB</th><th>least PSNR</th><th>SSIM</th><th>saturated</th></tr>\n";
  const double base = comparison.reference().seconds_per_image();
  for (const PrecisionResult& result : comparison.results) table += TableRow(result, base);
  return table + "</table>\n";
}

std::string Notes(const Comparison& comparison) {
  std::string notes;
  for (const PrecisionResult& result : comparison.results) {
    for (const std::string& note : result.notes) {
      notes += StrCat("<li>", Escaped(result.precision), ": ", Escaped(note), "</li>\n");
    }
  }
  return notes.empty() ? notes : StrCat("<ul>\n", notes, "</ul>\n");
}

std::string Figure(const PrecisionResult& result, size_t prompt, const Comparison& comparison) {
  const ComparedPicture& picture = result.pictures[prompt];
  const std::string numbers =
      result.reference ? "the reference" : absl::StrFormat("%s dB, SSIM %.4f", Decibels(picture.psnr), picture.ssim);
  std::string figure =
      absl::StrFormat("<figure><figcaption><b>%s</b> <span class=\"quiet\">%s, %.2f s</span></figcaption>\n",
                      Escaped(result.precision), numbers, picture.seconds);
  figure += Picture(picture.png, comparison, result.precision);
  if (!result.reference) figure += Picture(picture.difference, comparison, StrCat(result.precision, ", difference"));
  return figure + "</figure>\n";
}

}  // namespace

std::string Decibels(double psnr) {
  return std::isfinite(psnr) ? absl::StrFormat("%.2f", psnr) : "equal";
}

std::string ComparisonPage(const Comparison& comparison) {
  std::string page = StrCat("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>",
                            Escaped(comparison.model), ": precisions compared</title>\n<style>", kStyle, "</style>\n");
  page += StrCat("<h1>", Escaped(comparison.model), "</h1>\n<p>", Escaped(comparison.device), ", ", comparison.width,
                 "×", comparison.height, ", ", comparison.steps, " steps, guidance ", comparison.guidance_scale, ", ",
                 comparison.prompts.size(), " prompts. PSNR and SSIM are medians, to ",
                 Escaped(comparison.reference().precision), ".</p>\n");
  page += Table(comparison);
  page += Notes(comparison);
  page += StrCat("<p class=\"quiet\">Below each picture: its difference from the reference, times ", kDifferenceGain,
                 ", around grey.</p>\n");
  for (size_t i = 0; i < comparison.prompts.size(); ++i) {
    page += StrCat("<h2>", Escaped(comparison.prompts[i]), " <span class=\"quiet\">seed ", comparison.seed + i,
                   "</span></h2>\n<div class=\"row\">\n");
    for (const PrecisionResult& result : comparison.results) page += Figure(result, i, comparison);
    page += "</div>\n";
  }
  return page + "</html>\n";
}

}  // namespace fresco
