#include "client/profile.h"

#include <algorithm>
#include <map>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/exit_code.h"
#include "client/files.h"
#include "client/tables.h"
#include "fresco/v1/operations.pb.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr size_t kShownLayers = 20;
constexpr double kPercent = 100, kMilli = 1e3, kGiga = 1e9, kMiB = 1 << 20;

double SecondsOf(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) * 1e-9;
}

std::string Milliseconds(double seconds) {
  return absl::StrFormat("%.3f ms", seconds * kMilli);
}

std::string Share(double share) {
  return absl::StrFormat("%.1f %%", kPercent * share);
}

std::string Rate(double amount, double seconds, double unit) {
  return amount <= 0 || seconds <= 0 ? "-" : absl::StrFormat("%.1f", amount / seconds / unit);
}

// By component (what a name begins with) and kind, the longest first.
std::string KindsText(const v1::StepProfile& profile, double step) {
  std::map<std::string, double> sums;
  for (const v1::ProfiledLayer& layer : profile.layers())
    sums[StrCat(layer.name().substr(0, layer.name().find('.')), ", ", layer.kind())] += SecondsOf(layer.duration());
  sums["between layers"] = SecondsOf(profile.outside_layers());
  sums["the device waits"] = SecondsOf(profile.device_idle());
  std::vector<std::pair<double, std::string>> longest;
  for (const auto& [name, seconds] : sums) longest.emplace_back(-seconds, name);
  std::sort(longest.begin(), longest.end());
  std::vector<std::vector<std::string>> rows = {{"TIME", "SHARE", "KIND"}};
  for (const auto& [seconds, name] : longest) {
    if (seconds < 0) rows.push_back({Milliseconds(-seconds), Share(-seconds / step), name});
  }
  return FormatTable(rows);
}

std::string LayersText(const v1::StepProfile& profile, double step) {
  std::vector<const v1::ProfiledLayer*> layers;
  for (const v1::ProfiledLayer& layer : profile.layers()) layers.push_back(&layer);
  std::stable_sort(layers.begin(), layers.end(),
                   [](const auto* a, const auto* b) { return SecondsOf(a->duration()) > SecondsOf(b->duration()); });
  std::string hidden;
  if (layers.size() > kShownLayers) {
    hidden = StrCat("and ", layers.size() - kShownLayers, " shorter ones: --json has all of them\n");
    layers.resize(kShownLayers);
  }
  std::vector<std::vector<std::string>> rows = {
      {"TIME", "SHARE", "GFLOP/S", "OF PEAK", "MIB", "GB/S", "OF MEMORY", "BOUND", "DTYPE", "LAYER"}};
  for (const v1::ProfiledLayer* layer : layers) {
    const double seconds = SecondsOf(layer->duration());
    rows.push_back({Milliseconds(seconds), Share(seconds / step),
                    Rate(static_cast<double>(layer->flops()), seconds, kGiga),
                    layer->has_share_of_peak() ? Share(layer->share_of_peak()) : "-",
                    absl::StrFormat("%.2f", static_cast<double>(layer->bytes()) / kMiB),
                    Rate(static_cast<double>(layer->bytes()), seconds, kGiga),
                    layer->has_share_of_bandwidth() ? Share(layer->share_of_bandwidth()) : "-",
                    layer->bound().empty() ? "-" : layer->bound(), layer->dtype(), layer->name()});
  }
  return FormatTable(rows) + hidden;
}

}  // namespace

std::string ProfileText(const v1::StepProfile& profile) {
  const double step = SecondsOf(profile.step());
  if (step <= 0) return StrCat(profile.model(), " on ", profile.device(), ": a step takes no time\n");
  std::string text =
      StrCat(profile.model(), " on ", profile.device(), ": a step takes ", Milliseconds(step), " (", profile.steps(),
             " recorded), ", Milliseconds(SecondsOf(profile.plain_step())), " where it is not recorded");
  if (profile.has_overhead()) text += StrCat("; recording adds ", Share(profile.overhead()), " to a step (median)");
  text += StrCat(", and ", Milliseconds(SecondsOf(profile.pauses())),
                 " in all to begin, end and measure what the device does at most\n");
  if (profile.has_memory_bandwidth())
    text += absl::StrFormat("its memory moves %.1f GB/s, read and written\n", profile.memory_bandwidth() / kGiga);
  return StrCat(text, "\n", KindsText(profile, step), "\n", LayersText(profile, step));
}

int RunProfile(const Args& args, Session* session, const Console& console) {
  v1::ProfileRequest request;
  request.set_model(args.model);
  if (!args.devices.empty()) request.set_device(args.devices.front());
  request.set_steps(args.steps);
  request.set_trace(!args.trace.empty());
  v1::StepProfile profile;
  std::string trace;
  absl::Status status = args.trace.empty() ? absl::OkStatus() : CheckWritable(args.trace);
  if (status.ok()) status = session->Profile(request, &profile, &trace);
  if (status.ok() && !args.trace.empty()) status = WriteFileAtomically(args.trace, trace);
  if (!status.ok()) return ReportError(status, args, console);
  *console.out << (args.json ? ProfileJson(profile) + "\n" : ProfileText(profile));
  if (!args.trace.empty() && !args.json)
    *console.out << "\n" << args.trace << ": the trace, for Perfetto (ui.perfetto.dev)\n";
  *console.out << std::flush;
  return kExitDone;
}

}  // namespace fresco
