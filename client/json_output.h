// What --json prints: one line each.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/drawing.h"
#include "client/journal.h"
#include "client/prompts.h"
#include "client/saved_image.h"

namespace fresco {

// {"images": [...], "timings": {...}, …}
std::string DrawnJson(const std::vector<SavedImage>& images, const DrawSummary& summary);

// {"error": {"code": "INVALID_ARGUMENT", "message": …, "fields": [{"field", "description"}], "retry_after": seconds,
// "trace_id"}}
std::string ErrorJson(const absl::Status& status);

// One prompt of a batch: {"line": 3, "status": "done" | "skipped" | "failed", …} with the keys of the above.
std::string DoneJobJson(const BatchJob& job, const std::vector<SavedImage>& images, const DrawSummary& summary);
std::string SkippedJobJson(const BatchJob& job, const std::vector<JournalImage>& images);
std::string FailedJobJson(const BatchJob& job, const absl::Status& status);

// {"summary": {"done", "skipped", "failed", "prompts", "seconds"}}
std::string BatchSummaryJson(int prompts, int done, int skipped, int failed, absl::Duration elapsed);

}  // namespace fresco
