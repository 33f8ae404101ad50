// Foreign text in messages.
#pragma once

#include <string>
#include <string_view>

namespace fresco {

// `text` fit for a message or a log: control characters, quotes and backslashes escaped, cut off after 200 bytes.
std::string PrintableName(std::string_view text);

// Whole, as it is but for control characters and bytes that are no UTF-8, which become \xNN.
std::string Printable(std::string_view text);

}  // namespace fresco
