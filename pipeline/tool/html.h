// What the pages that the subcommands write share.
#pragma once

#include <string>
#include <string_view>

namespace fresco {

// Text, and values of attributes.
std::string EscapedHtml(std::string_view text);

// The pages' common style: readable, in light and dark.
extern const char kPageStyle[];

}  // namespace fresco
