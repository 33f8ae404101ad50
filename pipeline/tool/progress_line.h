// How far a long command is: one line on standard error that a terminal shows anew each time.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace fresco {

// Where standard error is no terminal, a line at most every ten seconds is printed instead. The destructor ends it.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { End(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // `important`: not left out, however soon it comes after the last.
  void Show(const std::string& text, bool important = false);
  // Other text may follow: it begins on a line of its own.
  void End();

 private:
  using Clock = std::chrono::steady_clock;

  const bool terminal_;
  bool open_ = false;  // the terminal's line is not ended
  std::optional<Clock::time_point> shown_;
};

}  // namespace fresco
