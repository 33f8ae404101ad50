// CLIP's tokenizer files: tokenizer.json, or vocab.json and merges.txt, and those around them.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tokenizer_checks.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fresco::fuzz::CheckTokenizerFiles(fresco::LoadClipTokenizer, fresco::fuzz::TextOf(data, size));
  return 0;
}
