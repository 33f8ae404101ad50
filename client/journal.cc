#include "client/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "client/files.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

// Everything that decides what a job's pictures look like and where they are.
Json Describe(const BatchJob& job) {
  const DrawRequest& request = job.request;
  Json json = {{"model", request.model},
               {"prompt", request.prompt},
               {"negative", request.negative_prompt},
               {"width", request.width},
               {"height", request.height},
               {"steps", request.steps},
               {"count", request.count},
               {"format", FileExtension(request.format)},
               {"quality", request.quality},
               {"output", job.output}};
  if (request.guidance) json["guidance"] = *request.guidance;
  if (request.seed) json["seed"] = *request.seed;
  if (request.prompt_2) json["prompt_2"] = *request.prompt_2;
  if (request.prompt_3) json["prompt_3"] = *request.prompt_3;
  if (request.clip_skip != 0) json["clip_skip"] = request.clip_skip;
  if (request.noise_correction) json["noise_correction"] = *request.noise_correction;
  if (request.deterministic) json["deterministic"] = true;
  if (request.max_sequence_length != 0) json["max_sequence_length"] = request.max_sequence_length;
  return json;
}

// Paths need not be UTF-8; what is not becomes the replacement character.
std::string Text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<JournalImage> ReadImages(const Json& json) {
  std::vector<JournalImage> images;
  // get_ref: get would make a number of whatever number is there.
  for (const Json& image : json)
    images.push_back({image.at("file").get<std::string>(), image.at("seed").get_ref<const uint64_t&>()});
  return images;
}

// A line of the file, as deep as entries are and no deeper: what is deeper is printed with a stack frame for each
// level.
Json ParseLine(const std::string& line) {
  constexpr int kMaxDepth = 4;
  return Json::parse(line, [](int depth, Json::parse_event_t, const Json&) { return depth <= kMaxDepth; });
}

}  // namespace

Journal::Journal(const std::string& path) : path_(path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return;
  MutexLock lock(&mutex_);
  torn_ = !text->empty() && text->back() != '\n';
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    try {
      const Json entry = ParseLine(line);
      entries_[Text(entry.at("request"))] = ReadImages(entry.at("images"));
    } catch (const Json::exception&) {
      continue;
    }
  }
}

std::vector<JournalImage> Journal::Find(const BatchJob& job) const {
  MutexLock lock(&mutex_);
  // By way of its text, so that numbers compare as the file holds them.
  const auto entry = entries_.find(Text(Json::parse(Text(Describe(job)))));
  return entry == entries_.end() ? std::vector<JournalImage>() : entry->second;
}

absl::Status Journal::Add(const BatchJob& job, const std::vector<JournalImage>& images) {
  Json entry = {{"request", Describe(job)}, {"images", Json::array()}};
  for (const JournalImage& image : images) entry["images"].push_back({{"file", image.file}, {"seed", image.seed}});
  MutexLock lock(&mutex_);
  const std::string line = StrCat(torn_ ? "\n" : "", Text(entry), "\n");
  const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  const bool written = file >= 0 && write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  if (file >= 0) close(file);
  if (!written) return absl::ErrnoToStatus(error, ToAbsl(StrCat("can not write ", path_)));
  torn_ = false;
  entries_[Text(Json::parse(Text(entry["request"])))] = images;
  return absl::OkStatus();
}

std::string JournalPath(const std::string& output_pattern) {
  const std::string fixed = output_pattern.substr(0, output_pattern.find('{'));
  return (std::filesystem::path(fixed).parent_path() / Journal::kFileName).string();
}

}  // namespace fresco
