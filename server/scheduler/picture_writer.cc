#include "server/scheduler/picture_writer.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/picture_metadata.h"
#include "server/scheduler/guarded.h"

namespace fresco {
namespace {

// Seen for a moment, and many of them: small rather than exact.
constexpr int kPreviewQuality = 75;

EncodeOptions OptionsFor(const FinishedPicture& picture, bool prompts) {
  EncodeOptions options = picture.request->request().encode;
  for (auto& text : PictureMetadata(picture.provenance, {prompts})) options.metadata.push_back(std::move(text));
  options.generated = true;
  return options;
}

}  // namespace

PictureWriter::PictureWriter(const SchedulerOptions* options, Clock* clock, SchedulerObserver* observer,
                             Dispatcher* dispatcher)
    : options_(*options), clock_(clock), observer_(observer), dispatcher_(dispatcher), pool_(options->encode_threads) {}

void PictureWriter::WriteImage(FinishedPicture picture) {
  dispatcher_->AddEncoding(picture.worker, 1);
  pool_.Add([this, picture = std::move(picture)]() mutable { Encode(std::move(picture)); });
}

void PictureWriter::WritePreview(RequestPtr request, ProgressEvent event, Image preview) {
  const int image_index = event.image_index;
  const int step = event.step;
  request->output()->Hold(std::move(event));
  pool_.Add([this, request = std::move(request), image_index, step, preview = std::move(preview)] {
    std::optional<EncodedImage> encoded;
    if (!request->ending()) encoded = EncodePreview(preview);
    request->output()->Fill(image_index, step, std::move(encoded));
    request->output()->Deliver();
  });
}

void PictureWriter::Encode(FinishedPicture picture) {
  const RequestPtr request = picture.request;
  const int worker = picture.worker;
  if (!request->ShouldEnd(clock_->Now(), options_.slow_reader_limit)) {
    const int index = picture.image_index;
    const absl::Status status = GuardedVoid("encoding", [&] { EncodeTo(request.get(), std::move(picture)); });
    if (!status.ok()) request->AskToEnd(Annotate(status, absl::StrCat("image ", index)));
  }
  dispatcher_->AddEncoding(worker, -1);
  dispatcher_->Release(request);
}

void PictureWriter::EncodeTo(RequestState* request, FinishedPicture picture) {
  absl::Duration duration;
  auto encoded = EncodeTimed(picture.image, OptionsFor(picture, options_.prompts_in_metadata), &duration);
  if (!encoded.ok()) {
    request->AskToEnd(Annotate(encoded.status(), absl::StrCat("image ", picture.image_index, ": encoding")));
    return;
  }
  if (options_.check_picture != nullptr) {
    if (const absl::Status allowed = options_.check_picture(request->request(), picture.image_index, *encoded);
        !allowed.ok()) {
      request->AskToEnd(Annotate(allowed, absl::StrCat("image ", picture.image_index)));
      return;
    }
  }
  request->AddEncode(duration);
  observer_->OnImage(request->request().model);
  observer_->OnStage(request->request().model, "encode", duration);
  request->output()->AddForImage(picture.image_index,
                                 ImageEvent{picture.image_index, *std::move(encoded), std::move(picture.provenance)});
  request->output()->Deliver();
}

std::optional<EncodedImage> PictureWriter::EncodePreview(const Image& preview) {
  EncodeOptions options;
  options.format = ImageFormat::kJpeg;
  options.quality = kPreviewQuality;
  absl::Duration duration;
  auto encoded = EncodeTimed(preview, options, &duration);
  if (!encoded.ok()) return std::nullopt;
  return *std::move(encoded);
}

absl::StatusOr<EncodedImage> PictureWriter::EncodeTimed(const Image& image, const EncodeOptions& options,
                                                        absl::Duration* duration) {
  const absl::Time begin = clock_->Now();
  auto bytes = Guarded("the encoder", [&] { return options_.encoder(image, options); });
  *duration = clock_->Now() - begin;
  if (!bytes.ok()) return bytes.status();
  return EncodedImage{*std::move(bytes), std::string(MimeType(options.format)), image.width, image.height};
}

}  // namespace fresco
