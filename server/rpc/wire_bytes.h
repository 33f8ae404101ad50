// Messages as the bytes that gRPC carries. Requests with texts are parsed here and not by gRPC, which answers
// UNIMPLEMENTED, without a word, to a text that is not UTF-8.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <vector>

#include "absl/status/statusor.h"
#include "server/rpc/violations.h"

namespace fresco {

// The texts that are not UTF-8, each field once; in `request` they are empty. INVALID_ARGUMENT if the bytes are no
// message of its type.
absl::StatusOr<std::vector<FieldViolation>> ParseRequest(const grpc::ByteBuffer& bytes,
                                                         google::protobuf::Message* request);

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message);

}  // namespace fresco
