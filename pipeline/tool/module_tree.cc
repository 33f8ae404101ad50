#include "pipeline/tool/module_tree.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/safetensors.h"

namespace fresco {
namespace {

// A file may spell any depth; what lies deeper has a name with dots.
constexpr int kMostLevels = 32;

std::optional<int> NumberOf(const std::string& name) {
  int number = 0;
  return absl::SimpleAtoi(name, &number) ? std::optional(number) : std::nullopt;
}

bool Before(const Module& a, const Module& b) {
  const std::optional<int> x = NumberOf(a.name), y = NumberOf(b.name);
  if (x && y) return *x < *y;
  if (x.has_value() != y.has_value()) return x.has_value();
  return a.name < b.name;
}

void Widen(const ScaleRange& by, std::optional<ScaleRange>* scales) {
  if (!*scales) {
    *scales = by;
    return;
  }
  (*scales)->count += by.count;
  (*scales)->least = std::min((*scales)->least, by.least);
  (*scales)->most = std::max((*scales)->most, by.most);
}

void Add(const SafetensorsFile::Entry& entry, Module* module) {
  ++module->tensors;
  module->parameters += entry.numel();
  module->bytes += static_cast<int64_t>(entry.bytes());
  module->dtypes[entry.dtype_name] += static_cast<int64_t>(entry.bytes());
}

// Names come sorted by bytes, in which those that begin with "X." are neighbours: a child that is there is the last
// one.
Module* Child(const std::string& name, Module* parent) {
  if (!parent->modules.empty() && parent->modules.back().name == name) return &parent->modules.back();
  Module child;
  child.name = name;
  child.path = parent->path.empty() ? name : StrCat(parent->path, ".", name);
  parent->modules.push_back(std::move(child));
  return &parent->modules.back();
}

// All modules that `tensor` is in, the part first.
std::vector<Module*> Path(const std::vector<std::string>& names, Module* part) {
  std::vector<Module*> path = {part};
  for (size_t i = 0; i + 1 < names.size(); ++i) path.push_back(Child(names[i], path.back()));
  return path;
}

// What is of a layer as a whole is added to all that it is in.
void AddLayers(const StoredWeightSummary& stored, const ComputedIn& computed_in, Module* module) {
  if (const auto scales = stored.scales.find(module->path); scales != stored.scales.end())
    Widen(scales->second, &module->scales);
  if (const std::string in = computed_in(module->path); !in.empty()) ++module->computed[in];
  for (Module& child : module->modules) {
    AddLayers(stored, computed_in, &child);
    if (child.scales) Widen(*child.scales, &module->scales);
    for (const auto& [in, count] : child.computed) module->computed[in] += count;
  }
}

void Sort(Module* module) {
  std::sort(module->modules.begin(), module->modules.end(), Before);
  for (Module& child : module->modules) Sort(&child);
}

bool Alike(const Module& a, const Module& b) {
  return a.name == b.name && a.alike == b.alike && a.tensors == b.tensors && a.bytes == b.bytes &&
         a.dtypes == b.dtypes && a.computed == b.computed && a.own == b.own &&
         a.scales.has_value() == b.scales.has_value() &&
         std::equal(a.modules.begin(), a.modules.end(), b.modules.begin(), b.modules.end(), Alike);
}

bool AlikeButForName(const Module& a, const Module& b) {
  Module named = b;
  named.name = a.name;
  return Alike(a, named);
}

// `other` is as `module`, once.
void Merge(const Module& other, Module* module) {
  module->tensors += other.tensors;
  module->parameters += other.parameters;
  module->bytes += other.bytes;
  for (const auto& [dtype, bytes] : other.dtypes) module->dtypes[dtype] += bytes;
  for (const auto& [in, count] : other.computed) module->computed[in] += count;
  if (other.scales) Widen(*other.scales, &module->scales);
  for (size_t i = 0; i < other.modules.size(); ++i) Merge(other.modules[i], &module->modules[i]);
}

// The run of `modules` from `first` on that are one.
Module Folded(const std::vector<Module>& modules, size_t first, size_t* end) {
  Module folded = modules[first];
  size_t next = first + 1;
  if (NumberOf(folded.name)) {
    while (next < modules.size() && NumberOf(modules[next].name) == *NumberOf(modules[next - 1].name) + 1 &&
           AlikeButForName(modules[first], modules[next])) {
      Merge(modules[next++], &folded);
    }
  }
  if (next - first > 1) {
    folded.name = StrCat(folded.name, "-", modules[next - 1].name);
    folded.alike = static_cast<int64_t>(next - first);
  }
  *end = next;
  return folded;
}

}  // namespace

Module ModuleTree(const std::string& part, const WeightStore& weights, const StoredWeightSummary& stored,
                  const ComputedIn& computed_in) {
  Module root;
  root.name = part;
  for (const std::string& tensor : weights.Names()) {
    const std::vector<std::string> names = absl::StrSplit(tensor, absl::MaxSplits('.', kMostLevels));
    const SafetensorsFile::Entry& entry = *weights.FindEntry(tensor);
    const std::vector<Module*> path = Path(names, &root);
    for (Module* module : path) Add(entry, module);
    path.back()->own.push_back(StrCat(names.back(), " ", ShapeString(entry.shape)));
  }
  AddLayers(stored, computed_in, &root);
  Sort(&root);
  return root;
}

void FoldAlike(Module* module) {
  for (Module& child : module->modules) FoldAlike(&child);
  std::vector<Module> folded;
  for (size_t next = 0; next < module->modules.size();) folded.push_back(Folded(module->modules, next, &next));
  module->modules = std::move(folded);
}

}  // namespace fresco
