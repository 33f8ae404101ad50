#include "server/rpc/wire_bytes.h"

#include <grpcpp/impl/grpc_library.h>
#include <grpcpp/support/slice.h>

#include <string>
#include <vector>

#include "fresco/v1/image_generation.pb.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ParseRequestTest : public ::testing::Test {
 protected:
  // The bytes come in two pieces.
  static absl::StatusOr<std::vector<std::string>> Parse(const std::string& bytes, google::protobuf::Message* message) {
    const size_t middle = bytes.size() / 2;
    const grpc::Slice slices[] = {grpc::Slice(bytes.substr(0, middle)), grpc::Slice(bytes.substr(middle))};
    const auto bad_texts = ParseRequest(grpc::ByteBuffer(slices, 2), message);
    if (!bad_texts.ok()) return bad_texts.status();
    std::vector<std::string> fields;
    for (const FieldViolation& violation : *bad_texts) fields.push_back(violation.field);
    return fields;
  }

 private:
  grpc::internal::GrpcLibraryInitializer library_;
};

v1::GenerateRequest Example() {
  v1::GenerateRequest request;
  request.set_prompt("a red fox");
  request.set_width(-16);
  request.set_guidance_scale(4.5F);
  request.set_seed(~uint64_t{0});
  request.set_prompt_2("");
  request.set_format(static_cast<v1::ImageFormat>(77));
  request.set_deterministic(true);
  return request;
}

TEST_F(ParseRequestTest, KnownFieldsComeAsTheyWereSent) {
  v1::GenerateRequest request;
  EXPECT_THAT(Parse(Example().SerializeAsString(), &request).value(), IsEmpty());
  EXPECT_EQ(request.SerializeAsString(), Example().SerializeAsString());
  EXPECT_TRUE(request.has_prompt_2());
  EXPECT_FALSE(request.has_prompt_3());
}

// 1,400,000 fields of three bytes each would be kept in 100 MB for as long as the request waits.
TEST_F(ParseRequestTest, UnknownFieldsAreLeftOut) {
  std::string bytes = Example().SerializeAsString();
  for (int i = 0; i < 1000; ++i) bytes += std::string("\x9A\x06\x00", 3);  // 99: ""
  bytes += "\x1B\x1C";                                                     // a group, 3
  bytes += std::string("\x22\x02xx", 4);                                   // width as a text
  bytes += "\x15\x01\x02\x03\x04";                                         // prompt as a number of 32 bits
  v1::GenerateRequest request;
  EXPECT_THAT(Parse(bytes, &request).value(), IsEmpty());
  EXPECT_EQ(request.SerializeAsString(), Example().SerializeAsString());
}

TEST_F(ParseRequestTest, BadTextsAreNamedOnceAndEmpty) {
  std::string bytes = Example().SerializeAsString();
  bytes += "\x1A\x01\xFF";                  // negative_prompt
  bytes += "\x12\x02\xC3\x28\x12\x01\xFF";  // prompt, twice
  v1::GenerateRequest request;
  EXPECT_THAT(Parse(bytes, &request).value(), ElementsAre("negative_prompt", "prompt"));
  EXPECT_EQ(request.prompt(), "");
  EXPECT_EQ(request.width(), -16);
}

TEST_F(ParseRequestTest, TextsInMessagesWithinAreSeenToo) {
  google::rpc::BadRequest bad;
  bad.add_field_violations()->set_field("width");
  std::string bytes = bad.SerializeAsString();
  bytes += "\x0A\x06\x0A\x01\xFF\x12\x01y";  // a violation with a bad field and a good description
  google::rpc::BadRequest read;
  EXPECT_THAT(Parse(bytes, &read).value(), ElementsAre("field_violations.field"));
  ASSERT_EQ(read.field_violations_size(), 2);
  EXPECT_EQ(read.field_violations(0).field(), "width");
  EXPECT_EQ(read.field_violations(1).description(), "y");
}

TEST_F(ParseRequestTest, WhatIsNoMessageIsRefused) {
  const std::vector<std::string> cases = {
      std::string("\0", 1),     "\x12\x05xy",  "\x12\xFF\xFF\xFF\xFF\x0F", "\x20", "\x1B", "\x1C",
      std::string(300, '\x1B'), "\xFF\xFF\xFF"};
  for (const std::string& bytes : cases) {
    v1::GenerateRequest request;
    EXPECT_EQ(Parse(bytes, &request).status().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
  v1::GenerateRequest request;
  EXPECT_EQ(ParseRequest(grpc::ByteBuffer(), &request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ParseRequestTest, AnAnswersPicturesArePutIntoItsBytes) {
  v1::CreateImageResponse response;
  response.set_created(7);
  response.set_size("16x16");
  response.set_output_format("png");
  for (uint64_t seed : {1, 2, 3}) response.add_data()->set_seed(seed);
  const std::vector<SharedBytes> pictures = {std::string(300, 'a'), std::string(), std::string(70'000, 'c')};
  grpc::Slice bytes;
  ASSERT_TRUE(ToBytes(response, pictures).DumpToSingleSlice(&bytes).ok());
  v1::CreateImageResponse read;
  ASSERT_TRUE(read.ParseFromString(std::string(bytes.begin(), bytes.end())));
  for (int i = 0; i < 3; ++i) response.mutable_data(i)->set_b64_json(pictures[i].str());
  EXPECT_EQ(read.SerializeAsString(), response.SerializeAsString());
}

}  // namespace
}  // namespace fresco
