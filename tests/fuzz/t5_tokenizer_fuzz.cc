// T5's tokenizer files: tokenizer.json, or spiece.model, and those around them.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tokenizer_checks.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fresco::fuzz::CheckTokenizerFiles(fresco::LoadT5Tokenizer, fresco::fuzz::TextOf(data, size));
  return 0;
}
