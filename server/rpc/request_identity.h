// What makes two calls with the same request_id the same request.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace fresco {

struct RequestIdentity {
  std::string id;                             // as its caller calls it
  std::string method;                         // "Generate"
  std::map<std::string, std::string> fields;  // those that are set but the id: the same bytes for the same value
};

// `request` has a field request_id; what is asked for is all its other fields.
RequestIdentity IdentityOf(std::string_view method, std::string_view id, const google::protobuf::Message& request);

// The fields in which they differ, by name; empty: they ask for the same, if the method is the same.
std::vector<std::string> DifferingFields(const RequestIdentity& a, const RequestIdentity& b);

// The memory that it takes.
int64_t BytesOf(const RequestIdentity& identity);

}  // namespace fresco
