// Numbers of bytes for people.
#pragma once

#include <cstdint>
#include <string>

namespace fresco {

// "1.5 GiB".
std::string FormatBytes(int64_t bytes);

}  // namespace fresco
