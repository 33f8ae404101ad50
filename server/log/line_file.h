// A file that lines are appended to, each whole: others may read it meanwhile, or rotate it by copying or by renaming.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "server/log/line_writer.h"

namespace fresco {

// Thread-safe.
class LineFile {
 public:
  // Made where there is none, for its owner alone to read. UNAVAILABLE if it cannot be written.
  static absl::StatusOr<std::unique_ptr<LineFile>> Open(const std::string& path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  // `line` without its end, to the file that has the path now: it is made anew where it has been renamed or removed.
  // UNAVAILABLE if not all of it is written.
  absl::Status Write(std::string_view line);

 private:
  LineFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor), writer_(descriptor) {}

  bool IsAtItsPath() const FRESCO_REQUIRES(mutex_);

  const std::string path_;
  Mutex mutex_;
  int descriptor_ FRESCO_GUARDED_BY(mutex_);
  LineWriter writer_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
