#include "pipeline/tool/prompts_file.h"

#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/checkpoint/text_file.h"

namespace fresco {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // some editors begin UTF-8 with it

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path, size_t max_bytes) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, max_bytes));
  std::vector<std::string> prompts;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (++number == 1) absl::ConsumePrefix(&line, ToAbsl(kByteOrderMark));
    const absl::string_view prompt = absl::StripAsciiWhitespace(line);
    if (!IsUtf8(ToStd(prompt))) return absl::InvalidArgumentError(StrCat(path, ":", number, ": is not UTF-8"));
    if (!prompt.empty()) prompts.emplace_back(prompt);
  }
  if (prompts.empty()) return absl::InvalidArgumentError(StrCat(path, ": holds no prompts (one to a line)"));
  return prompts;
}

}  // namespace fresco
