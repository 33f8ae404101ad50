// What a batch has drawn so far, one JSON object a line, so that the next run goes on where this one was stopped.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/prompts.h"
#include "pipeline/base/mutex.h"

namespace fresco {

struct JournalImage {
  std::string file;
  uint64_t seed = 0;
};

// Thread-safe.
class Journal {
 public:
  static constexpr char kFileName[] = ".fresco-journal.jsonl";

  // Reads `path` if it is there; lines that are no entries (one was being written when the power went) are passed over.
  explicit Journal(const std::string& path);

  // The pictures of a job that was drawn exactly so; empty if it was not.
  std::vector<JournalImage> Find(const BatchJob& job) const;

  // Adds an entry to the file at once.
  absl::Status Add(const BatchJob& job, const std::vector<JournalImage>& images);

 private:
  const std::string path_;
  mutable Mutex mutex_;
  std::map<std::string, std::vector<JournalImage>> entries_ FRESCO_GUARDED_BY(mutex_);  // by request, as JSON
  bool torn_ FRESCO_GUARDED_BY(mutex_) = false;  // the file's last line has no end
};

// Where the journal of a batch with this output pattern lies: in the folder that holds all of its files.
std::string JournalPath(const std::string& output_pattern);

}  // namespace fresco
