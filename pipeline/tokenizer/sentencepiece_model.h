// Reads a SentencePiece model file (`spiece.model`), a protobuf message, without protobuf.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/tokenizer/unigram.h"

namespace fresco {

struct SentencePieceModel {
  std::vector<ScoredPiece> pieces;
  std::vector<std::string> named;  // control and user-defined pieces: tokens that a text may name outright
  std::string charsmap;            // NormalizerSpec.precompiled_charsmap; may be empty
};

// INVALID_ARGUMENT says what is wrong where in the file: bytes that are no message, fields of a wrong wire type, pieces
// that are not UTF-8, more than 2^24 of them. Fields that Fresco does not use are skipped. Source of field numbers:
// sentencepiece_model.proto (ModelProto: pieces 1, normalizer_spec 3; SentencePiece: piece 1, score 2, type 3;
// NormalizerSpec: precompiled_charsmap 2).
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

}  // namespace fresco
