#include "client/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "pipeline/base/strings.h"

namespace fresco {

void RequestProgress::Queued(int position, absl::Duration estimated_wait) {
  queued_ = true;
  position_ = position;
  estimated_wait_ = estimated_wait;
}

void RequestProgress::Started(const std::string& device, absl::Time now) {
  queued_ = false;
  device_ = device;
  since_ = now;
}

void RequestProgress::Step(const DrawProgress& progress, absl::Time now) {
  queued_ = false;
  ImageState& image = images_[progress.image_index];
  image.step = progress.step;
  image.total_steps = progress.total_steps;
  image.end = now + progress.remaining;
}

void RequestProgress::ImageDone(int image_index) {
  ImageState& image = images_[image_index];
  image.step = image.total_steps;
  image.end = absl::InfinitePast();
  image.done = true;
}

int RequestProgress::images_done() const {
  return static_cast<int>(
      std::count_if(images_.begin(), images_.end(), [](const auto& entry) { return entry.second.done; }));
}

int RequestProgress::steps_done() const {
  int sum = 0;
  for (const auto& [index, image] : images_) sum += image.step;
  return sum;
}

int RequestProgress::total_steps() const {
  // All images of a request have as many.
  int most = 0;
  for (const auto& [index, image] : images_) most = std::max(most, image.total_steps);
  return most * image_count_;
}

double RequestProgress::Fraction() const {
  if (images_done() == image_count_) return 1;
  const int total = total_steps();
  return total == 0 ? 0 : std::clamp(static_cast<double>(steps_done()) / total, 0.0, 1.0);
}

absl::Duration RequestProgress::Remaining(absl::Time now) const {
  absl::Duration predicted;
  for (const auto& [index, image] : images_) predicted = std::max(predicted, image.end - now);
  const double fraction = Fraction();
  if (static_cast<int>(images_.size()) == image_count_ || fraction == 0) return predicted;
  return std::max(predicted, (now - since_) * ((1 - fraction) / fraction));
}

std::string FormatClock(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(absl::Ceil(duration, absl::Seconds(1))));
  if (seconds < 3600) return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string FormatSeconds(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (seconds < 1) return absl::StrFormat("%.0f ms", seconds * 1000);
  return absl::StrFormat("%.*f s", seconds < 100 ? 1 : 0, seconds);
}

std::string RenderBar(double fraction, int width) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::lround(std::clamp(fraction, 0.0, 1.0) * width * 8));
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  bar += kEighths[eighths % 8];
  for (int i = (eighths + 7) / 8; i < width; ++i) bar += "·";
  return bar;
}

std::string RenderProgress(const RequestProgress& progress, int width, absl::Time now) {
  std::string text;
  if (progress.waiting()) {
    text = progress.position() == 0 ? "next in the queue" : StrCat(progress.position(), " ahead in the queue");
    if (progress.estimated_wait() > absl::ZeroDuration()) text += ", about " + FormatClock(progress.estimated_wait());
  } else if (progress.total_steps() == 0) {
    text = progress.device().empty() ? "connecting" : StrCat("preparing on ", progress.device());
    // Nothing else moves, and it may take long.
    if (now - progress.since() >= absl::Seconds(2))
      text += ", " + FormatClock(absl::Floor(now - progress.since(), absl::Seconds(1)));
  } else {
    const int count = progress.image_count();
    if (count > 1) text = StrCat("image ", std::min(progress.images_done() + 1, count), "/", count, "  ");
    text += StrCat("step ", progress.steps_done(), "/", progress.total_steps());
    const bool decoding = progress.steps_done() >= progress.total_steps();
    text += decoding ? "  finishing" : StrCat("  ", FormatClock(progress.Remaining(now)), " left");
  }
  // A bar that can not move yet says nothing. Else it has what the words leave, up to 40 columns.
  const bool moving = !progress.waiting() && progress.total_steps() > 0;
  const int bar = std::min(40, width - static_cast<int>(text.size()) - 4);
  if (!moving || bar < 5) return text.substr(0, std::max(0, width - 1));
  return StrCat(" ", RenderBar(progress.Fraction(), bar), "  ", text);
}

}  // namespace fresco
