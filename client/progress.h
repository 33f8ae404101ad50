// How far one request is, and how that is said.
#pragma once

#include <map>
#include <string>

#include "absl/time/time.h"
#include "client/drawing.h"

namespace fresco {

// Collects a request's events. Not thread-safe.
class RequestProgress {
 public:
  RequestProgress(int image_count, absl::Time now) : image_count_(image_count), since_(now) {}

  void Queued(int position, absl::Duration estimated_wait);
  void Started(const std::string& device, absl::Time now);
  void Step(const DrawProgress& progress, absl::Time now);
  void ImageDone(int image_index);

  bool waiting() const { return queued_; }
  int position() const { return position_; }
  absl::Duration estimated_wait() const { return estimated_wait_; }
  const std::string& device() const { return device_; }
  int image_count() const { return image_count_; }
  int images_done() const;
  int steps_done() const;                      // over all images
  int total_steps() const;                     // over all images; 0 before the first is known
  double Fraction() const;                     // 0 to 1
  absl::Time since() const { return since_; }  // when drawing started; before that, when waiting did

  // Until the last image: the server's latest prediction for those it has begun, less the time since; where it has not
  // begun all, at the pace so far.
  absl::Duration Remaining(absl::Time now) const;

 private:
  struct ImageState {
    int step = 0;
    int total_steps = 0;
    absl::Time end;  // as predicted
    bool done = false;
  };

  const int image_count_;
  absl::Time since_;  // when drawing started
  bool queued_ = false;
  int position_ = 0;
  absl::Duration estimated_wait_;
  std::string device_;
  std::map<int, ImageState> images_;
};

// "0:07", "12:30", "1:02:03", rounded up; nothing shorter than a second is promised.
std::string FormatClock(absl::Duration duration);

// "1.2 s", "350 ms": for what has been measured.
std::string FormatSeconds(absl::Duration duration);

// `width` cells, `fraction` of them full, to an eighth of a cell.
std::string RenderBar(double fraction, int width);

// One line of at most `width` columns: a bar, steps and time left, or the place in the queue.
std::string RenderProgress(const RequestProgress& progress, int width, absl::Time now);

}  // namespace fresco
