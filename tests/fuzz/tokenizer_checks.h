// What holds of every tokenizer that has been loaded, and of every text that it takes.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "pipeline/tokenizer/tokenizer.h"

namespace fresco::fuzz {

// Texts that are UTF-8 are encoded, others refused. Ids are the vocabulary's, as many as were asked for; a longer
// encoding goes on where a shorter one is cut.
void CheckEncoding(const Tokenizer& tokenizer, std::string_view text);

// A folder of tokenizer files in an input's sections: an error that names the folder, or a tokenizer that works on the
// section "prompt".
using LoadTokenizer = absl::StatusOr<std::unique_ptr<Tokenizer>> (*)(const std::filesystem::path& folder);
void CheckTokenizerFiles(LoadTokenizer load, std::string_view input);

}  // namespace fresco::fuzz
