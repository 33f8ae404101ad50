#include "pipeline/tool/module_table.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kTreeWidth = 44;  // columns

double ShareOf(const Module& module, int64_t all) {
  return all == 0 ? 0 : static_cast<double>(module.bytes) / static_cast<double>(all);
}

std::string NameText(const Module& module) {
  const std::string name = PrintableName(module.name);
  return module.alike > 1 ? StrCat(name, " (", module.alike, " alike)") : name;
}

// "F8_E4M3 + 2": what has the most, and how many others there are.
std::string ShortTypesText(const std::map<std::string, int64_t>& counts) {
  const std::string text = TypesText(counts);
  return counts.size() < 2 ? text : StrCat(text.substr(0, text.find(", ")), " + ", counts.size() - 1);
}

// printf counts bytes, and the tree's lines are of three each.
std::string Padded(const std::string& text, int columns_used) {
  return text + std::string(static_cast<size_t>(std::max(1, kTreeWidth - columns_used)), ' ');
}

class Table {
 public:
  Table(int64_t all, int depth) : all_(all), depth_(depth) {}

  void Print(const Module& part) {
    PrintRow(part, "", NameText(part), 0);
    PrintChildren(part, "", 1);
  }

 private:
  void PrintChildren(const Module& module, const std::string& indent, int level) {
    if (depth_ > 0 && level > depth_) return;
    for (const Module& child : module.modules) {
      const bool last = &child == &module.modules.back();
      PrintRow(child, StrCat(indent, last ? "└─ " : "├─ "), NameText(child), level);
      PrintChildren(child, StrCat(indent, last ? "   " : "│  "), level + 1);
    }
  }

  void PrintRow(const Module& module, const std::string& lead, const std::string& name, int level) const {
    const int used = 3 * level + static_cast<int>(name.size());
    std::printf("%s %-12s %-19s %12lld %10.2f %6.2f %%  %s\n", Padded(StrCat(lead, name), used).c_str(),
                ShortTypesText(module.dtypes).c_str(), ShortTypesText(module.computed).c_str(),
                static_cast<long long>(module.parameters), static_cast<double>(module.bytes) / (1 << 20),
                100 * ShareOf(module, all_), ScalesText(module.scales).c_str());
  }

  const int64_t all_;
  const int depth_;
};

Json ToJson(const Module& module, int64_t all, const std::string& device) {
  Json json = {{"name", module.name},
               {"path", module.path},
               {"device", device},
               {"dtypes", module.dtypes},
               {"computed", module.computed},
               {"tensors", module.tensors},
               {"parameters", module.parameters},
               {"bytes", module.bytes},
               {"share", ShareOf(module, all)},
               {"scales", nullptr},
               {"modules", Json::array()}};
  if (module.scales)
    json["scales"] = {{"count", module.scales->count}, {"min", module.scales->least}, {"max", module.scales->most}};
  for (const Module& child : module.modules) json["modules"].push_back(ToJson(child, all, device));
  return json;
}

}  // namespace

int64_t BytesOf(const std::vector<Module>& parts) {
  int64_t bytes = 0;
  for (const Module& part : parts) bytes += part.bytes;
  return bytes;
}

std::string TypesText(const std::map<std::string, int64_t>& counts) {
  std::vector<std::pair<int64_t, std::string>> kinds;
  for (const auto& [name, count] : counts) kinds.emplace_back(-count, PrintableName(name));
  std::sort(kinds.begin(), kinds.end());
  return absl::StrJoin(kinds, ", ", [](std::string* out, const auto& kind) { out->append(kind.second); });
}

std::string ScalesText(const std::optional<ScaleRange>& scales) {
  if (!scales) return "";
  return absl::StrFormat("%d: %.3g to %.3g", scales->count, scales->least, scales->most);
}

void PrintModules(const std::vector<Module>& parts, int depth) {
  std::printf("%-*s %-12s %-19s %12s %10s %8s  %s\n", kTreeWidth, "module", "stored as", "computed in", "parameters",
              "MiB", "share", "scales");
  Table table(BytesOf(parts), depth);
  for (const Module& part : parts) table.Print(part);
}

Json ModulesJson(const std::vector<Module>& parts, const std::string& device) {
  const int64_t all = BytesOf(parts);
  Json json = Json::array();
  for (const Module& part : parts) json.push_back(ToJson(part, all, device));
  return json;
}

}  // namespace fresco
