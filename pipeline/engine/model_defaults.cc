#include "pipeline/engine/model_defaults.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <system_error>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/text_file.h"

namespace fresco {
namespace {

constexpr size_t kMaxBytes = 64 << 10;

constexpr int kMaxSteps = 1000;
constexpr int kMaxSide = 16384;
constexpr int kMaxTextTokens = 512;
constexpr float kMaxGuidance = 30;  // as of a request

absl::Status ErrorAt(const std::string& path, const YAML::Mark& mark, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(path, ":", mark.line + 1, ": ", what));
}

// Reads the entries of one file into a ModelDefaults.
class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  absl::StatusOr<ModelDefaults> Read(const YAML::Node& root) {
    if (root.IsNull()) return defaults_;
    if (!root.IsMap()) return ErrorAt(path_, root.Mark(), "expected `key: value` lines");
    for (const auto& entry : root) FRESCO_RETURN_IF_ERROR(ReadEntry(entry.first, entry.second));
    return defaults_;
  }

 private:
  absl::Status ReadEntry(const YAML::Node& key_node, const YAML::Node& value) {
    const std::string key = key_node.IsScalar() ? key_node.Scalar() : "";
    if (!seen_.insert(key).second) return ErrorAt(path_, key_node.Mark(), StrCat(PrintableName(key), ": given twice"));
    if (key == "steps") return ReadInt(key, value, kMaxSteps, &defaults_.steps);
    if (key == "width") return ReadInt(key, value, kMaxSide, &defaults_.width);
    if (key == "height") return ReadInt(key, value, kMaxSide, &defaults_.height);
    if (key == "max_sequence_length") return ReadInt(key, value, kMaxTextTokens, &defaults_.max_sequence_length);
    if (key == "guidance_scale") return ReadGuidance(key, value);
    if (key == "attention") return ReadAttention(value);
    if (key == "layers") return ReadLayers(value);
    return ErrorAt(
        path_, key_node.Mark(),
        StrCat("unknown key '", PrintableName(key),
               "'; the keys are steps, guidance_scale, width, height, max_sequence_length, attention, layers"));
  }

  absl::Status ReadInt(const std::string& key, const YAML::Node& value, int max, std::optional<int>* out) {
    int number = 0;
    if (!value.IsScalar() || !YAML::convert<int>::decode(value, number) || number < 1 || number > max)
      return ErrorAt(path_, value.Mark(), StrCat(key, ": ", Shown(value), " is not a whole number from 1 to ", max));
    *out = number;
    return absl::OkStatus();
  }

  absl::Status ReadGuidance(const std::string& key, const YAML::Node& value) {
    float number = 0;
    const bool ok = value.IsScalar() && YAML::convert<float>::decode(value, number);
    if (!ok || !std::isfinite(number) || number < 0 || number > kMaxGuidance)
      return ErrorAt(path_, value.Mark(), StrCat(key, ": ", Shown(value), " is not a number from 0 to ", kMaxGuidance));
    defaults_.guidance_scale = number;
    return absl::OkStatus();
  }

  absl::Status ReadAttention(const YAML::Node& value) {
    const std::string word = value.IsScalar() ? value.Scalar() : "";
    const auto* const found = std::find(std::begin(kAttentionNames), std::end(kAttentionNames), word);
    if (found == std::end(kAttentionNames))
      return ErrorAt(path_, value.Mark(), StrCat("attention: ", Shown(value), " is neither high nor fp8"));
    defaults_.attention = static_cast<AttentionScheme>(found - std::begin(kAttentionNames));
    return absl::OkStatus();
  }

  absl::Status ReadLayers(const YAML::Node& value) {
    if (!value.IsMap()) return ErrorAt(path_, value.Mark(), "layers: expected `PATTERN: SCHEME` lines");
    for (const auto& entry : value) {
      const std::optional<LinearScheme> scheme =
          entry.second.IsScalar() ? ParseScheme(entry.second.Scalar()) : std::nullopt;
      if (!entry.first.IsScalar() || entry.first.Scalar().empty())
        return ErrorAt(path_, entry.first.Mark(), "layers: a pattern is not a text");
      if (!scheme)
        return ErrorAt(path_, entry.second.Mark(), StrCat("layers: ", Shown(entry.second), " is not ", SchemeNames()));
      defaults_.layers.push_back({entry.first.Scalar(), *scheme, path_});
    }
    return absl::OkStatus();
  }

  static std::string Shown(const YAML::Node& value) {
    return value.IsScalar() ? StrCat("'", PrintableName(value.Scalar()), "'") : "a list, a map or nothing";
  }

  const std::string& path_;
  ModelDefaults defaults_;
  std::set<std::string> seen_;
};

}  // namespace

absl::StatusOr<ModelDefaults> ReadModelDefaults(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadTextFile(path, kMaxBytes);
  if (absl::IsNotFound(text.status())) return ModelDefaults();
  if (!text.ok()) return text.status();
  try {
    return Reader(path).Read(YAML::Load(*text));
  } catch (const YAML::Exception& bad) {
    return ErrorAt(path, bad.mark, PrintableName(bad.msg));
  }
}

}  // namespace fresco
