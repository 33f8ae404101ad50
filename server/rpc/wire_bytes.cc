#include "server/rpc/wire_bytes.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <string>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "server/rpc/violations.h"

namespace fresco {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

std::string Joined(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string joined;
  if (!bytes.Dump(&slices).ok()) return joined;
  joined.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices) joined.append(slice.begin(), slice.end());
  return joined;
}

// The texts of a message, and of those in it, that are not UTF-8, by their paths.
void FindBadTexts(const Descriptor& type, const UnknownFieldSet& fields, const std::string& path,
                  std::vector<FieldViolation>* violations) {
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& value = fields.field(i);
    const FieldDescriptor* field = type.FindFieldByNumber(value.number());
    if (field == nullptr || value.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    const std::string& bytes = value.length_delimited();
    if (field->type() == FieldDescriptor::TYPE_STRING && !IsUtf8(bytes))
      violations->push_back({path + field->name(), "must be UTF-8"});
    UnknownFieldSet inner;
    if (field->type() == FieldDescriptor::TYPE_MESSAGE && inner.ParseFromString(bytes))
      FindBadTexts(*field->message_type(), inner, StrCat(path, field->name(), "."), violations);
  }
}

}  // namespace

absl::Status ParseRequest(const grpc::ByteBuffer& bytes, google::protobuf::Message* request) {
  const std::string joined = Joined(bytes);
  const Descriptor& type = *request->GetDescriptor();
  std::vector<FieldViolation> violations;
  // First without the texts' being looked at: protobuf's own parser says on standard error what it refuses.
  UnknownFieldSet fields;
  const bool sound = fields.ParseFromString(joined);
  if (sound) FindBadTexts(type, fields, "", &violations);
  if (!violations.empty()) return InvalidRequest(violations);
  if (sound && request->ParseFromString(joined)) return absl::OkStatus();
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
