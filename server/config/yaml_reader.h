// Reads typed settings out of a YAML mapping, and collects what is wrong with it instead of stopping at the first
// mistake.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "yaml-cpp/yaml.h"

namespace fresco {

class ConfigErrors {
 public:
  explicit ConfigErrors(std::string file) : file_(std::move(file)) {}

  void Add(const YAML::Mark& mark, std::string_view key, std::string_view message);
  // OK, or INVALID_ARGUMENT with all of them in the file's order.
  absl::Status ToStatus() const;

 private:
  struct Error {
    int line;  // from 1
    std::string text;
  };
  const std::string file_;
  std::vector<Error> errors_;
};

// What is in a text.
struct YamlDocuments {
  int count = 0;  // 2: more than one
  YAML::Node first;
  YAML::Mark second = YAML::Mark::null_mark();  // where it begins
};

// Instead of YAML::LoadAll, which takes some texts for documents without end (yaml-cpp 0.7), and memory for each.
// Throws YAML::Exception.
YamlDocuments LoadDocuments(std::string_view text);

// One mapping of the file. Each Read looks up a key and, if it is there and right, sets the value; what is wrong goes
// to the errors. Finish reports the keys that no Read has asked for.
class YamlMap {
 public:
  // `path` is the mapping's own key ("server", "models[0]"; empty at the top). A null node is an empty mapping.
  YamlMap(const YAML::Node& node, std::string path, ConfigErrors* errors);

  void Read(const std::string& key, int64_t min, int64_t max, int64_t* value);
  void Read(const std::string& key, int64_t min, int64_t max, int* value);
  void Read(const std::string& key, double min, double max, double* value);
  void Read(const std::string& key, bool* value);
  void Read(const std::string& key, std::optional<bool>* value);  // left as it is where the key is absent or wrong
  void Read(const std::string& key, std::string* value);
  void Read(const std::string& key, absl::Duration min, absl::Duration max,
            absl::Duration* value);                                                  // "30s", "1m30s", or seconds
  void ReadBytes(const std::string& key, int64_t min, int64_t max, int64_t* value);  // 1048576, "1MiB"
  // One of `names`; returns its index, or -1 if the key is absent or wrong.
  int ReadChoice(const std::string& key, absl::Span<const std::string_view> names);
  // A text, or a sequence of texts.
  void Read(const std::string& key, std::vector<std::string>* value);

  // The sub-mapping or sequence of a key; not defined if it is absent.
  YAML::Node Take(const std::string& key);
  void AddError(const std::string& key, std::string_view message);
  std::string PathOf(std::string_view key) const;
  void Finish();

 private:
  YAML::Node Scalar(const std::string& key, std::string_view expected);

  const YAML::Node node_;
  const std::string path_;
  ConfigErrors* const errors_;
  std::set<std::string> known_;
};

// The candidate that a person most likely meant by `word`; empty if none is near.
std::string_view Nearest(std::string_view word, const std::set<std::string>& candidates);

}  // namespace fresco
