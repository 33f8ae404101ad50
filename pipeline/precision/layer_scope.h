// What libtorch's profiler is told of a model's parts, so that its trace reads like the model and its events can be
// added up by layer. Each is a scope on the thread that computes it, inside those that are open there: a stage (a call
// of an engine) holds modules ("transformer", "transformer_blocks.3"), a module holds layers ("attn.to_out.0"), and a
// layer perhaps kernels of ours. A scope while no profiler is on is a look at a thread's own flag: 30 ns.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {

// What a layer has to do, from the shapes of what it is given.
struct LayerWork {
  int64_t flops = 0;  // multiplications and additions of its products; 0: it has none, as a norm
  int64_t bytes = 0;  // of weights, inputs and outputs, each counted once
  std::string dtype;  // what it multiplies, or is: "fp8", "bf16", …
};

// An event's arguments, in the trace ("args") and where the events are added up.
inline constexpr char kLevelArgument[] = "level", kFlopsArgument[] = "FLOPs", kBytesArgument[] = "bytes",
                      kDtypeArgument[] = "dtype";
// Of the level.
inline constexpr char kStageLevel[] = "stage", kModuleLevel[] = "module", kLayerLevel[] = "layer";

// Open from its construction to its destruction, on one thread.
class ProfilerScope {
 public:
  ProfilerScope(const ProfilerScope&) = delete;
  ProfilerScope& operator=(const ProfilerScope&) = delete;

 protected:
  using Arguments = std::unordered_map<std::string, c10::IValue>;

  ProfilerScope() = default;
  ~ProfilerScope() = default;
  bool recorded() const { return event_.isActive(); }
  // Kineto writes names into its trace as they are: they have neither quotes nor backslashes.
  void Begin(std::string name, const char* level, Arguments arguments = {}) {
    arguments.emplace(kLevelArgument, std::string(level));
    event_.before(std::move(name), &arguments);
  }

 private:
  at::RecordFunction event_{at::RecordScope::USER_SCOPE};
};

class StageScope : public ProfilerScope {
 public:
  explicit StageScope(const char* name) {
    if (recorded()) Begin(name, kStageLevel);
  }
};

class ModuleScope : public ProfilerScope {
 public:
  explicit ModuleScope(const char* name) {
    if (recorded()) Begin(name, kModuleLevel);
  }
  // NAME.INDEX
  ModuleScope(const char* name, size_t index) {
    if (recorded()) Begin(StrCat(name, ".", index), kModuleLevel);
  }
};

class LayerScope : public ProfilerScope {
 public:
  // work(): LayerWork; asked only where the scope is recorded.
  template <typename Work>
  LayerScope(const char* name, const Work& work) {
    if (!recorded()) return;
    const LayerWork has = work();
    Begin(name, kLayerLevel, {{kFlopsArgument, has.flops}, {kBytesArgument, has.bytes}, {kDtypeArgument, has.dtype}});
  }
};

// A kernel of ours, which the profiler takes for an operation as libtorch's own are; so it also knows whose is what a
// GPU is given within.
class KernelScope {
 public:
  explicit KernelScope(const char* name) {
    if (event_.isActive()) event_.before(name);
  }
  KernelScope(const KernelScope&) = delete;
  KernelScope& operator=(const KernelScope&) = delete;

 private:
  at::RecordFunction event_{at::RecordScope::FUNCTION};
};

}  // namespace fresco
