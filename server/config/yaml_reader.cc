#include "server/config/yaml_reader.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"
#include "yaml-cpp/eventhandler.h"

namespace fresco {
namespace {

// yaml-cpp marks quoted scalars with the tag "!" and plain ones with "?": "8" in quotes is a text, not a number.
bool IsPlain(const YAML::Node& node) {
  return node.IsScalar() && node.Tag() != "!";
}

std::string Describe(const YAML::Node& node) {
  if (node.IsNull()) return "nothing";
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  return node.Tag() == "!" ? StrCat("the text \"", node.Scalar(), "\"") : StrCat("'", node.Scalar(), "'");
}

bool ParseBytes(std::string_view text, int64_t* value) {
  static constexpr std::pair<std::string_view, int64_t> kUnits[] = {
      {"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30}};
  for (const auto& [suffix, factor] : kUnits) {
    if (!text.ends_with(suffix)) continue;
    int64_t count = 0;
    if (!absl::SimpleAtoi(ToAbsl(text.substr(0, text.size() - suffix.size())), &count)) return false;
    return !__builtin_mul_overflow(count, factor, value);
  }
  return absl::SimpleAtoi(ToAbsl(text), value);
}

bool ParseSeconds(std::string_view text, absl::Duration* value) {
  double seconds = 0;
  if (absl::SimpleAtod(ToAbsl(text), &seconds)) {
    if (!std::isfinite(seconds)) return false;
    *value = absl::Seconds(seconds);
    return true;
  }
  return absl::ParseDuration(ToAbsl(text), value);
}

std::string Join(absl::Span<const std::string_view> names) {
  std::string joined;
  for (const std::string_view name : names) joined.append(joined.empty() ? "" : ", ").append(name);
  return joined;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

// Only counts.
class DocumentCounter final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  std::vector<YAML::Mark> marks;  // of documents
};

}  // namespace

YamlDocuments LoadDocuments(std::string_view text) {
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  DocumentCounter counter;
  while (counter.marks.size() < 2 && parser.HandleNextDocument(counter)) continue;
  YamlDocuments documents;
  documents.count = static_cast<int>(counter.marks.size());
  if (documents.count > 0) documents.first = YAML::Load(std::string(text));
  if (documents.count > 1) documents.second = counter.marks[1];
  return documents;
}

std::string_view Nearest(std::string_view word, const std::set<std::string>& candidates) {
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < best_distance && distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

void ConfigErrors::Add(const YAML::Mark& mark, std::string_view key, std::string_view message) {
  const int line = mark.line + 1;
  const std::string where = line > 0 ? StrCat(file_, ":", line) : file_;
  // They quote the file, in which anything can be: one line each, that a terminal and a log can take.
  const std::string said = Printable(key.empty() ? std::string(message) : StrCat(key, ": ", message));
  errors_.push_back({line, StrCat(where, ": ", said)});
}

absl::Status ConfigErrors::ToStatus() const {
  if (errors_.empty()) return absl::OkStatus();
  std::vector<Error> sorted = errors_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Error& a, const Error& b) { return a.line < b.line; });
  return absl::InvalidArgumentError(
      absl::StrJoin(sorted, "\n", [](std::string* out, const Error& error) { out->append(error.text); }));
}

YamlMap::YamlMap(const YAML::Node& node, std::string path, ConfigErrors* errors)
    : node_(node.IsMap() ? node : YAML::Node(YAML::NodeType::Map)), path_(std::move(path)), errors_(errors) {
  if (!node.IsMap() && !node.IsNull()) {
    errors_->Add(node.Mark(), path_, StrCat("expected a mapping of settings, found ", Describe(node)));
  }
}

std::string YamlMap::PathOf(std::string_view key) const {
  return path_.empty() ? std::string(key) : StrCat(path_, ".", key);
}

YAML::Node YamlMap::Take(const std::string& key) {
  known_.insert(key);
  return node_[key];
}

void YamlMap::AddError(const std::string& key, std::string_view message) {
  const YAML::Node value = node_[key];
  errors_->Add(value ? value.Mark() : node_.Mark(), PathOf(key), message);
}

YAML::Node YamlMap::Scalar(const std::string& key, std::string_view expected) {
  const YAML::Node value = Take(key);
  if (!value || value.IsScalar()) return value;
  AddError(key, StrCat("expected ", expected, ", found ", Describe(value)));
  return YAML::Node(YAML::NodeType::Undefined);
}

void YamlMap::Read(const std::string& key, int64_t min, int64_t max, int64_t* value) {
  const std::string expected = StrCat("an integer from ", min, " to ", max);
  const YAML::Node node = Scalar(key, expected);
  if (!node) return;
  int64_t parsed = 0;
  if (!IsPlain(node) || !absl::SimpleAtoi(node.Scalar(), &parsed) || parsed < min || parsed > max) {
    AddError(key, StrCat("expected ", expected, ", found ", Describe(node)));
    return;
  }
  *value = parsed;
}

void YamlMap::Read(const std::string& key, int64_t min, int64_t max, int* value) {
  int64_t wide = *value;
  Read(key, min, max, &wide);
  *value = static_cast<int>(wide);
}

void YamlMap::Read(const std::string& key, double min, double max, double* value) {
  const std::string expected = StrCat("a number from ", min, " to ", max);
  const YAML::Node node = Scalar(key, expected);
  if (!node) return;
  double parsed = 0;
  // Not a number is in no range.
  if (!IsPlain(node) || !absl::SimpleAtod(ToAbsl(node.Scalar()), &parsed) || !(parsed >= min && parsed <= max)) {
    AddError(key, StrCat("expected ", expected, ", found ", Describe(node)));
    return;
  }
  *value = parsed;
}

void YamlMap::Read(const std::string& key, bool* value) {
  std::optional<bool> given;
  Read(key, &given);
  *value = given.value_or(*value);
}

void YamlMap::Read(const std::string& key, std::optional<bool>* value) {
  const YAML::Node node = Scalar(key, "true or false");
  if (!node) return;
  if (IsPlain(node) && (node.Scalar() == "true" || node.Scalar() == "false")) {
    *value = node.Scalar() == "true";
  } else {
    AddError(key, StrCat("expected true or false, found ", Describe(node)));
  }
}

void YamlMap::Read(const std::string& key, std::string* value) {
  const YAML::Node node = Scalar(key, "a text");
  if (!node) return;
  if (node.Scalar().empty()) {
    AddError(key, "expected a text, found an empty one");
  } else {
    *value = node.Scalar();
  }
}

void YamlMap::Read(const std::string& key, absl::Duration min, absl::Duration max, absl::Duration* value) {
  const std::string expected =
      StrCat("a duration from ", min == absl::ZeroDuration() ? "0s" : absl::FormatDuration(min), " to ",
             absl::FormatDuration(max), ", like 30s or 1m30s");
  const YAML::Node node = Scalar(key, expected);
  if (!node) return;
  absl::Duration parsed;
  if (!ParseSeconds(node.Scalar(), &parsed) || parsed < min || parsed > max) {
    AddError(key, StrCat("expected ", expected, ", found ", Describe(node)));
    return;
  }
  *value = parsed;
}

void YamlMap::ReadBytes(const std::string& key, int64_t min, int64_t max, int64_t* value) {
  const std::string expected = StrCat("a number of bytes from ", min, " to ", max, ", like 1048576 or 1MiB");
  const YAML::Node node = Scalar(key, expected);
  if (!node) return;
  int64_t parsed = 0;
  if (!ParseBytes(node.Scalar(), &parsed) || parsed < min || parsed > max) {
    AddError(key, StrCat("expected ", expected, ", found ", Describe(node)));
    return;
  }
  *value = parsed;
}

int YamlMap::ReadChoice(const std::string& key, absl::Span<const std::string_view> names) {
  const std::string expected = StrCat("one of ", Join(names));
  const YAML::Node node = Scalar(key, expected);
  if (!node) return -1;
  const auto found = std::find(names.begin(), names.end(), node.Scalar());
  if (found != names.end()) return static_cast<int>(found - names.begin());
  AddError(key, StrCat("expected ", expected, ", found ", Describe(node)));
  return -1;
}

void YamlMap::Read(const std::string& key, std::vector<std::string>* value) {
  const YAML::Node node = Take(key);
  if (!node) return;
  std::vector<std::string> texts;
  if (node.IsScalar()) texts.push_back(node.Scalar());
  bool right = node.IsScalar() || node.IsSequence();
  for (const YAML::Node& item : node.IsSequence() ? node : YAML::Node(YAML::NodeType::Sequence)) {
    right = right && item.IsScalar();
    if (item.IsScalar()) texts.push_back(item.Scalar());
  }
  if (!right || texts.empty()) {
    AddError(key, StrCat("expected a list of texts, found ",
                         node.IsSequence() ? "an empty or nested list" : Describe(node)));
    return;
  }
  *value = std::move(texts);
}

void YamlMap::Finish() {
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    const YAML::Node& key = entry.first;
    if (!key.IsScalar()) {
      errors_->Add(key.Mark(), path_, StrCat("expected a setting's name, found ", Describe(key)));
    } else if (!seen.insert(key.Scalar()).second) {
      errors_->Add(key.Mark(), PathOf(key.Scalar()), "is set twice");
    } else if (known_.count(key.Scalar()) == 0) {
      const std::string_view nearest = Nearest(key.Scalar(), known_);
      const std::string hint = nearest.empty() ? StrCat("known here: ", absl::StrJoin(known_, ", "))
                                               : StrCat("did you mean '", nearest, "'?");
      errors_->Add(key.Mark(), PathOf(key.Scalar()), StrCat("unknown setting; ", hint));
    }
  }
}

}  // namespace fresco
