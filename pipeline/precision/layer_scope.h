// What a profiler is told of a model's parts, so that a trace reads like the model and its events can be added up by
// layer. Each is a scope on the thread that computes it, inside those that are open there: a stage (a call of an
// engine) holds modules ("transformer", "transformer_blocks.3"), a module holds layers ("attn.to_out.0"), and a layer
// perhaps kernels of ours. They go to the thread's ScopeLog where it has one open, else to libtorch's profiler where
// that is on. A scope while nothing is recorded is a look at flags of the thread's own: 30 ns.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "pipeline/base/scope_log.h"
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
inline const char* LevelName(RecordedScope::Level level) {
  constexpr const char* kNames[] = {"stage", "module", "layer"};
  return kNames[static_cast<size_t>(level)];
}

// Open from its construction to its destruction, on one thread.
class ProfilerScope {
 public:
  ProfilerScope(const ProfilerScope&) = delete;
  ProfilerScope& operator=(const ProfilerScope&) = delete;

 protected:
  ProfilerScope() : log_(ScopeLog::Current()) {
    if (log_ == nullptr) event_.emplace(at::RecordScope::USER_SCOPE);
  }
  ~ProfilerScope() {
    if (log_ != nullptr && log_ == ScopeLog::Current()) log_->End(index_);
  }

  bool recorded() const { return log_ != nullptr || event_->isActive(); }

  void Begin(std::string name, RecordedScope::Level level, const LayerWork& work = {}) {
    if (log_ != nullptr) {
      index_ = log_->Begin({level, std::move(name), 0, 0, work.flops, work.bytes, work.dtype});
    } else {
      BeginEvent(std::move(name), level, work);
    }
  }

 private:
  // Kineto writes names into its trace as they are: they have neither quotes nor backslashes.
  void BeginEvent(std::string name, RecordedScope::Level level, const LayerWork& work) {
    std::unordered_map<std::string, c10::IValue> arguments = {{kLevelArgument, LevelName(level)}};
    if (level == RecordedScope::Level::kLayer)
      arguments.insert({{kFlopsArgument, work.flops}, {kBytesArgument, work.bytes}, {kDtypeArgument, work.dtype}});
    event_->before(std::move(name), &arguments);
  }

  ScopeLog* const log_;
  size_t index_ = 0;  // in log_
  std::optional<at::RecordFunction> event_;
};

class StageScope : public ProfilerScope {
 public:
  explicit StageScope(const char* name) {
    if (recorded()) Begin(name, RecordedScope::Level::kStage);
  }
};

class ModuleScope : public ProfilerScope {
 public:
  explicit ModuleScope(const char* name) {
    if (recorded()) Begin(name, RecordedScope::Level::kModule);
  }
  // NAME.INDEX
  ModuleScope(const char* name, size_t index) {
    if (recorded()) Begin(StrCat(name, ".", index), RecordedScope::Level::kModule);
  }
};

class LayerScope : public ProfilerScope {
 public:
  // work(): LayerWork; asked only where the scope is recorded.
  template <typename Work>
  LayerScope(const char* name, const Work& work) {
    if (!recorded()) return;
    Begin(name, RecordedScope::Level::kLayer, work());
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
