#include "pipeline/base/printable.h"

#include "absl/strings/escaping.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {

std::string PrintableName(std::string_view text) {
  constexpr size_t kLongest = 200;
  std::string printable = absl::Utf8SafeCHexEscape(ToAbsl(Utf8Prefix(text, kLongest)));
  if (text.size() > kLongest) printable += "…";
  return printable;
}

}  // namespace fresco
