// What the tests of the program share: a folder of its own, the program in it, and what it printed.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fake_server.h"
#include "process.h"

namespace fresco {

using Json = nlohmann::json;
namespace fs = std::filesystem;

struct Outcome {
  int exit_code = 0;
  std::string out, err;
};

class FrescoTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "fresco-client-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  ProcessOptions Options(std::vector<std::string> arguments, const std::string& server) const {
    return {std::move(arguments), folder_.string(), {"FRESCO_SERVER=" + server}, false};
  }

  Outcome Run(std::vector<std::string> arguments, const std::string& server = "127.0.0.1:1") const {
    return Run(Options(std::move(arguments), server));
  }

  static Outcome Run(const ProcessOptions& options) {
    Process process(options);
    const int exit_code = process.Wait();
    return {exit_code, process.out(), process.err()};
  }

  std::string Read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  // Names of the files in a folder, hidden ones left out.
  std::set<std::string> Files(const std::string& name = ".") const {
    std::set<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / name)) {
      if (entry.is_regular_file() && entry.path().filename().string()[0] != '.')
        files.insert(entry.path().filename().string());
    }
    return files;
  }

  static std::vector<Json> JsonLines(const std::string& text) {
    std::vector<Json> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  fs::path folder_;
};

// Draws until the client goes away, and says when it began and whether the client went.
struct Endless {
  std::promise<void> begun;
  std::promise<bool> cancelled;

  grpc::Status operator()(grpc::ServerContext* context, EventWriter* writer) {
    WriteStep(0, 1, 100, "", writer);
    begun.set_value();
    for (int i = 0; i < 6000 && !context->IsCancelled(); ++i) usleep(10000);
    cancelled.set_value(context->IsCancelled());
    return grpc::Status::CANCELLED;
  }
};

}  // namespace fresco
