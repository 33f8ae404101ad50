// What the fuzzers have in common (docs/FUZZING.md). A fuzzer is one function, LLVMFuzzerTestOneInput: it gives a
// parser any bytes, and dies where the parser breaks its word. libFuzzer calls it with inputs that it makes up and
// with files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

// libFuzzer's entry point, whose name is given.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);  // NOLINT(readability-identifier-naming)

namespace fresco::fuzz {

// Ends the process: a finding.
[[noreturn]] void Die(std::string_view what, std::string_view detail = "");

inline void Check(bool holds, std::string_view what, std::string_view detail = "") {
  if (!holds) Die(what, detail);
}

// Reads every byte, so that one that is not there is noticed.
void Touch(std::span<const std::byte> bytes);

// Valid UTF-8 without control characters but line ends and tabs: what a terminal and a log can take.
bool IsPrintable(std::string_view text);

// Of an error that a file of `path` (or in that folder) caused: INVALID_ARGUMENT, NOT_FOUND or UNIMPLEMENTED, with a
// printable message that names it.
void CheckError(const absl::Status& status, std::string_view path);

inline std::string_view TextOf(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Takes an input apart from its front; at its end every number is 0.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(TextOf(data, size)) {}

  uint8_t Byte();
  std::string_view Take(size_t bytes);  // at most
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

// An input that stands for several files, or for a file and what is done with it: each part begins with a line
// "=== NAME". What comes before the first such line has the name "".
struct Section {
  std::string_view name;
  std::string_view content;
};
std::vector<Section> Sections(std::string_view text);

// The content of the last section of that name; `otherwise` where there is none.
std::string_view ContentOf(const std::vector<Section>& sections, std::string_view name,
                           std::string_view otherwise = "");

// The bytes of a safetensors file. Text that begins with '{' is a header up to the end of its line, and data behind it:
// so the header's length is right whatever is changed. Anything else is taken as it is.
std::string SafetensorsBytes(std::string_view text);

// A folder of this process's own, in memory where the machine has a place for that; gone with it.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string PathOf(std::string_view name) const;

  // Writes a file, or replaces it, and returns its path. `name` is a plain file name.
  std::string Write(std::string_view name, std::string_view bytes) const;
  // Leaves nothing in it.
  void Clear() const;

 private:
  std::string path_;
};

}  // namespace fresco::fuzz
