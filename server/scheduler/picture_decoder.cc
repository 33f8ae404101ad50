#include "server/scheduler/picture_decoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/out_of_memory.h"

namespace fresco {

PictureDecoder::PictureDecoder(const WorkerContext& context, PeakMeter* peaks)
    : worker_(context.index),
      device_(context.device),
      options_(*context.options),
      clock_(context.clock),
      observer_(context.observer),
      dispatcher_(context.dispatcher),
      writer_(context.writer),
      loaders_(context.loaders),
      peaks_(peaks) {}

bool PictureDecoder::Decode(DecodeTask* task, DeviceCaller* caller) {
  const ActiveImage& image = *task->image;
  if (image.request->ShouldEnd(clock_->Now(), options_.slow_reader_limit)) return LetGo(task);
  observer_->OnStage(task->model, "denoise", image.denoise);
  Engine* const engine = task->engine.get();
  peaks_->Take(caller, engine);  // from now on
  if (!caller->ours()) return false;
  const auto ask = [&] { return absl::StatusOr<int64_t>(CallStats(*engine).allocated_bytes); };
  const int64_t allocated_bytes = caller->Make(DeviceCall::kAsk, 0, {}, ask).value_or(0);
  if (!caller->ours()) return false;
  const Before before = {allocated_bytes, loaders_->mark(), CallLoadTime(*engine)};
  auto picture = caller->Make(DeviceCall::kFinish, image.load.tokens, {}, [&] {
    return caller->thread() == DeviceThread::kDecode ? CallFinishBeside(engine, image.job.get())
                                                     : CallFinish(engine, image.job.get());
  });
  if (!caller->ours()) return false;
  if (picture.ok()) return HandOn(task, *std::move(picture), before, caller);
  const bool quiet = before.loads.quiet() && loaders_->mark() == before.loads;
  if (quiet && absl::IsResourceExhausted(picture.status())) {
    dispatcher_->DecodeTooLarge(worker_, task->model, image.load.picture_tokens);
  }
  const absl::Status explained = ExplainOutOfMemory(picture.status(), std::move(task->report), engine, caller);
  return caller->ours() && Fail(task, explained);
}

bool PictureDecoder::HandOn(DecodeTask* task, Image picture, const Before& before, DeviceCaller* caller) {
  ActiveImage& image = *task->image;
  const absl::Duration duration = caller->duration();
  const absl::Duration loading = CallLoadTime(*task->engine) - before.load_time;  // of the autoencoder
  const bool shared = caller->shared();
  ImageProvenance provenance = ProvenanceOf(*task);
  const int64_t peak = task->peak_bytes = peaks_->Take(caller, task->engine.get());
  if (!caller->ours()) return false;
  if (!dispatcher_->TakeFinished(worker_, image.id)) return false;
  image.job.reset();  // its memory is free before its caller hears of the picture
  // What a step or a load took beside it cannot be told from what it took itself.
  const bool by_itself =
      !shared && loading == absl::ZeroDuration() && before.loads.quiet() && loaders_->mark() == before.loads;
  const int64_t activations = by_itself ? std::max<int64_t>(0, peak - before.allocated_bytes) : 0;
  observer_->OnStage(task->model, "decode", duration);
  dispatcher_->DecodeDone(worker_, task->model, image.load.picture_tokens,
                          std::max(absl::ZeroDuration(), duration - loading), activations);
  image.request->AddDecode(duration);
  image.request->AddDeviceTime(duration);
  image.request->AddPeakMemory(peak);
  // The writer takes over the hold on the request.
  writer_->WriteImage({std::move(image.request), image.index, worker_, std::move(provenance), std::move(picture)});
  task->image.reset();
  return true;
}

bool PictureDecoder::Fail(DecodeTask* task, const absl::Status& status) {
  if (!dispatcher_->TakeFinished(worker_, task->image->id)) return false;
  task->image->request->AskToEnd(Annotate(status, absl::StrCat("image ", task->image->index)));
  const RequestPtr request = std::move(task->image->request);
  task->image.reset();
  dispatcher_->Release(request);
  return true;
}

bool PictureDecoder::LetGo(DecodeTask* task) {
  if (!dispatcher_->TakeFinished(worker_, task->image->id)) return false;
  const RequestPtr request = std::move(task->image->request);
  task->image.reset();
  dispatcher_->Release(request);
  return true;
}

ImageProvenance PictureDecoder::ProvenanceOf(const DecodeTask& task) const {
  // The names are the server's.
  ImageProvenance provenance = fresco::ProvenanceOf(task.engine->info(), options_.software);
  provenance.model = task.model;
  provenance.device = device_;
  provenance.spec = task.image->job->spec();
  provenance.batch_size_min = task.image->batch_sizes.min;
  provenance.batch_size_max = task.image->batch_sizes.max;
  return provenance;
}

}  // namespace fresco
