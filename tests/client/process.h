// The `fresco` program as a process.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

namespace fresco {

struct ProcessOptions {
  std::vector<std::string> arguments;
  std::string folder;                    // where it runs
  std::vector<std::string> environment;  // "NAME=value"; nothing else is set
  bool terminal = false;                 // its standard error is a terminal of 80 columns
};

// Not thread-safe.
class Process {
 public:
  explicit Process(const ProcessOptions& options);
  ~Process();  // kills what is still running

  void Signal(int number) const;

  // Waits for its end; the exit code, or minus the signal that ended it.
  int Wait();

  // After Wait.
  const std::string& out() const { return out_; }
  const std::string& err() const { return err_; }

 private:
  pid_t pid_ = -1;
  int out_file_ = -1;
  int err_file_ = -1;
  std::string out_, err_;
};

}  // namespace fresco
