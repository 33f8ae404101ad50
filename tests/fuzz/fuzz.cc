#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco::fuzz {
namespace {

constexpr std::string_view kSectionMark = "=== ";

}  // namespace

void Die(std::string_view what, std::string_view detail) {
  std::fprintf(stderr, "FINDING: %.*s %.*s\n", static_cast<int>(what.size()), what.data(),
               static_cast<int>(detail.size()), detail.data());
  std::abort();
}

void Touch(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  [[maybe_unused]] volatile unsigned keep = sum;
}

bool IsPrintable(std::string_view text) {
  while (!text.empty()) {
    const char32_t c = TakeUtf8(&text);
    if (c == kInvalidUtf8 || c == 0x7F || (c < 0x20 && c != '\n' && c != '\t')) return false;
  }
  return true;
}

void CheckError(const absl::Status& status, std::string_view path) {
  const std::string message(status.message());
  Check(absl::IsInvalidArgument(status) || absl::IsNotFound(status) || absl::IsUnimplemented(status),
        "an error of another kind:", status.ToString());
  Check(message.find(path) != std::string::npos, "the error does not name the file:", message);
  Check(IsPrintable(message), "the error is not printable:", message);
}

uint8_t Input::Byte() {
  const std::string_view byte = Take(1);
  return byte.empty() ? 0 : static_cast<uint8_t>(byte.front());
}

std::string_view Input::Take(size_t bytes) {
  const std::string_view taken = rest_.substr(0, bytes);
  rest_.remove_prefix(taken.size());
  return taken;
}

std::vector<Section> Sections(std::string_view text) {
  std::vector<Section> sections;
  std::string_view name;
  while (true) {
    size_t end = text.starts_with(kSectionMark) ? 0 : text.find(StrCat("\n", kSectionMark));
    sections.push_back({name, text.substr(0, end)});
    if (end == std::string_view::npos) return sections;
    if (text[end] == '\n') ++end;
    text.remove_prefix(end + kSectionMark.size());
    name = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(name.size() + 1, text.size()));
  }
}

std::string_view ContentOf(const std::vector<Section>& sections, std::string_view name, std::string_view otherwise) {
  std::string_view content = otherwise;
  for (const Section& section : sections) {
    if (section.name == name) content = section.content;
  }
  return content;
}

std::string SafetensorsBytes(std::string_view text) {
  if (!text.starts_with('{')) return std::string(text);
  const std::string_view header = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(header.size() + 1, text.size()));
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(header).append(text);
}

ScratchFolder::ScratchFolder() {
  std::error_code error;
  const std::string memory = "/dev/shm";
  const bool usable = std::filesystem::is_directory(memory, error) && access(memory.c_str(), W_OK | X_OK) == 0;
  path_ = StrCat(usable ? memory : std::filesystem::temp_directory_path().string(), "/fresco_fuzz_XXXXXX");
  Check(mkdtemp(path_.data()) != nullptr, "no folder can be made at", path_);
}

ScratchFolder::~ScratchFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string ScratchFolder::PathOf(std::string_view name) const {
  return StrCat(path_, "/", name);
}

std::string ScratchFolder::Write(std::string_view name, std::string_view bytes) const {
  std::string path = PathOf(name);
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  Check(file >= 0 && write(file, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "cannot write",
        path);
  close(file);
  return path;
}

void ScratchFolder::Clear() const {
  for (const auto& entry : std::filesystem::directory_iterator(path_)) std::filesystem::remove_all(entry.path());
}

}  // namespace fresco::fuzz
