// Shows a batch while it is drawn: one moving line for the whole on a terminal, a line for each prompt elsewhere.
#pragma once

#include <ostream>
#include <string>

#include "client/request_view.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

struct BatchCounts {
  int prompts = 0;
  int done = 0;
  int skipped = 0;
  int failed = 0;

  int finished() const { return done + skipped + failed; }
};

// One line of at most `width` columns. `fraction`: how much of a prompt's work the running ones have done, added up.
std::string RenderBatch(const BatchCounts& counts, int running, double fraction, int width, absl::Duration elapsed);

// Thread-safe.
class BatchView {
 public:
  BatchView(const ViewOptions& options, int prompts, std::ostream* out, Clock* clock);

  void Skipped();
  void Started();
  // A running prompt has done `fraction` of its work more.
  void Advanced(double fraction);
  // Ends a running prompt, which had advanced by `fraction` in all; `line` is about it.
  void Done(double fraction, const std::string& line);
  void Failed(double fraction, const std::string& line);
  // A line about something else.
  void Note(const std::string& line);
  // Time has passed.
  void Tick();
  void Finish();

  BatchCounts counts() const;
  absl::Duration elapsed() const { return clock_->Now() - started_; }

 private:
  void PrintLine(const std::string& line) FRESCO_REQUIRES(mutex_);
  void Redraw() FRESCO_REQUIRES(mutex_);

  const ViewOptions options_;
  std::ostream* const out_;
  Clock* const clock_;
  const absl::Time started_;

  mutable Mutex mutex_;
  BatchCounts counts_ FRESCO_GUARDED_BY(mutex_);
  int running_ FRESCO_GUARDED_BY(mutex_) = 0;
  double fraction_ FRESCO_GUARDED_BY(mutex_) = 0;  // over the running prompts
};

}  // namespace fresco
