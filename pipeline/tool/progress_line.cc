#include "pipeline/tool/progress_line.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

namespace fresco {

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressLine::Show(const std::string& text, bool important) {
  const Clock::time_point now = Clock::now();
  const Clock::duration pause = terminal_ ? Clock::duration(std::chrono::milliseconds(100)) : std::chrono::seconds(10);
  if (!important && shown_ && now - *shown_ < pause) return;
  shown_ = now;
  constexpr const char* kAnew = "\r\033[K";
  std::fprintf(stderr, "%s%s%s", terminal_ ? kAnew : "", text.c_str(), terminal_ ? "" : "\n");
  std::fflush(stderr);
  open_ = terminal_;
}

void ProgressLine::End() {
  if (std::exchange(open_, false)) std::fprintf(stderr, "\n");
}

}  // namespace fresco
