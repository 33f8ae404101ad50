#include "client/batch_view.h"

#include <algorithm>

#include "client/progress.h"
#include "pipeline/base/strings.h"

namespace fresco {

std::string RenderBatch(const BatchCounts& counts, int running, double fraction, int width, absl::Duration elapsed) {
  std::string text = StrCat(counts.finished(), "/", counts.prompts);
  if (running > 0) text += StrCat("  ", running, " running");
  if (counts.failed > 0) text += StrCat("  ", counts.failed, " failed");
  // What was skipped took no time and says nothing of the pace.
  const double drawn = counts.done + counts.failed + fraction;
  const double left = counts.prompts - counts.finished() - fraction;
  if (drawn > 0 && left > 0) text += StrCat("  ", FormatClock(elapsed * (left / drawn)), " left");
  const int bar = std::min(40, width - static_cast<int>(text.size()) - 4);
  if (bar < 5) return text.substr(0, std::max(0, width - 1));
  return StrCat(" ", RenderBar((counts.finished() + fraction) / std::max(1, counts.prompts), bar), "  ", text);
}

BatchView::BatchView(const ViewOptions& options, int prompts, std::ostream* out, Clock* clock)
    : options_(options), out_(out), clock_(clock), started_(clock->Now()) {
  counts_.prompts = prompts;
}

void BatchView::Skipped() {
  MutexLock lock(&mutex_);
  ++counts_.skipped;
  Redraw();
}

void BatchView::Started() {
  MutexLock lock(&mutex_);
  ++running_;
  Redraw();
}

void BatchView::Advanced(double fraction) {
  MutexLock lock(&mutex_);
  fraction_ += fraction;
  Redraw();
}

void BatchView::Done(double fraction, const std::string& line) {
  MutexLock lock(&mutex_);
  --running_;
  ++counts_.done;
  fraction_ -= fraction;
  if (!options_.terminal) PrintLine(StrCat("[", counts_.finished(), "/", counts_.prompts, "] ", line));
  Redraw();
}

void BatchView::Failed(double fraction, const std::string& line) {
  MutexLock lock(&mutex_);
  --running_;
  ++counts_.failed;
  fraction_ -= fraction;
  PrintLine(StrCat("[", counts_.finished(), "/", counts_.prompts, "] ", line));
  Redraw();
}

void BatchView::Note(const std::string& line) {
  MutexLock lock(&mutex_);
  PrintLine(line);
  Redraw();
}

void BatchView::Tick() {
  MutexLock lock(&mutex_);
  Redraw();
}

void BatchView::Finish() {
  if (!options_.quiet && options_.terminal) *out_ << "\r\x1b[K" << std::flush;
}

BatchCounts BatchView::counts() const {
  MutexLock lock(&mutex_);
  return counts_;
}

void BatchView::PrintLine(const std::string& line) {
  if (options_.quiet) return;
  *out_ << (options_.terminal ? "\r\x1b[K" : "") << line << "\n" << std::flush;
}

void BatchView::Redraw() {
  if (options_.quiet || !options_.terminal) return;
  *out_ << "\r" << RenderBatch(counts_, running_, fraction_, options_.columns, clock_->Now() - started_) << "\x1b[K"
        << std::flush;
}

}  // namespace fresco
