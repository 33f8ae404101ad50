// A program run by a test: started, watched through what it writes to standard error, signalled, and never left behind.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace fresco {

class Process {
 public:
  // Looks up the program in PATH unless it holds a slash. Its standard output and error go to `output` (a file).
  Process(const std::vector<std::string>& command, const std::string& output);
  // Kills it if it still runs.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();
  void Signal(int signal) const;
  // Waits for its end; the exit code, or 128 + the signal that ended it.
  int Wait();
  std::string Output() const;  // all of it so far
  // Waits until the output holds `text`; fails the test if the program ends first.
  void AwaitOutput(const std::string& text);

 private:
  const std::string output_;
  pid_t pid_ = -1;
  int status_ = -1;  // once it has ended
};

// The answer to an HTTP GET from 127.0.0.1, headers and all; empty if nobody listens.
std::string HttpGet(int port, const std::string& path);

}  // namespace fresco
