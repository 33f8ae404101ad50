#include "pipeline/engine/recorded_arguments.h"

#include <utility>

#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

using Arguments = std::unordered_map<std::string, c10::IValue>;

std::string TextOf(const Arguments& arguments, const char* name) {
  const auto found = arguments.find(name);
  return found != arguments.end() && found->second.isString() ? found->second.toStringRef() : "";
}

int64_t NumberOf(const Arguments& arguments, const char* name) {
  const auto found = arguments.find(name);
  return found != arguments.end() && found->second.isInt() ? found->second.toInt() : 0;
}

}  // namespace

std::optional<RecordedScope> ScopeOf(std::string name, const Arguments& arguments) {
  const std::string level = TextOf(arguments, kLevelArgument);
  RecordedScope scope;
  if (level == kModuleLevel) {
    scope.level = RecordedScope::Level::kModule;
  } else if (level == kLayerLevel) {
    scope.level = RecordedScope::Level::kLayer;
  } else if (level != kStageLevel) {
    return std::nullopt;
  }
  scope.name = std::move(name);
  scope.flops = NumberOf(arguments, kFlopsArgument);
  scope.bytes = NumberOf(arguments, kBytesArgument);
  scope.dtype = TextOf(arguments, kDtypeArgument);
  return scope;
}

}  // namespace fresco
