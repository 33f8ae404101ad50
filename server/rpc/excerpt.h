// What a caller sent, short enough to be said back: error messages travel in HTTP/2 headers, which are bounded.
#pragma once

#include <string>
#include <string_view>

#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {

inline std::string Excerpt(std::string_view text, size_t max_bytes = 64) {
  const std::string_view prefix = Utf8Prefix(text, max_bytes);
  return prefix.size() == text.size() ? std::string(text) : StrCat(prefix, "…");
}

}  // namespace fresco
