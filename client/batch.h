// Draws many prompts, several at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client/batch_view.h"
#include "client/journal.h"
#include "client/prompts.h"
#include "client/saved_image.h"
#include "client/session.h"

namespace fresco {

struct BatchOptions {
  int parallel = 4;
  int retries = 5;  // of each prompt, while the server is busy or away
  // Each prompt's line of --json as it ends; one call at a time. May be empty.
  std::function<void(const std::string&)> on_json;
};

struct FailedJob {
  int index = 0;  // of the jobs
  absl::Status status;
};

struct BatchResult {
  std::vector<std::vector<std::string>> files;  // of each job that is done or was
  std::vector<FailedJob> failed;                // in the order of the jobs
};

// Draws the jobs that the journal does not know as drawn. After Session::CancelAll it begins no more and returns soon;
// what was cancelled that way is neither done nor failed.
BatchResult RunBatch(const std::vector<BatchJob>& jobs, const BatchOptions& options, Session* session, Journal* journal,
                     BatchView* view);

// How long to wait before the attempt after `attempt` failures: as the server asks, up to 5 minutes, else 1, 2, 4 … up
// to 30 seconds.
absl::Duration RetryPause(const absl::Status& status, int attempt);

}  // namespace fresco
