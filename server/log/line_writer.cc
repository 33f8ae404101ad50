#include "server/log/line_writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <string>

namespace fresco {
namespace {

constexpr int kPatienceMs = 1000;

}  // namespace

bool LineWriter::Write(std::string_view line) {
  std::string bytes;
  bytes.reserve(line.size() + 2);
  if (torn_) bytes += '\n';
  bytes.append(line).append(1, '\n');
  bool any = false;
  const bool all = WriteAll(bytes, &any);
  torn_ = all ? false : torn_ || any;
  return all;
}

// A pipe that is ready takes PIPE_BUF bytes without waiting, and more may wait for ever (pipe(7)).
bool LineWriter::WriteAll(std::string_view bytes, bool* any) {
  while (!bytes.empty()) {
    if (!Ready()) return false;
    const ssize_t written = write(fd_, bytes.data(), std::min<size_t>(bytes.size(), PIPE_BUF));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    *any = true;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// What is broken is ready: the write says so.
bool LineWriter::Ready() {
  pollfd file = {fd_, POLLOUT, 0};
  int ready;
  do {
    ready = poll(&file, 1, stalled_ ? 0 : kPatienceMs);
  } while (ready < 0 && errno == EINTR);
  stalled_ = ready == 0;
  return ready > 0;
}

}  // namespace fresco
