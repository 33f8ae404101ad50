// Messages as the bytes that gRPC carries. Requests with texts are parsed here and not by gRPC, which answers
// UNIMPLEMENTED, without a word, to a text that is not UTF-8.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

namespace fresco {

// INVALID_ARGUMENT: a google.rpc.BadRequest names every text that is not UTF-8; or the bytes are no message at all.
absl::Status ParseRequest(const grpc::ByteBuffer& bytes, google::protobuf::Message* request);

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message);

}  // namespace fresco
