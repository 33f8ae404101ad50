// Prompts through the tokenizers of the model that ships with Fresco.
#include <filesystem>
#include <memory>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tokenizer_checks.h"

namespace {

std::unique_ptr<fresco::Tokenizer> Load(fresco::fuzz::LoadTokenizer load, const char* folder) {
  auto tokenizer = load(std::filesystem::path(FRESCO_SOURCE_DIR) / "models/demo" / folder);
  fresco::fuzz::Check(tokenizer.ok(), "the demo model's tokenizer:", tokenizer.status().ToString());
  return *std::move(tokenizer);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<fresco::Tokenizer> clip = Load(fresco::LoadClipTokenizer, "tokenizer");
  static const std::unique_ptr<fresco::Tokenizer> t5 = Load(fresco::LoadT5Tokenizer, "tokenizer_3");
  const std::string_view text = fresco::fuzz::TextOf(data, size);
  fresco::fuzz::CheckEncoding(*clip, text);
  fresco::fuzz::CheckEncoding(*t5, text);
  return 0;
}
