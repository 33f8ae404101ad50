// The ends of a tokenisation: special tokens around the content, cut and padded to a length. Private to
// fresco_tokenizer.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/tokenizer/tokenizer.h"

namespace fresco {

struct Framing {
  std::optional<int32_t> begin;
  int32_t end = 0;
  int32_t pad = 0;

  int special_tokens() const { return begin ? 2 : 1; }

  using Decoder = std::function<std::string(absl::Span<const int32_t>)>;
  // `decode` is asked for the text of the ids that are cut.
  TokenIds Frame(const std::vector<int32_t>& content, int max_length, const Decoder& decode) const;
  // Encode's contract on its arguments.
  absl::Status CheckArguments(std::string_view text, int max_length) const;
};

}  // namespace fresco
