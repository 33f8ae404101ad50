#include "pipeline/base/format_bytes.h"

#include "absl/strings/str_format.h"

namespace fresco {

std::string FormatBytes(int64_t bytes) {
  double value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = larger;
  }
  return absl::StrFormat("%.*f %s", value < 10 && *unit != 'B' ? 1 : 0, value, unit);
}

}  // namespace fresco
