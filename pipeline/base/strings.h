// Between the standard library's string views and abseil's. The distributions build abseil so that absl::string_view is
// a class of its own (ABSL_OPTION_USE_STD_STRING_VIEW 0), which std::string_view does not convert to.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace fresco {

inline absl::string_view ToAbsl(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

// For what abseil returns: status.message(), a payload's URL.
inline std::string_view ToStd(absl::string_view text) {
  return std::string_view(text.data(), text.size());
}

// absl::StrCat that takes std::string_view too.
template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  const auto pass = []<typename Part>(const Part& part) -> decltype(auto) {
    if constexpr (std::is_same_v<Part, std::string_view>) {
      return ToAbsl(part);
    } else {
      return (part);
    }
  };
  return absl::StrCat(pass(parts)...);
}

}  // namespace fresco
