// gRPC's reflection service, of which each open stream has a thread of the process.
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
const std::string kListServices = "\x3a\x01*";  // ServerReflectionRequest{list_services: "*"}

grpc::Status Ask(const std::shared_ptr<grpc::Channel>& channel) {
  RawCall call(channel, kReflection);
  call.Send(kListServices);
  return call.Rest();
}

TEST_F(ServiceTest, ReflectionStreamsThatStayOpenAreBoundedAndHoldUpNobodyElse) {
  Start();
  EXPECT_TRUE(Ask(channel_).ok());
  std::vector<std::unique_ptr<RawCall>> idle;
  for (int i = 0; i < 200; ++i) idle.push_back(std::make_unique<RawCall>(channel_, kReflection));
  EXPECT_EQ(Ask(channel_).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Generate(Request("a")).status.ok());
  EXPECT_EQ(Health(""), "SERVING");
  idle.clear();
  while (!Ask(channel_).ok()) absl::SleepFor(absl::Milliseconds(5));
}

}  // namespace
}  // namespace fresco
