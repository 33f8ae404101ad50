#include <algorithm>
#include <filesystem>
#include <ostream>
#include <set>

#include "client/batch.h"
#include "client/exit_code.h"
#include "client/files.h"
#include "client/generate.h"
#include "client/json_output.h"
#include "client/naming.h"
#include "client/rpc_status.h"
#include "fresco/v1/image_generation.pb.h"
#include "pipeline/base/status.h"

namespace fresco {
namespace {

absl::StatusOr<std::vector<BatchJob>> ReadJobs(const GenerateArgs& args) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadFile(args.prompts_file));
  PromptsOptions options;
  options.flags = args.request;
  options.output = args.output;
  options.format_given = args.format_given;
  options.prompt_template = args.prompt_template;
  options.csv = !args.prompt_template.empty() || args.prompts_file.ends_with(".csv");
  absl::StatusOr<std::vector<BatchJob>> jobs = ParsePrompts(text, options);
  if (!jobs.ok()) return Annotate(jobs.status(), args.prompts_file);
  return jobs;
}

absl::Status MakeFolderOf(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) return absl::FailedPreconditionError(StrCat("can not make ", folder.string(), ": ", error.message()));
  return absl::OkStatus();
}

// Before anything is drawn for nothing.
absl::Status CheckFolders(const std::vector<BatchJob>& jobs, const std::string& contact_sheet) {
  std::set<std::string> paths = {contact_sheet};
  for (const BatchJob& job : jobs) paths.insert(FixedPart(job.output));
  for (const std::string& path : paths) FRESCO_RETURN_IF_ERROR(CheckWritable(path));
  return absl::OkStatus();
}

void PrintSummary(const std::vector<BatchJob>& jobs, const BatchResult& result, const BatchView& view, bool quiet,
                  std::ostream* out) {
  const BatchCounts counts = view.counts();
  if (!quiet) {
    *out << counts.done << " drawn, " << counts.skipped << " there already, " << counts.failed << " failed, "
         << counts.prompts - counts.finished() << " left, in " << FormatSeconds(view.elapsed()) << "\n";
  }
  if (!result.failed.empty()) *out << "failed:\n";
  for (const FailedJob& failed : result.failed) {
    const BatchJob& job = jobs[failed.index];
    *out << "  line " << job.line << ": \"" << job.request.prompt << "\": " << failed.status.message() << "\n";
  }
  *out << std::flush;
}

absl::Status DrawSheet(const BatchResult& result, const std::string& path) {
  std::vector<std::string> files;
  for (const std::vector<std::string>& of_job : result.files) files.insert(files.end(), of_job.begin(), of_job.end());
  if (path.empty() || files.empty()) return absl::OkStatus();
  return WriteContactSheet(files, path);
}

int ExitCode(const BatchResult& result) {
  if (result.failed.empty()) return kExitDone;
  const bool unreachable = std::all_of(result.failed.begin(), result.failed.end(),
                                       [](const FailedJob& failed) { return IsUnreachable(failed.status); });
  return unreachable ? kExitUnreachable : kExitFailed;
}

}  // namespace

int GenerateMany(const Args& args, Session* session, const Console& console, Clock* clock) {
  const absl::StatusOr<std::vector<BatchJob>> jobs = ReadJobs(args.generate);
  if (!jobs.ok()) {
    if (args.json) *console.out << ErrorJson(jobs.status()) << std::endl;
    *console.err << "fresco: " << jobs.status().message() << std::endl;
    return kExitUsage;
  }
  absl::Status status = CheckFolders(*jobs, args.generate.contact_sheet);
  if (!status.ok()) return ReportError(status, args, console);
  // Whether there is a server at all is one question, not one for every prompt.
  v1::ListModelsResponse models;
  status = session->ListModels(&models);
  const std::string journal_path = JournalPath(args.generate.output);
  if (status.ok()) status = MakeFolderOf(journal_path);
  if (session->cancelled()) return kExitInterrupted;
  if (!status.ok()) return ReportError(status, args, console);

  Journal journal(journal_path);
  BatchView view(console.view, static_cast<int>(jobs->size()), console.err, clock);
  BatchOptions options{args.generate.parallel, args.generate.retries, nullptr};
  if (args.json) options.on_json = [&console](const std::string& line) { *console.out << line << std::endl; };
  std::unique_ptr<Ticker> ticker = KeepMoving(console.view, &view, clock);
  const BatchResult result = RunBatch(*jobs, options, session, &journal, &view);
  ticker.reset();
  view.Finish();
  PrintSummary(*jobs, result, view, console.view.quiet, console.err);
  const BatchCounts counts = view.counts();
  if (args.json) {
    *console.out << BatchSummaryJson(counts.prompts, counts.done, counts.skipped, counts.failed, view.elapsed())
                 << std::endl;
  }
  if (session->cancelled()) return kExitInterrupted;
  status = DrawSheet(result, args.generate.contact_sheet);
  if (!status.ok()) return ReportError(status, args, console);
  return ExitCode(result);
}

}  // namespace fresco
