// Messages as the bytes that gRPC carries. Requests with texts are parsed here and not by gRPC, which answers
// UNIMPLEMENTED, without a word, to a text that is not UTF-8.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <vector>

#include "absl/status/statusor.h"
#include "fresco/v1/image_generation.pb.h"
#include "server/rpc/violations.h"
#include "server/scheduler/shared_bytes.h"

namespace fresco {

// The texts that are not UTF-8, each field once; in `request` they are empty. Fields that its type does not know are
// left out, so that it holds no more than what it can say. INVALID_ARGUMENT if the bytes are no message of its type.
absl::StatusOr<std::vector<FieldViolation>> ParseRequest(const grpc::ByteBuffer& bytes,
                                                         google::protobuf::Message* request);

grpc::ByteBuffer ToBytes(const google::protobuf::Message& message);

// `response`, whose data have no pictures yet, with these: one each, in their order. They are not copied, so that as
// many answers as there may be hold one picture.
grpc::ByteBuffer ToBytes(const v1::CreateImageResponse& response, const std::vector<SharedBytes>& pictures);

}  // namespace fresco
