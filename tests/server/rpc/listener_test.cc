#include "server/rpc/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A socket of a caller's; connects when it is told to, since file descriptors may be short by then.
class Caller {
 public:
  Caller() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Caller() { close(fd_); }
  bool Connects(int port) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  void Send(const std::string& text) const {
    EXPECT_EQ(send(fd_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

 private:
  const int fd_;
};

// What a listener has said.
class Heard {
 public:
  ~Heard() {
    for (const int fd : sockets_) close(fd);
  }
  Listener::Take Take() {
    return [this](int fd) {
      MutexLock lock(&mutex_);
      sockets_.push_back(fd);
      changed_.NotifyAll();
    };
  }
  Listener::OnTrouble OnTrouble() {
    return [this](const absl::Status& status) {
      MutexLock lock(&mutex_);
      troubles_.push_back(status);
      changed_.NotifyAll();
    };
  }
  int AwaitSocket(size_t number) {
    MutexLock lock(&mutex_);
    while (sockets_.size() <= number) changed_.Wait(&mutex_);
    return sockets_[number];
  }
  absl::Status AwaitTrouble(size_t number) {
    MutexLock lock(&mutex_);
    while (troubles_.size() <= number) changed_.Wait(&mutex_);
    return troubles_[number];
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<int> sockets_ FRESCO_GUARDED_BY(mutex_);
  std::vector<absl::Status> troubles_ FRESCO_GUARDED_BY(mutex_);
};

std::unique_ptr<Listener> Bind(const std::string& address) {
  auto listener = Listener::Bind(address, absl::Seconds(20));
  EXPECT_TRUE(listener.ok()) << listener.status();
  return listener.ok() ? *std::move(listener) : nullptr;
}

TEST(ListenerTest, GivesWhoeverConnectsWhatTheySend) {
  for (const char* address : {"127.0.0.1:0", "localhost:0", "0.0.0.0:0"}) {
    const auto listener = Bind(address);
    ASSERT_NE(listener, nullptr);
    const Caller early;
    ASSERT_TRUE(early.Connects(listener->port()));  // waits for Start
    Heard heard;
    listener->Start(heard.Take(), heard.OnTrouble());
    early.Send("hello");
    const int fd = heard.AwaitSocket(0);
    EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    fcntl(fd, F_SETFL, 0);
    char text[5];
    EXPECT_EQ(recv(fd, text, sizeof(text), MSG_WAITALL), 5);
    EXPECT_EQ(std::string(text, 5), "hello");
  }
}

TEST(ListenerTest, WithoutFileDescriptorsCallersWaitAndAreTakenLater) {
  const auto listener = Bind("127.0.0.1:0");
  const Caller first, second, third;
  Heard heard;
  listener->Start(heard.Take(), heard.OnTrouble());
  ASSERT_TRUE(first.Connects(listener->port()));
  heard.AwaitSocket(0);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  ASSERT_TRUE(second.Connects(listener->port()));
  const absl::Status trouble = heard.AwaitTrouble(0);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(std::string(trouble.message()), HasSubstr("Too many open files"));
  heard.AwaitSocket(1);
  EXPECT_TRUE(heard.AwaitTrouble(1).ok());
  ASSERT_TRUE(third.Connects(listener->port()));
  heard.AwaitSocket(2);
}

TEST(ListenerTest, StoppedItRefuses) {
  const auto listener = Bind("127.0.0.1:0");
  Heard heard;
  listener->Start(heard.Take(), heard.OnTrouble());
  listener->Stop();
  EXPECT_FALSE(Caller().Connects(listener->port()));
  listener->Stop();
}

TEST(ListenerTest, AnAddressThatCannotBeHadIsNamedWithTheReason) {
  const auto first = Bind("127.0.0.1:0");
  const std::string taken = StrCat("127.0.0.1:", first->port());
  EXPECT_THAT(std::string(Listener::Bind(taken, absl::Seconds(1)).status().message()),
              AllOf(HasSubstr(taken), HasSubstr("the port is taken")));
  for (const char* address : {"192.0.2.1:0", "no-such-host.invalid:0"}) {
    const absl::Status status = Listener::Bind(address, absl::Seconds(1)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  }
}

}  // namespace
}  // namespace fresco
