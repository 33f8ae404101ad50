#include "pipeline/precision/kernel_choice_file.h"

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "fresco-kernel-choices";
constexpr int kVersion = 1;

absl::StatusOr<std::string> ReadText(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string())
    return absl::InvalidArgumentError(StrCat(key, ": must be there, and a string"));
  return found->get<std::string>();
}

absl::StatusOr<KernelMachine> ReadMachine(const Json& file) {
  const auto found = file.find("machine");
  if (found == file.end() || !found->is_object())
    return absl::InvalidArgumentError("machine: must be there, and an object");
  KernelMachine machine;
  FRESCO_ASSIGN_OR_RETURN(machine.device, ReadText(*found, "device"));
  FRESCO_ASSIGN_OR_RETURN(machine.libraries, ReadText(*found, "libraries"));
  FRESCO_ASSIGN_OR_RETURN(machine.build, ReadText(*found, "build"));
  return machine;
}

absl::Status ReadSizes(const Json& entry, KernelTask* task) {
  const auto found = entry.find("sizes");
  if (found == entry.end() || !found->is_array() || found->size() != task->sizes.size())
    return absl::InvalidArgumentError(StrCat("sizes: must be ", task->sizes.size(), " integers"));
  for (size_t i = 0; i < task->sizes.size(); ++i) {
    const Json& size = found->at(i);
    if (!size.is_number_unsigned() || size.get<uint64_t>() > INT64_MAX)
      return absl::InvalidArgumentError("sizes: must be integers of at least 0");
    task->sizes[i] = size.get<int64_t>();
  }
  return absl::OkStatus();
}

absl::Status ReadSeconds(const Json& entry, MeasuredKernel* measured) {
  const auto found = entry.find("seconds");
  if (found == entry.end() || !found->is_object())
    return absl::InvalidArgumentError("seconds: must be there, and an object");
  for (const auto& [name, seconds] : found->items()) {
    if (!seconds.is_number() || !std::isfinite(seconds.get<double>()) || seconds.get<double>() < 0)
      return absl::InvalidArgumentError("seconds: must be numbers of at least 0");
    measured->seconds[name] = seconds.get<double>();
  }
  // There are none where there was one candidate alone.
  if (!measured->seconds.empty() && !measured->seconds.contains(measured->winner))
    return absl::InvalidArgumentError("seconds: must have the winner's");
  return absl::OkStatus();
}

absl::StatusOr<std::pair<KernelTask, MeasuredKernel>> ReadChoice(const Json& entry) {
  if (!entry.is_object()) return absl::InvalidArgumentError("must be an object");
  std::pair<KernelTask, MeasuredKernel> choice;
  FRESCO_ASSIGN_OR_RETURN(choice.first.operation, ReadText(entry, "operation"));
  FRESCO_ASSIGN_OR_RETURN(choice.first.type, ReadText(entry, "type"));
  FRESCO_RETURN_IF_ERROR(ReadSizes(entry, &choice.first));
  FRESCO_ASSIGN_OR_RETURN(choice.second.winner, ReadText(entry, "winner"));
  FRESCO_RETURN_IF_ERROR(ReadSeconds(entry, &choice.second));
  return choice;
}

absl::Status CheckHeader(const Json& file) {
  if (!file.is_object() || !file.contains("format") || file.at("format") != kFormat)
    return absl::InvalidArgumentError(StrCat("has no kernel choices: 'format' must be \"", kFormat, "\""));
  if (!file.contains("version") || file.at("version") != kVersion)
    return absl::FailedPreconditionError(StrCat("is of another version than ", kVersion));
  return absl::OkStatus();
}

// What may be in a file's name, of a GPU's.
std::string FileNameOf(std::string_view device) {
  std::string name;
  for (const char c : device) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    name += plain ? c : '-';
  }
  return name;
}

absl::Status WriteWhole(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(StrCat("cannot write ", path));
}

}  // namespace

std::string KernelChoicesPath(const std::string& folder, const KernelMachine& machine) {
  return (std::filesystem::path(folder) / StrCat("kernels-", FileNameOf(machine.device), ".json")).string();
}

std::string KernelChoicesToJson(const KernelMachine& machine, const std::map<KernelTask, MeasuredKernel>& choices) {
  Json entries = Json::array();
  for (const auto& [task, measured] : choices) {
    entries.push_back({{"operation", task.operation},
                       {"type", task.type},
                       {"sizes", task.sizes},
                       {"winner", measured.winner},
                       {"seconds", measured.seconds}});
  }
  const Json owner = {{"device", machine.device}, {"libraries", machine.libraries}, {"build", machine.build}};
  return Json{{"format", kFormat}, {"version", kVersion}, {"machine", owner}, {"choices", std::move(entries)}}.dump(
             1, ' ', false, Json::error_handler_t::replace) +
         "\n";
}

absl::StatusOr<std::map<KernelTask, MeasuredKernel>> KernelChoicesFromJson(std::string_view json,
                                                                           const KernelMachine& machine) {
  const Json file = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return absl::InvalidArgumentError("is not JSON");
  FRESCO_RETURN_IF_ERROR(CheckHeader(file));
  FRESCO_ASSIGN_OR_RETURN(const KernelMachine measured_on, ReadMachine(file));
  if (measured_on != machine)
    return absl::FailedPreconditionError(StrCat("was measured on another machine: ", PrintableName(measured_on.device),
                                                ", ", PrintableName(measured_on.libraries), ", Fresco ",
                                                PrintableName(measured_on.build)));
  const auto entries = file.find("choices");
  if (entries == file.end() || !entries->is_array())
    return absl::InvalidArgumentError("choices: must be there, and an array");
  std::map<KernelTask, MeasuredKernel> choices;
  int index = 0;
  for (const Json& entry : *entries) {
    const std::string where = StrCat("choices[", index++, "]");
    absl::StatusOr<std::pair<KernelTask, MeasuredKernel>> choice = ReadChoice(entry);
    if (!choice.ok()) return Annotate(choice.status(), where);
    if (!choices.insert(*std::move(choice)).second)
      return absl::InvalidArgumentError(StrCat(where, ": is there twice"));
  }
  return choices;
}

absl::Status SaveKernelChoices(const KernelMachine& machine, const std::map<KernelTask, MeasuredKernel>& choices,
                               const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string temporary = StrCat(path, ".", getpid(), ".new");
  FRESCO_RETURN_IF_ERROR(WriteWhole(temporary, KernelChoicesToJson(machine, choices)));
  std::filesystem::rename(temporary, path, error);
  if (!error) return absl::OkStatus();
  const std::string why = error.message();
  std::filesystem::remove(temporary, error);
  return absl::UnavailableError(StrCat("cannot rename ", temporary, " to ", path, ": ", why));
}

absl::StatusOr<std::map<KernelTask, MeasuredKernel>> LoadKernelChoices(const KernelMachine& machine,
                                                                       const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(StrCat("cannot open ", path));
  std::ostringstream text;
  text << in.rdbuf();
  absl::StatusOr<std::map<KernelTask, MeasuredKernel>> choices = KernelChoicesFromJson(text.str(), machine);
  if (!choices.ok()) return Annotate(choices.status(), path);
  return choices;
}

}  // namespace fresco
