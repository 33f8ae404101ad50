// Files of prompts, plain and CSV: where pictures would be written is inside the output folder, each in a place of its
// own.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "client/csv.h"
#include "client/naming.h"
#include "client/prompts.h"
#include "pipeline/base/utf8.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

std::string Row(const std::vector<std::string>& fields) {
  std::string line;
  for (const std::string& field : fields) {
    if (!line.empty()) line += ',';
    line += '"';
    for (const char c : field) line.append(c == '"' ? "\"\"" : std::string(1, c));
    line += '"';
  }
  return line + "\r\n";
}

// A table that was read is the same when it is written in quotes and read again.
void CheckTable(std::string_view text) {
  const auto table = ParseCsv(text);
  if (!table.ok()) return;
  std::string written = Row(table->header);
  for (const CsvRow& row : table->rows) {
    Check(row.fields.size() == table->header.size(), "a row of other fields than the header's");
    written += Row(row.fields);
  }
  const auto again = ParseCsv(written);
  Check(again.ok() && again->header == table->header && again->rows.size() == table->rows.size(),
        "a table that changes when it is written");
  for (size_t i = 0; i < table->rows.size(); ++i) {
    Check(again->rows[i].fields == table->rows[i].fields, "a row that changes when it is written");
  }
}

void CheckInside(const std::string& path, const std::string& output) {
  Check(path.find('\0') == std::string::npos, "a path with an end in its middle");
  const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  Check(!normal.is_absolute() && *normal.begin() != "..", "a picture outside of the working folder:", path);
  if (output == "out/") Check(*normal.begin() == "out", "a picture outside of the output folder:", path);
}

void CheckJobs(const std::vector<BatchJob>& jobs, const PromptsOptions& options) {
  Check(!jobs.empty(), "a batch of nothing");
  std::set<std::string> paths;
  for (const BatchJob& job : jobs) {
    const DrawRequest& request = job.request;
    Check(IsUtf8(request.prompt) && IsUtf8(request.negative_prompt), "a prompt that is not UTF-8");
    Check(CheckOutputPattern(job.output).ok(), "an output of unknown places:", job.output);
    for (int index = 0; index < request.count; ++index) {
      const uint64_t seed = request.seed.value_or(1000 + paths.size()) + static_cast<uint64_t>(index);
      const std::string path = OutputPath(job.output, {request.prompt, seed, index, request.count, request.format});
      CheckInside(path, options.output);
      if (request.seed) Check(paths.insert(path).second || request.count > 1, "two pictures of one name:", path);
    }
  }
}

PromptsOptions OptionsOf(uint8_t choice) {
  static constexpr std::string_view kTemplates[] = {"", "a {colour} {animal}", "{{{prompt}}}", "{"};
  PromptsOptions options;
  options.csv = (choice & 1) != 0;
  options.format_given = (choice & 2) != 0;
  options.prompt_template = kTemplates[choice >> 2 & 3];
  options.output = (choice & 16) != 0 ? "out/" : "{prompt}-{seed}.jpg";
  if ((choice & 32) != 0) options.flags.seed = 7;
  options.flags.count = (choice & 64) != 0 ? 2 : 1;
  return options;
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  Input input(data, size);
  const fresco::PromptsOptions options = OptionsOf(input.Byte());
  CheckTable(input.rest());
  const auto jobs = fresco::ParsePrompts(input.rest(), options);
  if (jobs.ok()) {
    CheckJobs(*jobs, options);
  } else {
    Check(absl::IsInvalidArgument(jobs.status()), "an error of another kind:", jobs.status().ToString());
  }
  Check(fresco::Slug(input.rest()).size() <= 48, "a name that is too long");
  return 0;
}
