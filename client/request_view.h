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

namespace fresco {

struct ViewOptions {
  bool quiet = false;     // shows nothing
  bool terminal = false;  // the output understands control sequences
  int columns = 80;
  PreviewMode preview = PreviewMode::kOff;  // not kAuto
};

// Not thread-safe.
class RequestView {
 public:
  // `out` and `clock` outlive it.
  RequestView(const ViewOptions& options, int image_count, std::ostream* out, Clock* clock);

  void Queued(int position, absl::Duration estimated_wait);
  void Started(const std::string& device);
  void Step(const DrawProgress& progress);
  // `encoded`: the picture's file.
  void Saved(const SavedImage& saved, const std::string& encoded);
  // Takes the moving line away. Call it last.
  void Finish();

 private:
  void Redraw();
  void ShowPicture(const std::string& encoded, bool last);
  void PrintLine(const std::string& line);  // that stays
  void PrintMilestone();

  const ViewOptions options_;
  std::ostream* const out_;
  Clock* const clock_;
  RequestProgress progress_;
  int picture_rows_ = 0;    // of the preview above the moving line
  int milestone_ = 0;       // quarters of the work that have been told of
  int told_position_ = -1;  // in the queue
};

}  // namespace fresco
