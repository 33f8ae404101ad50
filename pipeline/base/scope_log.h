// What a thread computes, by the model's parts: those whose scopes it opens (precision/layer_scope.h), and when.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"

namespace fresco {

// A part of the model while a thread computed it.
struct RecordedScope {
  enum class Level { kStage, kModule, kLayer };
  Level level = Level::kStage;
  std::string name;  // within the scopes around it
  int64_t begin_ns = 0, end_ns = 0;
  // A layer's; 0 and empty otherwise.
  int64_t flops = 0;
  int64_t bytes = 0;
  std::string dtype;
};

// Of the thread that calls Open, until it calls Close; a thread has at most one open. Not for any other thread.
class ScopeLog {
 public:
  explicit ScopeLog(const Clock* clock) : clock_(clock) {}  // which outlives it
  ~ScopeLog() { Close(); }
  ScopeLog(const ScopeLog&) = delete;
  ScopeLog& operator=(const ScopeLog&) = delete;

  // What it had before is gone.
  void Open();
  // A scope that is open then has no end.
  void Close();
  // In the order in which they began. It has none after.
  std::vector<RecordedScope> Take();

  // For scopes. End takes what Begin gave.
  size_t Begin(RecordedScope scope);
  void End(size_t index) { scopes_[index].end_ns = NowNanoseconds(); }

  // The calling thread's open one; null: it has none.
  static ScopeLog* Current();

 private:
  int64_t NowNanoseconds() const;

  const Clock* const clock_;
  std::vector<RecordedScope> scopes_;
};

}  // namespace fresco
