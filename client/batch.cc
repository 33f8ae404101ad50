#include "client/batch.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "client/files.h"
#include "client/json_output.h"
#include "client/progress.h"
#include "client/rpc_status.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr absl::Duration kLongestPause = absl::Minutes(5);

// One attempt at one prompt.
class JobDrawing : public DrawObserver {
 public:
  JobDrawing(const BatchJob& job, BatchView* view)
      : job_(job), view_(view), progress_(job.request.count, absl::InfinitePast()) {}

  void OnQueued(int, absl::Duration) override {}
  void OnStarted(const std::string&) override {}

  void OnProgress(const DrawProgress& progress) override {
    progress_.Step(progress, absl::InfinitePast());
    Tell();
  }

  absl::Status OnImage(DrawnImage image) override {
    progress_.ImageDone(image.index);
    FRESCO_ASSIGN_OR_RETURN(SavedImage saved, SaveImage(job_.output, job_.request, std::move(image)));
    saved_.push_back(std::move(saved));
    Tell();
    return absl::OkStatus();
  }

  const std::vector<SavedImage>& saved() const { return saved_; }
  double told() const { return told_; }

 private:
  void Tell() {
    const double fraction = progress_.Fraction();
    view_->Advanced(fraction - told_);
    told_ = fraction;
  }

  const BatchJob& job_;
  BatchView* const view_;
  RequestProgress progress_;
  std::vector<SavedImage> saved_;
  double told_ = 0;
};

class BatchRunner {
 public:
  BatchRunner(const std::vector<BatchJob>& jobs, const BatchOptions& options, Session* session, Journal* journal,
              BatchView* view)
      : jobs_(jobs), options_(options), session_(session), journal_(journal), view_(view) {
    MutexLock lock(&mutex_);
    result_.files.resize(jobs.size());
  }

  BatchResult Run() {
    std::vector<std::thread> threads;
    const size_t count = std::min<size_t>(options_.parallel, jobs_.size());
    for (size_t i = 0; i < count; ++i) threads.emplace_back([this] { Work(); });
    for (std::thread& thread : threads) thread.join();
    MutexLock lock(&mutex_);
    std::sort(result_.failed.begin(), result_.failed.end(),
              [](const auto& a, const auto& b) { return a.index < b.index; });
    return std::move(result_);
  }

 private:
  void Work() {
    for (size_t index = Take(); index < jobs_.size(); index = Take()) {
      if (!SkipDrawn(index)) DrawJob(index);
    }
  }

  // The next job for a thread; one past the last when there is none, or all have been cancelled.
  size_t Take() {
    if (session_->cancelled()) return jobs_.size();
    MutexLock lock(&mutex_);
    return next_ < jobs_.size() ? next_++ : jobs_.size();
  }

  bool SkipDrawn(size_t index) {
    const std::vector<JournalImage> images = journal_->Find(jobs_[index]);
    const auto exists = [](const JournalImage& image) { return FileExists(image.file); };
    if (images.empty() || !std::all_of(images.begin(), images.end(), exists)) return false;
    view_->Skipped();
    MutexLock lock(&mutex_);
    for (const JournalImage& image : images) result_.files[index].push_back(image.file);
    PrintJson(SkippedJobJson(jobs_[index], images));
    return true;
  }

  void DrawJob(size_t index) {
    view_->Started();
    for (int attempt = 1;; ++attempt) {
      JobDrawing drawing(jobs_[index], view_);
      DrawSummary summary;
      absl::Status status = session_->Draw(jobs_[index].request, &drawing, &summary);
      if (status.ok()) status = AddToJournal(index, drawing.saved());
      if (status.ok()) return FinishDone(index, drawing, summary);
      if (session_->cancelled()) return;
      if (!IsTransient(status) || attempt > options_.retries) return FinishFailed(index, drawing.told(), status);
      view_->Advanced(-drawing.told());
      const absl::Duration pause = RetryPause(status, attempt);
      view_->Note(
          StrCat("line ", jobs_[index].line, ": ", std::string(status.message()), "; again in ", FormatSeconds(pause)));
      if (!session_->Sleep(pause)) return;
    }
  }

  absl::Status AddToJournal(size_t index, const std::vector<SavedImage>& saved) {
    std::vector<JournalImage> images;
    for (const SavedImage& image : saved) images.push_back({image.file, image.image.seed});
    return journal_->Add(jobs_[index], images);
  }

  void FinishDone(size_t index, const JobDrawing& drawing, const DrawSummary& summary) {
    std::string line = StrCat("line ", jobs_[index].line, ":");
    for (const SavedImage& image : drawing.saved()) line += StrCat(" ", image.file, " (seed ", image.image.seed, ")");
    view_->Done(drawing.told(), line);
    for (const std::string& warning : summary.warnings)
      view_->Note(StrCat("line ", jobs_[index].line, ": warning: ", warning));
    MutexLock lock(&mutex_);
    for (const SavedImage& image : drawing.saved()) result_.files[index].push_back(image.file);
    PrintJson(DoneJobJson(jobs_[index], drawing.saved(), summary));
  }

  void FinishFailed(size_t index, double told, const absl::Status& status) {
    view_->Failed(told, StrCat("line ", jobs_[index].line, ": failed: ", Explain(status)));
    MutexLock lock(&mutex_);
    result_.failed.push_back({static_cast<int>(index), status});
    PrintJson(FailedJobJson(jobs_[index], status));
  }

  void PrintJson(const std::string& line) FRESCO_REQUIRES(mutex_) {
    if (options_.on_json) options_.on_json(line);
  }

  const std::vector<BatchJob>& jobs_;
  const BatchOptions& options_;
  Session* const session_;
  Journal* const journal_;
  BatchView* const view_;

  Mutex mutex_;
  size_t next_ FRESCO_GUARDED_BY(mutex_) = 0;
  BatchResult result_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace

absl::Duration RetryPause(const absl::Status& status, int attempt) {
  const absl::Duration own = std::min(absl::Seconds(30), absl::Seconds(1) * (1 << std::min(attempt - 1, 5)));
  // A server's word is taken up to a point: somebody waits for this batch.
  return std::min(RetryAfter(status).value_or(own), kLongestPause);
}

BatchResult RunBatch(const std::vector<BatchJob>& jobs, const BatchOptions& options, Session* session, Journal* journal,
                     BatchView* view) {
  return BatchRunner(jobs, options, session, journal, view).Run();
}

}  // namespace fresco
