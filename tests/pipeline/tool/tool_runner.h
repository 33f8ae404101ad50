// Runs fresco-model as a process.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fresco {

using Json = nlohmann::json;

inline constexpr char kMedium[] = "tests/reference/checkpoints/medium";

struct Result {
  int code = -1;
  std::string output;
  std::string errors;
  Json json() const { return Json::parse(output); }
};

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class ToolTest : public ::testing::Test {
 protected:
  ToolTest() {
    std::string name = (std::filesystem::temp_directory_path() / "fresco-tool-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error(name);
    folder_ = name;
  }
  ~ToolTest() override { std::filesystem::remove_all(folder_); }

  std::string File(const std::string& name) const { return (folder_ / name).string(); }

  void WriteFile(const std::string& name, const std::string& bytes) const {
    std::ofstream(File(name), std::ios::binary) << bytes;
  }

  // `arguments` are a shell's words.
  Result Run(const std::string& arguments) const { return Shell(std::string(FRESCO_MODEL_BINARY) + " " + arguments); }

  // The last of the commands is heard.
  Result Shell(const std::string& commands) const {
    const int status = std::system((commands + " >" + File("out") + " 2>" + File("err")).c_str());
    return {WEXITSTATUS(status), ReadFile(File("out")), ReadFile(File("err"))};
  }

  std::filesystem::path folder_;
};

}  // namespace fresco
