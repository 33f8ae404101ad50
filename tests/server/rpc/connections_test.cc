#include "server/rpc/connections.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/base/strings.h"
#include "tests/server/rpc/service_fixture.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int ConnectTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(port);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

// A connection's two ends, and what the server's gRPC calls its peer.
class Pair {
 public:
  Pair() {
    const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listening, 1), 0);
    EXPECT_EQ(getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size), 0);
    caller_ = ConnectTo(ntohs(address.sin_port));
    server_ = accept(listening, reinterpret_cast<sockaddr*>(&address), &size);
    peer_ = StrCat("ipv4:127.0.0.1:", ntohs(address.sin_port));
    close(listening);
  }
  ~Pair() {
    CloseServer();
    close(caller_);
  }
  void CloseServer() {
    if (server_ >= 0) close(server_);
    server_ = -1;
  }
  int server() const { return server_; }
  const std::string& peer() const { return peer_; }
  // Whether the server's end has been shut down, as its caller sees it.
  bool IsEnded() const {
    char byte;
    return recv(caller_, &byte, 1, MSG_DONTWAIT) == 0;
  }

 private:
  int caller_ = -1, server_ = -1;
  std::string peer_;
};

constexpr int kMaxStreams = 10;

class ConnectionsTest : public ::testing::Test {
 protected:
  void GiveUp(const Pair& pair, int count) {
    for (int i = 0; i < count; ++i) connections_.CallOver(pair.peer(), true);
  }
  FakeClock clock_;
  std::vector<std::string> ended_;
  Connections connections_{0, kMaxStreams, &clock_, [this](const std::string& peer) { ended_.push_back(peer); }};
};

TEST_F(ConnectionsTest, WhoGivesUpOneCallAfterTheOtherLosesItsConnectionAndNobodyElseDoes) {
  const Pair one, other;
  EXPECT_TRUE(connections_.Add(one.server()));
  EXPECT_TRUE(connections_.Add(other.server()));
  GiveUp(one, Connections::kMaxGivenUp);
  EXPECT_FALSE(one.IsEnded());
  GiveUp(one, 2);
  EXPECT_TRUE(one.IsEnded());
  EXPECT_FALSE(other.IsEnded());
  EXPECT_THAT(ended_, ElementsAre(one.peer()));
}

// Their end has not been noticed yet.
TEST_F(ConnectionsTest, WhoHasBegunFarMoreCallsThanCanBeOpenLosesItsConnection) {
  const Pair pair;
  EXPECT_TRUE(connections_.Add(pair.server()));
  for (int i = 0; i < 3 * Connections::kMaxGivenUp; ++i) {
    connections_.CallBegun(pair.peer());
    connections_.CallOver(pair.peer(), false);
    connections_.CallGone(pair.peer());
  }
  for (int i = 0; i < kMaxStreams + Connections::kMaxGivenUp; ++i) connections_.CallBegun(pair.peer());
  EXPECT_FALSE(pair.IsEnded());
  connections_.CallBegun(pair.peer());
  EXPECT_TRUE(pair.IsEnded());
  EXPECT_THAT(ended_, ElementsAre(pair.peer()));
}

TEST_F(ConnectionsTest, WhoWaitsForAsManyOrTakesItsTimeMayGiveUpAnyNumber) {
  const Pair pair;
  EXPECT_TRUE(connections_.Add(pair.server()));
  for (int i = 0; i < 2 * Connections::kMaxGivenUp; ++i) {
    connections_.CallOver(pair.peer(), true);
    connections_.CallOver(pair.peer(), false);
  }
  for (int i = 0; i < 4; ++i) {
    GiveUp(pair, Connections::kMaxGivenUp / 2);
    clock_.Advance(absl::Seconds(10));
  }
  EXPECT_FALSE(pair.IsEnded());
  EXPECT_THAT(ended_, IsEmpty());
}

// The number of a socket that gRPC has closed is the next one's.
TEST_F(ConnectionsTest, ASocketThatIsAnothersByNowIsLeftAlone) {
  Pair old;
  EXPECT_TRUE(connections_.Add(old.server()));
  const int number = old.server();
  Pair fresh;
  old.CloseServer();
  ASSERT_EQ(dup2(fresh.server(), number), number);
  GiveUp(old, 2 * Connections::kMaxGivenUp);
  EXPECT_FALSE(fresh.IsEnded());
  EXPECT_THAT(ended_, IsEmpty());
  EXPECT_TRUE(connections_.Add(number));
  GiveUp(fresh, 2 * Connections::kMaxGivenUp);
  EXPECT_TRUE(fresh.IsEnded());
  close(number);
}

TEST_F(ConnectionsTest, AnAddressHasAsManyAsItMayAndOthersWhenTheyClose) {
  Connections two(2, kMaxStreams, &clock_, nullptr);
  Pair first;
  const Pair second, third;
  EXPECT_TRUE(two.Add(first.server()));
  EXPECT_TRUE(two.Add(second.server()));
  EXPECT_FALSE(two.Add(third.server()));
  first.CloseServer();
  EXPECT_TRUE(two.Add(third.server()));
}

// HTTP/2 by hand: no client's library does this.
std::string Frame(char kind, char flags, uint32_t stream, const std::string& content) {
  std::string frame;
  for (const int shift : {16, 8, 0}) frame += static_cast<char>(content.size() >> shift);
  frame += kind;
  frame += flags;
  for (const int shift : {24, 16, 8, 0}) frame += static_cast<char>(stream >> shift);
  return frame + content;
}

std::string Headers() {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kHeaders = {{
      {":method", "POST"},
      {":scheme", "http"},
      {":path", "/fresco.v1.ImageGeneration/Generate"},
      {":authority", "x"},
      {"content-type", "application/grpc"},
      {"te", "trailers"},
  }};
  std::string block;
  for (const auto& [name, value] : kHeaders) {
    block += '\0';  // a literal, kept in no table
    block += static_cast<char>(name.size());
    block += name;
    block += static_cast<char>(value.size());
    block += value;
  }
  return block;
}

// A call that is begun, asked, and reset at once.
std::string ResetCall(uint32_t stream) {
  const std::string request("\0\0\0\0\3\x12\1a", 8);
  const std::string cancel("\0\0\0\10", 4);
  return Frame(1, 4, stream, Headers()) + Frame(0, 1, stream, request) + Frame(3, 0, stream, cancel);
}

// However many calls there were, of whatever kind, and however they ended.
TEST_F(ServiceTest, WhoTakesTheAnswersKeepsItsConnection) {
  Options options;
  options.rpc.max_concurrent_streams = 4;
  Start(options);
  constexpr int kEach = (Connections::kMaxGivenUp + 10) / 4;
  v1::CreateImageRequest bad;
  bad.set_size("1x1");
  for (int i = 0; i < kEach; ++i) {
    v1::CreateImageResponse image;
    grpc::ClientContext one, two;
    EXPECT_EQ(stub_->CreateImage(&one, bad, &image).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    v1::ListModelsResponse models;
    EXPECT_TRUE(stub_->ListModels(&two, {}, &models).ok());
    EXPECT_EQ(Health(""), "SERVING");
    EXPECT_EQ(CancelAs("", "none"), grpc::StatusCode::NOT_FOUND);
  }
  EXPECT_TRUE(Generate(Request("a")).status.ok());
  for (const std::string& line : AwaitLog(kEach + 1)) EXPECT_EQ(line.find("connection_ended"), std::string::npos);
}

TEST_F(ServiceTest, WhoResetsCallsWithoutEndLosesItsConnectionAndOthersAreServed) {
  Start();
  const int attacker = ConnectTo(server_->port());
  std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(4, 0, 0, "");
  uint32_t stream = 1;
  char answer[4096];
  do {
    for (int i = 0; i < 100; ++i, stream += 2) bytes += ResetCall(stream);
    if (send(attacker, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) break;
    bytes.clear();
  } while (recv(attacker, answer, sizeof(answer), MSG_DONTWAIT) != 0 && stream < 400'000);
  close(attacker);
  ASSERT_LT(stream, 400'000u);
  // Among the lines of the calls.
  for (size_t line = 1; AwaitLog(line)[line - 1].find("connection_ended") == std::string::npos;) ++line;
  EXPECT_TRUE(Generate(Request("a")).status.ok());
}

}  // namespace
}  // namespace fresco
