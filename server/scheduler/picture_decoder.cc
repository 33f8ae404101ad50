#include "server/scheduler/picture_decoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {

PictureDecoder::PictureDecoder(int worker, std::string device, const SchedulerOptions* options, Clock* clock,
                               SchedulerObserver* observer, Dispatcher* dispatcher, PictureWriter* writer,
                               const EngineLoaders* loaders, PeakMeter* peaks)
    : worker_(worker),
      device_(std::move(device)),
      options_(*options),
      clock_(clock),
      observer_(observer),
      dispatcher_(dispatcher),
      writer_(writer),
      loaders_(loaders),
      peaks_(peaks) {}

bool PictureDecoder::Decode(DecodeTask* task, DeviceCaller* caller) {
  const ActiveImage& image = *task->image;
  if (image.request->ShouldEnd(clock_->Now(), options_.slow_reader_limit)) return LetGo(task);
  observer_->OnStage(task->model, "denoise", image.denoise);
  Engine* const engine = task->engine.get();
  peaks_->Take(caller->thread(), engine);  // from now on
  const Before before = {CallStats(*engine).allocated_bytes, loaders_->mark()};
  auto picture = caller->Make(DeviceCall::kFinish, image.load.tokens, {}, [&] {
    return caller->thread() == DeviceThread::kDecode ? CallFinishBeside(engine, image.job.get())
                                                     : CallFinish(engine, image.job.get());
  });
  if (!caller->ours()) return false;
  if (!picture.ok()) return Fail(task, Explain(task, picture.status()));
  return HandOn(task, *std::move(picture), before, *caller);
}

bool PictureDecoder::HandOn(DecodeTask* task, Image picture, const Before& before, const DeviceCaller& caller) {
  ActiveImage& image = *task->image;
  const absl::Duration duration = caller.duration();
  ImageProvenance provenance = ProvenanceOf(*task);
  const int64_t peak = task->peak_bytes = peaks_->Take(caller.thread(), task->engine.get());
  if (!dispatcher_->TakeFinished(worker_, image.id)) return false;
  image.job.reset();  // its memory is free before its caller hears of the picture
  // What a step or a load took beside it cannot be told from what it took itself.
  const bool by_itself = !caller.shared() && before.loads.quiet() && loaders_->mark() == before.loads;
  const int64_t activations = by_itself ? std::max<int64_t>(0, peak - before.allocated_bytes) : 0;
  observer_->OnStage(task->model, "decode", duration);
  dispatcher_->DecodeDone(task->model, image.load.picture_tokens, duration, activations);
  image.request->AddDecode(duration);
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

absl::Status PictureDecoder::Explain(DecodeTask* task, const absl::Status& status) const {
  if (!absl::IsResourceExhausted(status)) return status;
  const DeviceMemory memory = CallMemoryOfDevice(task->engine.get());
  task->report.total_bytes = memory.total_bytes;
  task->report.free_bytes = memory.free_bytes;
  return absl::Status(status.code(), absl::StrCat(absl::string_view(status.message()), ": ", Describe(task->report)));
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
