#include "server/rpc/request_identity.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>

#include <memory>

namespace fresco {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr char kRequestId[] = "request_id";
// Of a newer client.
constexpr char kUnknownFields[] = "fields that this server does not know";

// Of a map's node, beside its texts.
constexpr int64_t kNodeBytes = 128;

std::string Deterministic(const Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializePartialToCodedStream(&coded);
  }
  return bytes;
}

}  // namespace

RequestIdentity IdentityOf(std::string_view method, std::string_view id, const Message& request) {
  RequestIdentity identity{std::string(id), std::string(method), {}};
  const google::protobuf::Reflection& reflection = *request.GetReflection();
  const std::unique_ptr<Message> all(request.New()), one(request.New());
  all->CopyFrom(request);
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(request, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->name() == kRequestId) continue;
    reflection.SwapFields(all.get(), one.get(), {field});
    identity.fields[field->name()] = Deterministic(*one);
    one->Clear();
  }
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(request);
  if (!unknown.empty()) unknown.SerializeToString(&identity.fields[kUnknownFields]);
  return identity;
}

std::vector<std::string> DifferingFields(const RequestIdentity& a, const RequestIdentity& b) {
  std::vector<std::string> differing;
  for (const auto& [field, bytes] : a.fields) {
    const auto other = b.fields.find(field);
    if (other == b.fields.end() || other->second != bytes) differing.push_back(field);
  }
  for (const auto& [field, bytes] : b.fields) {
    if (!a.fields.contains(field)) differing.push_back(field);
  }
  return differing;
}

int64_t BytesOf(const RequestIdentity& identity) {
  size_t bytes = identity.id.size() + identity.method.size();
  for (const auto& [field, value] : identity.fields) bytes += kNodeBytes + field.size() + value.size();
  return static_cast<int64_t>(bytes);
}

}  // namespace fresco
