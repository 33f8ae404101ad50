#include "client/generate.h"

#include <utility>

#include "client/exit_code.h"
#include "client/files.h"
#include "client/json_output.h"
#include "client/naming.h"
#include "client/rpc_status.h"
#include "client/saved_image.h"
#include "pipeline/base/status.h"

namespace fresco {
namespace {

// Saves pictures as they come and shows the way there.
class Drawing : public DrawObserver {
 public:
  Drawing(const GenerateArgs& args, RequestView* view) : args_(args), view_(view) {}

  void OnQueued(int position, absl::Duration estimated_wait) override { view_->Queued(position, estimated_wait); }
  void OnStarted(const std::string& device) override { view_->Started(device); }
  void OnProgress(const DrawProgress& progress) override { view_->Step(progress); }

  absl::Status OnImage(DrawnImage image) override {
    const std::string encoded = image.bytes;
    FRESCO_ASSIGN_OR_RETURN(SavedImage saved, SaveImage(args_.output, args_.request, std::move(image)));
    view_->Saved(saved, encoded);
    saved_.push_back(std::move(saved));
    return absl::OkStatus();
  }

  const std::vector<SavedImage>& saved() const { return saved_; }

 private:
  const GenerateArgs& args_;
  RequestView* const view_;
  std::vector<SavedImage> saved_;
};

std::vector<std::string> Files(const std::vector<SavedImage>& images) {
  std::vector<std::string> files;
  for (const SavedImage& image : images) files.push_back(image.file);
  return files;
}

void PrintSummary(const DrawSummary& summary, std::ostream* out) {
  *out << "done in " << FormatSeconds(summary.total) << " (queue " << FormatSeconds(summary.queue) << ", text "
       << FormatSeconds(summary.prepare) << ", steps " << FormatSeconds(summary.denoise) << ", decoding "
       << FormatSeconds(summary.decode) << ")\n";
}

}  // namespace

int ReportError(const absl::Status& status, const Args& args, const Console& console) {
  if (args.json) *console.out << ErrorJson(status) << std::endl;
  *console.err << "fresco: ";
  if (IsUnreachable(status)) {
    *console.err << "no server answers at " << args.connection.server << " (" << status.message() << ")\n"
                 << "(--server names another, --wait SECONDS waits for one that is coming up)" << std::endl;
    return kExitUnreachable;
  }
  *console.err << Explain(status) << std::endl;
  return kExitFailed;
}

int GenerateOne(const Args& args, Session* session, const Console& console, Clock* clock) {
  // Before anything is drawn for nothing.
  for (const std::string& path : {FixedPart(args.generate.output), args.generate.contact_sheet}) {
    if (const absl::Status writable = CheckWritable(path); !writable.ok()) return ReportError(writable, args, console);
  }
  RequestView view(console.view, args.generate.request.count, console.err, clock);
  Drawing drawing(args.generate, &view);
  DrawSummary summary;
  std::unique_ptr<Ticker> ticker = KeepMoving(console.view, &view, clock);
  absl::Status status = session->Draw(args.generate.request, &drawing, &summary);
  ticker.reset();
  view.Finish();
  if (session->cancelled()) {
    if (args.json) *console.out << ErrorJson(absl::CancelledError("cancelled")) << std::endl;
    *console.err << "fresco: cancelled" << std::endl;
    return kExitInterrupted;
  }
  if (status.ok() && !args.generate.contact_sheet.empty()) {
    status = WriteContactSheet(Files(drawing.saved()), args.generate.contact_sheet);
  }
  if (!status.ok()) return ReportError(status, args, console);
  for (const std::string& warning : summary.warnings) *console.err << "warning: " << warning << "\n";
  if (!console.view.quiet) PrintSummary(summary, console.err);
  if (args.json) *console.out << DrawnJson(drawing.saved(), summary) << std::endl;
  return kExitDone;
}

}  // namespace fresco
