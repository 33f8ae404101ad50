#include "pipeline/tool/model_defaults_text.h"

#include <yaml-cpp/yaml.h>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr std::string_view kKey = "layers:";

// Whether a line starts a new key of the file, which is a map in block style.
bool StartsAKey(std::string_view line) {
  return !line.empty() && line.front() != ' ' && line.front() != '#' && line.front() != '-';
}

std::string WithoutLayers(std::string_view text) {
  std::string kept;
  bool inside = false;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (StartsAKey(line)) inside = line.starts_with(kKey);
    if (!inside) kept.append(line).append("\n");
  }
  return kept;
}

// A map in braces takes no lines after it. Its comments are lost.
std::string InBlockStyle(std::string_view text) {
  YAML::Node defaults = YAML::Load(std::string(text));
  if (!defaults.IsMap() || defaults.Style() != YAML::EmitterStyle::Flow) return std::string(text);
  defaults.SetStyle(YAML::EmitterStyle::Block);
  return StrCat(YAML::Dump(defaults), "\n");
}

// In YAML's single quotes everything but the quote stands for itself.
std::string Quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) quoted.append(c == '\'' ? 2 : 1, c);
  return quoted + "'";
}

}  // namespace

std::string WithLayers(std::string_view text, const std::vector<LayerTable::Rule>& rules) {
  if (rules.empty()) return std::string(text);
  std::string result = StrCat(WithoutLayers(InBlockStyle(text)), kKey, "\n");
  for (const LayerTable::Rule& rule : rules) {
    result += StrCat("  ", Quoted(rule.pattern), ": ", SchemeName(rule.scheme), "\n");
  }
  return result;
}

}  // namespace fresco
