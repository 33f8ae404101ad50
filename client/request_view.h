// Shows one request while it is drawn: a line that moves on a terminal, with the picture above it as it takes shape;
// lines of plain text elsewhere.
#pragma once

#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "client/preview.h"
#include "client/progress.h"
#include "client/saved_image.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

struct ViewOptions {
  bool quiet = false;     // shows nothing
  bool terminal = false;  // the output understands control sequences
  int columns = 80;
  PreviewMode preview = PreviewMode::kOff;  // not kAuto
};

// Thread-safe.
class RequestView {
 public:
  // `out` and `clock` outlive it.
  RequestView(const ViewOptions& options, int image_count, std::ostream* out, Clock* clock);

  void Queued(int position, absl::Duration estimated_wait);
  void Started(const std::string& device);
  void Step(const DrawProgress& progress);
  // `encoded`: the picture's file.
  void Saved(const SavedImage& saved, const std::string& encoded);
  // Time has passed: the moving line says so, that a long step does not look like a dead one.
  void Tick();
  // Takes the moving line away. Call it last.
  void Finish();

 private:
  void Redraw() FRESCO_REQUIRES(mutex_);
  void ShowPicture(const std::string& encoded, bool last) FRESCO_REQUIRES(mutex_);
  void PrintLine(const std::string& line) FRESCO_REQUIRES(mutex_);  // that stays
  void PrintMilestone() FRESCO_REQUIRES(mutex_);

  const ViewOptions options_;
  std::ostream* const out_;
  Clock* const clock_;

  Mutex mutex_;
  RequestProgress progress_ FRESCO_GUARDED_BY(mutex_);
  int picture_rows_ FRESCO_GUARDED_BY(mutex_) = 0;    // of the preview above the moving line
  int milestone_ FRESCO_GUARDED_BY(mutex_) = 0;       // quarters of the work that have been told of
  int told_position_ FRESCO_GUARDED_BY(mutex_) = -1;  // in the queue
};

}  // namespace fresco
