#include "server/scheduler/memory_report.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace fresco {
namespace {

std::string Bytes(int64_t bytes) {
  constexpr double kKiB = 1024;
  const auto value = static_cast<double>(bytes);
  if (value >= kKiB * kKiB * kKiB) return absl::StrFormat("%.1f GiB", value / (kKiB * kKiB * kKiB));
  if (value >= kKiB * kKiB) return absl::StrFormat("%.1f MiB", value / (kKiB * kKiB));
  if (value >= kKiB) return absl::StrFormat("%.1f KiB", value / kKiB);
  return absl::StrCat(bytes, " bytes");
}

bool IsHalved(const MemoryReport::Model& model) {
  return absl::StartsWith(model.precision, "fp8") || absl::StartsWith(model.precision, "int8");
}

std::string Weights(const MemoryReport& report) {
  std::vector<std::string> parts;
  for (const MemoryReport::Model& model : report.models) {
    parts.push_back(absl::StrCat(model.name, " (", model.precision, ") ", Bytes(model.weight_bytes)));
  }
  return absl::StrCat("weights: ", absl::StrJoin(parts, ", "));
}

std::string Activations(const MemoryReport& report) {
  std::vector<std::string> parts;
  if (report.predicted_activation_bytes > 0) {
    parts.push_back(absl::StrCat("is predicted to need ", Bytes(report.predicted_activation_bytes)));
  }
  if (report.seen_activation_bytes > 0) {
    parts.push_back(absl::StrCat("had ", Bytes(report.seen_activation_bytes), " when memory ran out"));
  }
  return parts.empty() ? "" : absl::StrCat("its step ", absl::StrJoin(parts, " and "));
}

std::string Holders(const MemoryReport& report) {
  std::vector<std::string> parts;
  if (report.total_bytes > 0) {
    parts.push_back(absl::StrCat(report.device, " has ", Bytes(report.total_bytes), ", of which ",
                                 Bytes(report.free_bytes), " are free"));
  } else {
    parts.push_back(absl::StrCat("on ", report.device));
  }
  if (!report.models.empty()) parts.push_back(Weights(report));
  if (report.other_images > 0) {
    parts.push_back(
        absl::StrCat("latents and texts of ", report.other_images, " other images: ", Bytes(report.other_state_bytes)));
  }
  parts.push_back(absl::StrCat("this image's: ", Bytes(report.state_bytes)));
  if (std::string activations = Activations(report); !activations.empty()) parts.push_back(std::move(activations));
  return absl::StrJoin(parts, "; ");
}

std::string Changes(const MemoryReport& report) {
  std::vector<std::string> changes = {
      absl::StrCat("a smaller width and height than ", report.width, " x ", report.height)};
  if (report.decoding) changes.emplace_back("vae.tiling: always");
  if (!std::all_of(report.models.begin(), report.models.end(), IsHalved)) changes.emplace_back("precision: fp8");
  if (report.other_images > 0) changes.emplace_back("a smaller scheduler.max_resident");
  if (report.models.size() > 1) changes.emplace_back("fewer models on this device");
  return absl::StrJoin(changes, ", or ");
}

}  // namespace

std::string DescribeBeside(const MemoryReport& report) {
  return absl::StrCat("Beside it: ", report.other_images, " other images, with ", Bytes(report.other_state_bytes),
                      " of latents and texts");
}

std::string Describe(const MemoryReport& report) {
  return absl::StrCat(Holders(report), ". To change: ", Changes(report));
}

}  // namespace fresco
