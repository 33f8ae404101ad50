#include "pipeline/tool/compare_page.h"

#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "pipeline/base/strings.h"
#include "pipeline/tool/html.h"

namespace fresco {
namespace {

constexpr char kStyle[] = R"(
  .row { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; }
  figure { margin: 0; } figcaption { font-size: .85rem; }
  img { width: 100%; height: auto; display: block; margin-top: .3rem; }
)";

std::string Picture(const std::string& png, const Comparison& comparison, std::string_view alternative) {
  return StrCat("<img width=\"", comparison.width, "\" height=\"", comparison.height, "\" alt=\"",
                EscapedHtml(alternative), "\" src=\"data:image/png;base64,", absl::Base64Escape(png), "\">\n");
}

std::string TableRow(const PrecisionResult& result, double base) {
  constexpr double kMiB = 1 << 20;
  const double seconds = result.seconds_per_image();
  return absl::StrFormat(
      "<tr><td>%s</td><td>%.3f</td><td>%.2f×</td><td>%.1f</td><td>%.1f</td><td>%s</td><td>%s</td><td>%.4f</td>"
      "<td>%s</td></tr>\n",
      EscapedHtml(result.precision), seconds, base / seconds, result.weight_bytes / kMiB,
      result.peak_memory_bytes / kMiB, Decibels(result.psnr()), Decibels(result.psnr_min()), result.ssim(),
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
      notes += StrCat("<li>", EscapedHtml(result.precision), ": ", EscapedHtml(note), "</li>\n");
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
                      EscapedHtml(result.precision), numbers, picture.seconds);
  figure += Picture(picture.png, comparison, result.precision);
  if (!result.reference) figure += Picture(picture.difference, comparison, StrCat(result.precision, ", difference"));
  return figure + "</figure>\n";
}

}  // namespace

std::string Decibels(double psnr) {
  return std::isfinite(psnr) ? absl::StrFormat("%.2f", psnr) : "equal";
}

std::string ComparisonPage(const Comparison& comparison) {
  std::string page =
      StrCat("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>", EscapedHtml(comparison.model),
             ": precisions compared</title>\n<style>", kPageStyle, kStyle, "</style>\n");
  page += StrCat("<h1>", EscapedHtml(comparison.model), "</h1>\n<p>", EscapedHtml(comparison.device), ", ",
                 comparison.width, "×", comparison.height, ", ", comparison.steps, " steps, guidance ",
                 comparison.guidance_scale, ", ", comparison.prompts.size(), " prompts. PSNR and SSIM are medians, to ",
                 EscapedHtml(comparison.reference().precision), ".</p>\n");
  page += Table(comparison);
  page += Notes(comparison);
  page += StrCat("<p class=\"quiet\">Below each picture: its difference from the reference, times ", kDifferenceGain,
                 ", around grey.</p>\n");
  for (size_t i = 0; i < comparison.prompts.size(); ++i) {
    page += StrCat("<h2>", EscapedHtml(comparison.prompts[i]), " <span class=\"quiet\">seed ", comparison.seed + i,
                   "</span></h2>\n<div class=\"row\">\n");
    for (const PrecisionResult& result : comparison.results) page += Figure(result, i, comparison);
    page += "</div>\n";
  }
  return page + "</html>\n";
}

}  // namespace fresco
