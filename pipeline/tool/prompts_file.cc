#include "pipeline/tool/prompts_file.h"

#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/text_file.h"

namespace fresco {

absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path, size_t max_bytes) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, max_bytes));
  std::vector<std::string> prompts;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const absl::string_view prompt = absl::StripAsciiWhitespace(line);
    if (!prompt.empty()) prompts.emplace_back(prompt);
  }
  if (prompts.empty()) return absl::InvalidArgumentError(StrCat(path, ": holds no prompts (one to a line)"));
  return prompts;
}

}  // namespace fresco
