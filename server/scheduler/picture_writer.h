// Encodes finished pictures and previews on threads of its own and puts them into their requests' channels.
#pragma once

#include "pipeline/base/clock.h"
#include "pipeline/image/image.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/events.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/request_state.h"
#include "server/scheduler/task_pool.h"

namespace fresco {

// A picture as it comes from the engine. Holds its request once.
struct FinishedPicture {
  RequestPtr request;
  int image_index = 0;
  int worker = 0;  // that drew it
  ImageProvenance provenance;
  Image image;
};

// Thread-safe.
class PictureWriter {
 public:
  // All outlive the writer.
  PictureWriter(const SchedulerOptions* options, Clock* clock, SchedulerObserver* observer, Dispatcher* dispatcher);

  // Takes over the picture's hold on its request.
  void WriteImage(FinishedPicture picture);
  // `event` is the image's progress with no preview yet.
  void WritePreview(RequestPtr request, ProgressEvent event, Image preview);

  // Encodes what was given and joins.
  void Stop() { pool_.Stop(); }

 private:
  void Encode(FinishedPicture picture);
  void EncodeTo(RequestState* request, FinishedPicture picture);
  std::optional<EncodedImage> EncodePreview(const Image& preview);
  absl::StatusOr<EncodedImage> EncodeTimed(const Image& image, const EncodeOptions& options, absl::Duration* duration);

  const SchedulerOptions& options_;
  Clock* const clock_;
  SchedulerObserver* const observer_;
  Dispatcher* const dispatcher_;
  TaskPool pool_;
};

}  // namespace fresco
