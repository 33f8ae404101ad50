// The service under load in small: hundreds of streams at once and thousands of requests, each of which ends once and
// well, and then nothing is left of any of them. bench/service/load.cc is the same at full size, with speed.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/service/server_process.h"
#include "bench/service/traffic.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr int kStreams = 200;
constexpr size_t kRequests = 600;  // of each of three rounds, beside the streams
// What allocators keep for threads that come and go; a call that is not destroyed takes kilobytes, of each of a round.
constexpr double kRoundBytes = 1 << 20;

// Polls: what happens in another process has no other sign here. The test's own limit ends it.
void Await(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

class ServiceLoadTest : public ::testing::Test {
 protected:
  ServiceLoadTest() {
    std::string name = (fs::temp_directory_path() / "fresco-load-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~ServiceLoadTest() override { fs::remove_all(folder_); }

  std::unique_ptr<ServerProcess> Start(const std::vector<std::string>& arguments) {
    std::ofstream(folder_ / "server.yaml")
        << "scheduler: {max_queue: 1000, classes: {interactive: {max_wait: 10h}, standard: {max_wait: 10h}, batch: "
           "{max_wait: 10h}}}\n";
    std::vector<std::string> command = {FRESCO_FAKE_SERVER_BINARY, "--config", (folder_ / "server.yaml").string()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    auto server = ServerProcess::Start(command, folder_.string());
    if (!server.ok()) {
      ADD_FAILURE() << server.status();
      std::abort();
    }
    // Calls that come while the model loads are refused.
    Await([&] { return (*server)->Metric("fresco_serving") == 1; });
    return *std::move(server);
  }

  static void ExpectGood(const Records& records, size_t count) {
    EXPECT_EQ(records.size(), count);
    for (const CallRecord& record : records) {
      EXPECT_EQ(record.code, grpc::StatusCode::OK) << record.error;
      EXPECT_TRUE(record.well_formed);
    }
  }

  fs::path folder_;
  SystemClock clock_;
};

TEST_F(ServiceLoadTest, ManyStreamsAreOpenAtOnceAndEachEndsOnce) {
  const auto server = Start({"--paused"});
  {
    Traffic traffic({.address = server->address()}, &clock_);
    Mutex mutex;
    Records records;
    std::atomic<int> opened = 0;
    for (int i = 0; i < kStreams; ++i) {
      traffic.Send(
          clock_.Now(), [&] { ++opened; },
          [&](const CallRecord& record) {
            MutexLock lock(&mutex);
            records.push_back(record);
          });
    }
    Await([&] { return opened == kStreams; });
    EXPECT_EQ(traffic.under_way(), kStreams);
    EXPECT_EQ(server->Metric("fresco_queue_depth") + server->Metric("fresco_requests_running"), kStreams);
    server->CloseInput();
    traffic.AwaitNone();
    ExpectGood(records, kStreams);
  }
  EXPECT_EQ(server->Metric("fresco_requests_total"), kStreams);
  EXPECT_EQ(server->Stop(), 0);
}

TEST_F(ServiceLoadTest, NothingIsLeftOfThousandsOfRequests) {
  const auto server = Start({"--step", "1ms"});
  struct Left {
    int files = 0;
    double heap = 0;
  };
  std::vector<Left> left;
  for (size_t round = 1; round <= 3; ++round) {
    {
      Traffic traffic({.address = server->address()}, &clock_);
      ExpectGood(RunClosedLoop(&traffic, &clock_, 50, kRequests / 2), kRequests / 2);
      // As fast as they can be sent: they wait in the queue.
      ExpectGood(RunOpenLoop(&traffic, &clock_, 1e5, kRequests / 2, /*seed=*/round, {}), kRequests / 2);
    }
    // The server counts a call when gRPC is done with it, and hears of closed connections, a little later.
    Await([&] { return server->Metric("fresco_requests_total") == static_cast<double>(round * kRequests); });
    if (!left.empty()) Await([&] { return server->OpenFiles() <= left[0].files; });
    EXPECT_EQ(server->Metric("fresco_requests_total", "code=\"OK\""), round * kRequests);
    EXPECT_EQ(server->Metric("fresco_requests_running"), 0);
    EXPECT_EQ(server->Metric("fresco_queue_depth"), 0);
    left.push_back({server->OpenFiles(), server->Metric("fresco_heap_bytes", "kind=\"used\"")});
  }
  EXPECT_LE(left[2].heap, left[1].heap + kRoundBytes);
  EXPECT_EQ(server->Stop(), 0);
}

}  // namespace
}  // namespace fresco
