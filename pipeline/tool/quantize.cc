#include "pipeline/tool/quantize.h"

#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/tool/json_print.h"

namespace fresco {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMiB = 1 << 20;

// A line for each part, rewritten at every percent.
class ProgressLine {
 public:
  void operator()(std::string_view part, uint64_t done, uint64_t of) {
    const uint64_t percent = of == 0 ? 100 : 100 * done / of;
    if (part == part_ && percent == percent_) return;
    if (part != part_ && !part_.empty()) End();
    part_ = part;
    percent_ = percent;
    std::fprintf(stderr, "\r%-14s %3d %% of %.1f MiB", part_.c_str(), static_cast<int>(percent), of / kMiB);
  }
  static void End() { std::fprintf(stderr, "\n"); }

 private:
  std::string part_;
  uint64_t percent_ = 0;
};

void Report(const QuantizeOptions& options, const QuantizeReport& report, double seconds, bool json) {
  if (!json) {
    std::printf("%s: %lld layers in %s, %.1f MiB of weights where there were %.1f, %.1f s\n", options.output.c_str(),
                static_cast<long long>(report.layers), options.precision.c_str(), report.bytes / kMiB,
                report.source_bytes / kMiB, seconds);
    return;
  }
  PrintJson({{"path", options.output},
             {"precision", options.precision},
             {"layers_quantized", report.layers},
             {"bytes", report.bytes},
             {"source_bytes", report.source_bytes},
             {"seconds", seconds}});
}

}  // namespace

absl::StatusOr<LayerTable::Rule> ParseLayerRule(const std::string& text) {
  const size_t equals = text.rfind('=');
  const std::string_view scheme = equals == std::string::npos ? "" : std::string_view(text).substr(equals + 1);
  const std::optional<LinearScheme> parsed = ParseScheme(scheme);
  if (equals == std::string::npos || equals == 0 || !parsed) {
    return absl::InvalidArgumentError(
        StrCat("'", PrintableName(text), "' is not PATTERN=SCHEME, with ", SchemeNames()));
  }
  return LayerTable::Rule{text.substr(0, equals), *parsed};
}

absl::Status RunQuantize(const ModelOptions& model, QuantizeOptions options) {
  options.model = model.model;
  options.base = model.base;
  const Clock::time_point begin = Clock::now();
  ProgressLine progress;
  const absl::StatusOr<QuantizeReport> report = CatchTorch(options.model, [&]() -> absl::StatusOr<QuantizeReport> {
    FRESCO_RETURN_IF_ERROR(PrepareDevice("cpu", model.threads).status());
    return QuantizeModel(options, std::ref(progress));
  });
  if (!report.ok()) return report.status();
  ProgressLine::End();
  Report(options, *report, std::chrono::duration<double>(Clock::now() - begin).count(), model.json);
  return absl::OkStatus();
}

}  // namespace fresco
