#include "pipeline/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cstdint>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {
namespace {

enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint64_t number = 0;
  int wire_type = 0;
  uint64_t value = 0;      // of a varint or a fixed number
  std::string_view bytes;  // of a string or message
};

// One message's fields, in order.
class WireReader {
 public:
  // `offset`: of the message in the file, for errors.
  WireReader(std::string_view message, size_t offset) : message_(message), offset_(offset) {}

  bool done() const { return at_ == message_.size(); }
  size_t offset() const { return offset_ + at_; }

  absl::StatusOr<Field> Next() {
    Field field;
    FRESCO_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    field.number = tag >> 3;
    field.wire_type = static_cast<int>(tag & 7);
    if (field.number == 0 || field.number >= (1u << 29)) return Invalid("a field number out of range");
    switch (field.wire_type) {
      case kVarint: {
        FRESCO_ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case kFixed64:
        return Fixed(8, field);
      case kFixed32:
        return Fixed(4, field);
      case kBytes:
        return Bytes(field);
      default:
        return Invalid(StrCat("wire type ", field.wire_type));
    }
  }

  absl::Status Invalid(std::string_view reason) const {
    return absl::InvalidArgumentError(StrCat("not a SentencePiece model: at byte ", offset(), ": ", reason));
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (done()) return Invalid("ends within a number");
      const auto byte = static_cast<uint8_t>(message_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return Invalid("a number of more than 64 bits");
  }

  absl::StatusOr<Field> Fixed(size_t size, Field field) {
    if (message_.size() - at_ < size) return Invalid("ends within a number");
    for (size_t i = size; i-- > 0;) field.value = field.value << 8 | static_cast<uint8_t>(message_[at_ + i]);
    at_ += size;
    return field;
  }

  absl::StatusOr<Field> Bytes(Field field) {
    FRESCO_ASSIGN_OR_RETURN(const uint64_t size, Varint());
    if (size > message_.size() - at_) {
      return Invalid(StrCat("a field of ", size, " bytes where ", message_.size() - at_, " are left"));
    }
    field.bytes = message_.substr(at_, size);
    at_ += size;
    return field;
  }

  std::string_view message_;
  size_t offset_;
  size_t at_ = 0;
};

absl::Status ExpectType(const WireReader& reader, const Field& field, int wire_type, std::string_view name) {
  if (field.wire_type == wire_type) return absl::OkStatus();
  return reader.Invalid(StrCat(name, " has wire type ", field.wire_type, ", not ", wire_type));
}

absl::Status ParsePiece(WireReader reader, SentencePieceModel* model) {
  constexpr uint64_t kControl = 3, kUserDefined = 4;
  ScoredPiece piece;
  uint64_t type = 1;
  while (!reader.done()) {
    FRESCO_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.number == 1) {
      FRESCO_RETURN_IF_ERROR(ExpectType(reader, field, kBytes, "piece"));
      if (!IsUtf8(field.bytes)) return reader.Invalid("a piece is not UTF-8");
      piece.text = std::string(field.bytes);
    } else if (field.number == 2) {
      FRESCO_RETURN_IF_ERROR(ExpectType(reader, field, kFixed32, "score"));
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    } else if (field.number == 3) {
      FRESCO_RETURN_IF_ERROR(ExpectType(reader, field, kVarint, "type"));
      type = field.value;
    }
  }
  if (type == kControl || type == kUserDefined) model->named.push_back(piece.text);
  model->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ParseNormalizer(WireReader reader, SentencePieceModel* model) {
  while (!reader.done()) {
    FRESCO_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.number != 2) continue;
    FRESCO_RETURN_IF_ERROR(ExpectType(reader, field, kBytes, "precompiled_charsmap"));
    model->charsmap = std::string(field.bytes);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  constexpr size_t kMaxPieces = 1 << 24;
  SentencePieceModel model;
  WireReader reader(bytes, 0);
  while (!reader.done()) {
    FRESCO_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.number != 1 && field.number != 3) continue;
    FRESCO_RETURN_IF_ERROR(ExpectType(reader, field, kBytes, field.number == 1 ? "pieces" : "normalizer_spec"));
    const WireReader inner(field.bytes, reader.offset() - field.bytes.size());
    FRESCO_RETURN_IF_ERROR(field.number == 1 ? ParsePiece(inner, &model) : ParseNormalizer(inner, &model));
    if (model.pieces.size() > kMaxPieces) return reader.Invalid("more than 2^24 pieces");
  }
  if (model.pieces.empty()) return reader.Invalid("there are no pieces");
  return model;
}

}  // namespace fresco
