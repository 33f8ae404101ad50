// How callers say whose their requests are: what the client sends and the server takes.
#pragma once

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"

namespace fresco {

inline constexpr char kTenantHeader[] = "fresco-tenant";  // gRPC metadata

inline bool IsTenantName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}
// The same in words, for whoever has given another: what a name has.
inline constexpr char kTenantNameRule[] = "1 to 64 letters, digits, '-', '_' or '.'";

}  // namespace fresco
