// Lines onto a file, a pipe or a terminal that may be full, gone or read by nobody: what cannot be written is given up
// instead of waited for.
#pragma once

#include <string_view>

namespace fresco {

// One thread at a time. Whoever makes it has SIGPIPE and SIGXFSZ ignored, or they end the process.
class LineWriter {
 public:
  // `fd` stays the caller's, and need not be open.
  explicit LineWriter(int fd) : fd_(fd) {}

  // Writes the line and its end. False where it is not on its way as a whole: the disk is full, the reader is gone, or
  // nobody has read for a second. That second is waited once; until somebody reads again, further lines fail at once.
  bool Write(std::string_view line);

 private:
  bool Ready();
  bool WriteAll(std::string_view bytes, bool* any);

  int fd_;
  bool stalled_ = false;  // nobody reads
  bool torn_ = false;     // what is there ends in a part of a line
};

}  // namespace fresco
