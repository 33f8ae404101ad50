#include "server/rpc/wire_bytes.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

// Nothing if the call has no message.
std::optional<std::string> Joined(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  if (!bytes.Valid() || !bytes.Dump(&slices).ok()) return std::nullopt;
  std::string joined;
  joined.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices) joined.append(slice.begin(), slice.end());
  return joined;
}

// A field may stand in a message any number of times, and is named once.
void AddOnce(const std::string& field, std::vector<FieldViolation>* violations) {
  const auto same = [&](const FieldViolation& violation) { return violation.field == field; };
  if (std::none_of(violations->begin(), violations->end(), same)) violations->push_back({field, "must be UTF-8"});
}

// Whether a field's value can be of the tag's wire type. A value of another one is no value of it, to protobuf.
bool IsOfType(const FieldDescriptor& field, uint32_t tag) {
  const WireFormatLite::WireType found = WireFormatLite::GetTagWireType(tag);
  const auto own = WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field.type()));
  return found == own || (field.is_packable() && found == WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

void AppendSize(size_t size, std::string* out) {
  uint8_t digits[10];
  const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(size, digits);
  out->append(reinterpret_cast<const char*>(digits), static_cast<size_t>(end - digits));
}

// A message's known fields, as bytes again, without the texts that are not UTF-8.
class Sieve {
 public:
  explicit Sieve(std::vector<FieldViolation>* violations) : violations_(violations) {}

  // False if the bytes are no message.
  bool Sift(const Descriptor& type, const std::string& path, std::string_view bytes, std::string* out) {
    CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
    for (;;) {
      const size_t start = input.CurrentPosition();
      const uint32_t tag = input.ReadTag();
      if (tag == 0) return input.ConsumedEntireMessage();
      const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      const bool known = field != nullptr && IsOfType(*field, tag);
      if (known && (field->type() == FieldDescriptor::TYPE_STRING || field->type() == FieldDescriptor::TYPE_MESSAGE)) {
        out->append(bytes.substr(start, input.CurrentPosition() - start));
        if (!TakeContent(*field, path, bytes, &input, out)) return false;
      } else {
        if (!WireFormatLite::SkipField(&input, tag)) return false;
        if (known) out->append(bytes.substr(start, input.CurrentPosition() - start));
      }
    }
  }

 private:
  static constexpr int kMaxDepth = 100;  // protobuf's

  // Size and content of a text or a message, whose tag has been read.
  bool TakeContent(const FieldDescriptor& field, const std::string& path, std::string_view bytes,
                   CodedInputStream* input, std::string* out) {
    uint32_t size = 0;
    if (!input->ReadVarint32(&size) || size > bytes.size() - input->CurrentPosition()) return false;
    const std::string_view content = bytes.substr(input->CurrentPosition(), size);
    input->Skip(static_cast<int>(size));
    std::string inner;
    if (field.type() == FieldDescriptor::TYPE_STRING) {
      if (IsUtf8(content)) {
        inner = content;
      } else {
        AddOnce(path + field.name(), violations_);
      }
    } else {
      if (depth_ == kMaxDepth) return false;
      ++depth_;
      if (!Sift(*field.message_type(), StrCat(path, field.name(), "."), content, &inner)) return false;
      --depth_;
    }
    AppendSize(inner.size(), out);
    out->append(inner);
    return true;
  }

  std::vector<FieldViolation>* const violations_;
  int depth_ = 0;
};

void AppendTag(int field, std::string* out) {
  AppendSize(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED), out);
}

// The picture's own bytes, which live as long as the slice and its copies do.
grpc::Slice SliceOf(const SharedBytes& picture) {
  const std::string& bytes = picture.str();
  // gRPC takes what it does not change as not constant.
  return grpc::Slice(
      const_cast<char*>(bytes.data()), bytes.size(), [](void* held) { delete static_cast<SharedBytes*>(held); },
      new SharedBytes(picture));
}

}  // namespace

absl::StatusOr<std::vector<FieldViolation>> ParseRequest(const grpc::ByteBuffer& bytes,
                                                         google::protobuf::Message* request) {
  const Descriptor& type = *request->GetDescriptor();
  const std::optional<std::string> joined = Joined(bytes);
  std::vector<FieldViolation> bad_texts;
  // protobuf's own parser says on standard error which texts it refuses, and keeps what it does not know, in up to a
  // hundred times the memory that it was sent in.
  std::string sifted;
  const bool sound = joined.has_value() && Sieve(&bad_texts).Sift(type, "", *joined, &sifted);
  if (sound && request->ParseFromString(sifted)) return bad_texts;
  return absl::InvalidArgumentError(StrCat("the request is no message of the type ", type.full_name()));
}

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  // Fails only for messages beyond 2 GiB, which a picture in chunks never is.
  (void)grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, &bytes, &own);
  return bytes;
}

grpc::ByteBuffer ToBytes(const v1::CreateImageResponse& response, const std::vector<SharedBytes>& pictures) {
  using Response = v1::CreateImageResponse;
  Response rest = response;
  rest.clear_data();
  std::vector<grpc::Slice> slices;
  std::string before = rest.SerializeAsString();
  for (int i = 0; i < response.data_size(); ++i) {
    const SharedBytes& picture = pictures[i];
    const std::string datum = response.data(i).SerializeAsString();
    std::string head;  // of the picture, which is the last of its datum
    AppendTag(Response::Datum::kB64JsonFieldNumber, &head);
    AppendSize(picture.size(), &head);
    AppendTag(Response::kDataFieldNumber, &before);
    AppendSize(datum.size() + head.size() + picture.size(), &before);
    slices.emplace_back(StrCat(before, datum, head));
    slices.push_back(SliceOf(picture));
    before.clear();
  }
  if (!before.empty()) slices.emplace_back(before);
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace fresco
