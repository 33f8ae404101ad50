#include "client/request_view.h"

#include "pipeline/base/strings.h"

namespace fresco {

RequestView::RequestView(const ViewOptions& options, int image_count, std::ostream* out, Clock* clock)
    : options_(options), out_(out), clock_(clock), progress_(image_count, clock->Now()) {
  MutexLock lock(&mutex_);
  Redraw();
}

void RequestView::Queued(int position, absl::Duration estimated_wait) {
  MutexLock lock(&mutex_);
  progress_.Queued(position, estimated_wait);
  if (!options_.terminal && position != told_position_ && position > 0) {
    PrintLine(StrCat("queued, ", position, " ahead"));
  }
  told_position_ = position;
  Redraw();
}

void RequestView::Started(const std::string& device) {
  MutexLock lock(&mutex_);
  progress_.Started(device, clock_->Now());
  if (!options_.terminal) PrintLine(StrCat("started on ", device));
  Redraw();
}

void RequestView::Step(const DrawProgress& progress) {
  MutexLock lock(&mutex_);
  progress_.Step(progress, clock_->Now());
  if (!progress.preview.empty()) ShowPicture(progress.preview, /*last=*/false);
  if (!options_.terminal) PrintMilestone();
  Redraw();
}

void RequestView::Saved(const SavedImage& saved, const std::string& encoded) {
  MutexLock lock(&mutex_);
  progress_.ImageDone(saved.image.index);
  ShowPicture(encoded, /*last=*/true);
  PrintLine(StrCat(saved.file, "  (seed ", saved.image.seed, ")"));
  Redraw();
}

void RequestView::Tick() {
  MutexLock lock(&mutex_);
  Redraw();
}

void RequestView::Finish() {
  MutexLock lock(&mutex_);
  if (!options_.quiet && options_.terminal) *out_ << "\r\x1b[K" << std::flush;
}

void RequestView::Redraw() {
  if (options_.quiet || !options_.terminal) return;
  *out_ << "\r" << RenderProgress(progress_, options_.columns, clock_->Now()) << "\x1b[K" << std::flush;
}

void RequestView::ShowPicture(const std::string& encoded, bool last) {
  if (options_.quiet || !options_.terminal || options_.preview == PreviewMode::kOff) return;
  const absl::StatusOr<TerminalPicture> picture = RenderPicture(encoded, options_.preview, options_.columns, last);
  if (!picture.ok()) return;  // a preview is not worth a failed request
  *out_ << "\r";
  if (picture_rows_ > 0) *out_ << "\x1b[" << picture_rows_ << "A";
  *out_ << "\x1b[J" << picture->bytes;
  picture_rows_ = last ? 0 : picture->rows;
}

void RequestView::PrintLine(const std::string& line) {
  if (options_.quiet) return;
  *out_ << (options_.terminal ? "\r\x1b[K" : "") << line << "\n" << std::flush;
}

void RequestView::PrintMilestone() {
  const int quarter = static_cast<int>(progress_.Fraction() * 4);
  if (quarter <= milestone_) return;
  milestone_ = quarter;
  const absl::Duration left = progress_.Remaining(clock_->Now());
  PrintLine(StrCat("step ", progress_.steps_done(), "/", progress_.total_steps(),
                   quarter == 4 ? "" : StrCat(", ", FormatClock(left), " left")));
}

}  // namespace fresco
