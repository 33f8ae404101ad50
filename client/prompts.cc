#include "client/prompts.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/csv.h"
#include "client/naming.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

using Columns = std::map<std::string, std::string, std::less<>>;

absl::Status LineError(int line, std::string_view message) {
  return absl::InvalidArgumentError(StrCat("line ", line, ": ", message));
}

// "a {colour} fox" with its names filled in; "{{" and "}}" are braces.
absl::StatusOr<std::string> FillTemplate(std::string_view text, const Columns& columns) {
  std::string out;
  while (!text.empty()) {
    const bool doubled = text.starts_with("{{") || text.starts_with("}}");
    if (text.front() != '{' || doubled) {
      out += text.front();
      text.remove_prefix(doubled ? 2 : 1);
      continue;
    }
    const size_t close = text.find('}');
    if (close == std::string_view::npos) return absl::InvalidArgumentError("--template has a { without its }");
    const auto column = columns.find(text.substr(1, close - 1));
    if (column == columns.end()) {
      const std::string known =
          absl::StrJoin(columns, ", ", [](std::string* out, const auto& entry) { out->append(entry.first); });
      return absl::InvalidArgumentError(
          StrCat("--template has ", text.substr(0, close + 1), ": the file's columns are ", known));
    }
    out += column->second;
    text.remove_prefix(close + 1);
  }
  return out;
}

// One number of a row: from its column, if there is one that is not empty.
template <typename Number, typename Target>
absl::Status TakeNumber(const Columns& columns, std::string_view name, bool (*parse)(absl::string_view, Number*),
                        Target* target) {
  const auto column = columns.find(name);
  if (column == columns.end() || column->second.empty()) return absl::OkStatus();
  Number value{};
  if (!parse(column->second, &value)) {
    return absl::InvalidArgumentError(
        StrCat("column \"", name, "\" has \"", column->second, "\", which is no such number"));
  }
  *target = value;
  return absl::OkStatus();
}

bool ParseInt(absl::string_view text, int* value) {
  return absl::SimpleAtoi(text, value);
}
bool ParseSeed(absl::string_view text, uint64_t* value) {
  return absl::SimpleAtoi(text, value);
}
bool ParseFloat(absl::string_view text, float* value) {
  return absl::SimpleAtof(text, value);
}

// A file of prompts is often another's: it may not write where it likes.
absl::Status CheckInside(const std::string& output) {
  // The system would end the name there.
  if (output.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("column \"output\" has a NUL, which no file's name can have");
  }
  const std::filesystem::path path = std::filesystem::path(output).lexically_normal();
  if (!path.has_root_path() && *path.begin() != "..") return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("column \"output\" has \"", output, "\", which leaves the output folder"));
}

absl::Status ApplyColumns(const Columns& columns, BatchJob* job) {
  FRESCO_RETURN_IF_ERROR(TakeNumber(columns, "seed", &ParseSeed, &job->request.seed));
  FRESCO_RETURN_IF_ERROR(TakeNumber(columns, "width", &ParseInt, &job->request.width));
  FRESCO_RETURN_IF_ERROR(TakeNumber(columns, "height", &ParseInt, &job->request.height));
  FRESCO_RETURN_IF_ERROR(TakeNumber(columns, "steps", &ParseInt, &job->request.steps));
  FRESCO_RETURN_IF_ERROR(TakeNumber(columns, "guidance", &ParseFloat, &job->request.guidance));
  const auto take_text = [&columns](const char* name, std::string* target) {
    const auto column = columns.find(name);
    if (column != columns.end() && !column->second.empty()) *target = column->second;
  };
  take_text("negative", &job->request.negative_prompt);
  std::string output;
  take_text("output", &output);
  if (output.empty()) return absl::OkStatus();
  FRESCO_RETURN_IF_ERROR(CheckInside(output));
  // Beside the others, where --output is a folder.
  job->output = NamesItself(job->output) ? job->output + output : output;
  return absl::OkStatus();
}

// The index-th job of a file, as the flags alone would have it.
BatchJob BlankJob(int line, size_t index, const PromptsOptions& options) {
  BatchJob job{line, options.flags, options.output};
  if (job.request.seed) *job.request.seed += index;
  return job;
}

std::vector<BatchJob> JobsOfLines(std::string_view text, const PromptsOptions& options) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<BatchJob> jobs;
  for (int line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string prompt(absl::StripAsciiWhitespace(ToAbsl(text.substr(0, end))));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (prompt.empty()) continue;
    jobs.push_back(BlankJob(line, jobs.size(), options));
    jobs.back().request.prompt = prompt;
  }
  return jobs;
}

absl::StatusOr<BatchJob> JobOfRow(const CsvTable& table, size_t index, const PromptsOptions& options) {
  const CsvRow& row = table.rows[index];
  Columns columns;
  for (size_t i = 0; i < row.fields.size(); ++i) columns[table.header[i]] = row.fields[i];
  BatchJob job = BlankJob(row.line, index, options);
  const std::string& pattern = options.prompt_template.empty() ? "{prompt}" : options.prompt_template;
  FRESCO_ASSIGN_OR_RETURN(job.request.prompt, FillTemplate(pattern, columns));
  if (absl::Status status = ApplyColumns(columns, &job); !status.ok())
    return LineError(row.line, ToStd(status.message()));
  return job;
}

absl::StatusOr<std::vector<BatchJob>> JobsOfCsv(std::string_view text, const PromptsOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const CsvTable table, ParseCsv(text));
  if (options.prompt_template.empty() &&
      std::find(table.header.begin(), table.header.end(), "prompt") == table.header.end()) {
    return absl::InvalidArgumentError("it has no column \"prompt\": name one so, or give --template \"a {column} …\"");
  }
  std::vector<BatchJob> jobs;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    FRESCO_ASSIGN_OR_RETURN(BatchJob job, JobOfRow(table, i, options));
    jobs.push_back(std::move(job));
  }
  return jobs;
}

// Line numbers keep the names of equal prompts apart and the files in the order of their lines.
std::string DefaultName(const BatchJob& job) {
  return StrCat(absl::StrFormat("%04d-", job.line), Slug(job.request.prompt), ".", FileExtension(job.request.format));
}

absl::Status FinishJob(bool format_given, BatchJob* job) {
  if (NamesItself(job->output)) job->output += DefaultName(*job);
  const absl::StatusOr<ImageFormat> format = FormatOfPath(job->output);
  if (format.ok()) job->request.format = *format;
  absl::Status status = CheckOutputPattern(job->output);
  if (status.ok() && !format_given) status = format.status();
  return status.ok() ? status : LineError(job->line, StrCat("output: ", ToStd(status.message())));
}

absl::Status CheckDistinct(const std::vector<BatchJob>& jobs) {
  std::map<std::string, int> lines;
  for (const BatchJob& job : jobs) {
    for (int index = 0; index < job.request.count; ++index) {
      // Seeds that the server draws differ.
      const uint64_t seed =
          job.request.seed.value_or(static_cast<uint64_t>(job.line) << 32) + static_cast<uint64_t>(index);
      const ImageName name{job.request.prompt, seed, index, job.request.count, job.request.format};
      const auto [other, inserted] = lines.emplace(OutputPath(job.output, name), job.line);
      if (inserted || other->second == job.line) continue;
      return LineError(job.line, StrCat("its output \"", other->first, "\" is that of line ", other->second,
                                        " too: put {seed} or {prompt} into --output, or let it be a folder"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<BatchJob>> ParsePrompts(std::string_view text, const PromptsOptions& options) {
  if (!IsUtf8(text)) return absl::InvalidArgumentError("it is not UTF-8");
  std::vector<BatchJob> jobs;
  if (options.csv) {
    FRESCO_ASSIGN_OR_RETURN(jobs, JobsOfCsv(text, options));
  } else {
    jobs = JobsOfLines(text, options);
  }
  if (jobs.empty()) return absl::InvalidArgumentError("it has no prompts");
  for (BatchJob& job : jobs) FRESCO_RETURN_IF_ERROR(FinishJob(options.format_given, &job));
  FRESCO_RETURN_IF_ERROR(CheckDistinct(jobs));
  return jobs;
}

}  // namespace fresco
