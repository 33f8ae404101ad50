#include "server/rpc/wire_bytes.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

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

// Empties the texts of a message, and of those in it, that are not UTF-8, and notes their paths.
void TakeBadTexts(const Descriptor& type, const std::string& path, UnknownFieldSet* fields,
                  std::vector<FieldViolation>* violations) {
  for (int i = 0; i < fields->field_count(); ++i) {
    UnknownField* value = fields->mutable_field(i);
    const FieldDescriptor* field = type.FindFieldByNumber(value->number());
    if (field == nullptr || value->type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    const std::string& bytes = value->length_delimited();
    if (field->type() == FieldDescriptor::TYPE_STRING && !IsUtf8(bytes)) {
      AddOnce(path + field->name(), violations);
      value->set_length_delimited("");
    }
    UnknownFieldSet inner;
    if (field->type() == FieldDescriptor::TYPE_MESSAGE && inner.ParseFromString(bytes)) {
      TakeBadTexts(*field->message_type(), StrCat(path, field->name(), "."), &inner, violations);
      inner.SerializeToString(value->mutable_length_delimited());
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<FieldViolation>> ParseRequest(const grpc::ByteBuffer& bytes,
                                                         google::protobuf::Message* request) {
  const Descriptor& type = *request->GetDescriptor();
  std::optional<std::string> joined = Joined(bytes);
  std::vector<FieldViolation> bad_texts;
  // First without the texts' being looked at: protobuf's own parser says on standard error what it refuses.
  UnknownFieldSet fields;
  const bool sound = joined.has_value() && fields.ParseFromString(*joined);
  if (sound) TakeBadTexts(type, "", &fields, &bad_texts);
  if (!bad_texts.empty()) fields.SerializeToString(&*joined);
  if (sound && request->ParseFromString(*joined)) return bad_texts;
  return absl::InvalidArgumentError(StrCat("the request is no message of the type ", type.full_name()));
}

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  // Fails only for messages beyond 2 GiB, which a picture in chunks never is.
  (void)grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, &bytes, &own);
  return bytes;
}

}  // namespace fresco
