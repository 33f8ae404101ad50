// A copy of a small checkpoint that a test may damage.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/checkpoint/safetensors.h"

namespace fresco {

// Goes with its object. Throws std::runtime_error where the disk fails it.
class CheckpointCopy {
 public:
  explicit CheckpointCopy(const std::filesystem::path& original) {
    std::string name = (std::filesystem::temp_directory_path() / "fresco-checkpoint-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error(name);
    path_ = name;
    std::filesystem::copy(original, path_, std::filesystem::copy_options::recursive);
  }
  ~CheckpointCopy() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  CheckpointCopy(const CheckpointCopy&) = delete;
  CheckpointCopy& operator=(const CheckpointCopy&) = delete;

  std::string path(std::string_view file = "") const { return (path_ / file).string(); }

  std::string Read(std::string_view file) const {
    std::ostringstream text;
    text << std::ifstream(path_ / file, std::ios::binary).rdbuf();
    return text.str();
  }
  void Write(std::string_view file, std::string_view bytes) const {
    std::ofstream out(path_ / file, std::ios::binary);
    if (!(out << bytes).flush()) throw std::runtime_error(path(file));
  }
  void Remove(std::string_view file) const { std::filesystem::remove_all(path_ / file); }

  // `from`, which must be in the file, becomes `to`.
  void Replace(std::string_view file, std::string_view from, std::string_view to) const {
    std::string text = Read(file);
    const size_t at = text.find(from);
    if (at == std::string::npos) throw std::runtime_error(path(file) + " does not hold " + std::string(from));
    Write(file, text.replace(at, from.size(), to));
  }

  // Gives a tensor's bytes in a safetensors file, for writing.
  void EditTensor(std::string_view file, std::string_view tensor,
                  const std::function<void(char* data, size_t bytes)>& edit) const {
    EditTensors(file, [&](std::string_view name, const std::vector<int64_t>&, std::span<char> data) {
      if (name == tensor) edit(data.data(), data.size());
    });
  }
  // All of a file's.
  void EditTensors(std::string_view file,
                   const std::function<void(std::string_view name, const std::vector<int64_t>& shape,
                                            std::span<char> data)>& edit) const {
    std::string text = Read(file);
    const auto opened = SafetensorsFile::Open(path(file)).value();
    uint64_t header = 0;
    std::memcpy(&header, text.data(), sizeof(header));
    for (const auto& [name, entry] : opened->entries())
      edit(name, entry.shape, {text.data() + sizeof(header) + header + entry.begin, entry.end - entry.begin});
    Write(file, text);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace fresco
