// A server as a process of its own: started on free ports, looked at from outside, and ended.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

class ServerProcess {
 public:
  // Runs `command` with --address, --metrics-address and --port-file added, its messages going to the file server.log
  // in `folder`, and returns once it has its model. UNAVAILABLE, with what it wrote, if it ends first.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Start(std::vector<std::string> command,
                                                              const std::string& folder);
  // Kills it, unless Stop has been called.
  ~ServerProcess();

  const std::string& address() const { return address_; }
  // Ends what the server reads as its standard input.
  void CloseInput();

  // What /proc says of it; zero where it is gone.
  int64_t ResidentBytes() const;
  int OpenFiles() const;
  double CpuSeconds() const;

  // The sum over all lines of a metric, as a scrape has them now; `labels`: only of those that hold the text. Negative
  // where there is no answer.
  double Metric(const std::string& name, const std::string& labels = "") const;

  // SIGTERM, and its exit code; 128 + the signal that ended it.
  int Stop();

 private:
  ServerProcess() = default;

  absl::Status AwaitModel(const std::string& folder);
  bool Ended();
  int Wait();

  pid_t pid_ = -1;
  int input_ = -1;
  std::string address_;
  int metrics_port_ = 0;
};

}  // namespace fresco
