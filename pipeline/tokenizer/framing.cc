#include "pipeline/tokenizer/framing.h"

#include <algorithm>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {

TokenIds Framing::Frame(const std::vector<int32_t>& content, int max_length, const Decoder& decode) const {
  const size_t kept = std::min<size_t>(content.size(), max_length - special_tokens());
  TokenIds out;
  out.ids.reserve(max_length);
  if (begin) out.ids.push_back(*begin);
  out.ids.insert(out.ids.end(), content.begin(), content.begin() + kept);
  out.ids.push_back(end);
  out.ids.resize(max_length, pad);
  out.untruncated_length = static_cast<int>(content.size()) + special_tokens();
  if (kept < content.size()) out.truncated_text = decode(absl::MakeConstSpan(content).subspan(kept));
  return out;
}

absl::Status Framing::CheckArguments(std::string_view text, int max_length) const {
  constexpr int kMaxLength = 1'000'000;
  constexpr size_t kMaxText = 16 << 20;
  if (max_length < special_tokens() || max_length > kMaxLength) {
    return absl::InvalidArgumentError(
        StrCat("max_length is ", max_length, ", not in ", special_tokens(), "..", kMaxLength));
  }
  if (text.size() > kMaxText) {
    return absl::InvalidArgumentError(StrCat("the text has ", text.size(), " bytes, over ", kMaxText));
  }
  if (!IsUtf8(text)) return absl::InvalidArgumentError("the text is not valid UTF-8");
  return absl::OkStatus();
}

}  // namespace fresco
