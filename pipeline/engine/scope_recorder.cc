#include "pipeline/engine/scope_recorder.h"

#include <ATen/record_function.h>

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/engine/recorded_arguments.h"

namespace fresco {
namespace {

// What a thread's callbacks write to, which libtorch gives no place of their own. Null: nothing is recorded.
struct ScopeLog {
  const Clock* clock = nullptr;
  std::vector<RecordedScope> scopes;

  int64_t Now() const { return absl::ToUnixNanos(clock->Now()); }
};
thread_local ScopeLog* open_log = nullptr;

struct OpenScope final : at::ObserverContext {
  explicit OpenScope(size_t place) : index(place) {}
  const size_t index;  // in ScopeLog::scopes
};

std::unique_ptr<at::ObserverContext> OnBegin(const at::RecordFunction& function) {
  if (open_log == nullptr) return nullptr;
  std::optional<RecordedScope> scope = ScopeOf(function.name(), function.kwinputs());
  if (!scope) return nullptr;
  open_log->scopes.push_back(*std::move(scope));
  auto opened = std::make_unique<OpenScope>(open_log->scopes.size() - 1);
  open_log->scopes.back().begin_ns = open_log->Now();  // last: what has been done here is not the scope's
  return opened;
}

void OnEnd(const at::RecordFunction&, at::ObserverContext* context) {
  if (open_log == nullptr || context == nullptr) return;
  open_log->scopes[static_cast<OpenScope*>(context)->index].end_ns = open_log->Now();
}

class ScopeRecorder final : public Recorder {
 public:
  explicit ScopeRecorder(const Clock* clock) { log_.clock = clock; }
  ~ScopeRecorder() override { Stop(); }

  absl::Status Begin() override {
    log_.scopes.clear();
    open_log = &log_;
    handle_ =
        at::addThreadLocalCallback(at::RecordFunctionCallback(&OnBegin, &OnEnd).scopes({at::RecordScope::USER_SCOPE}));
    return absl::OkStatus();
  }

  absl::StatusOr<Recording> End() override {
    Stop();
    Recording recording;
    recording.scopes = std::exchange(log_.scopes, {});
    return recording;
  }

 private:
  void Stop() {
    if (handle_ == at::INVALID_CALLBACK_HANDLE) return;
    at::removeCallback(std::exchange(handle_, at::INVALID_CALLBACK_HANDLE));
    open_log = nullptr;
  }

  ScopeLog log_;
  at::CallbackHandle handle_ = at::INVALID_CALLBACK_HANDLE;
};

}  // namespace

std::unique_ptr<Recorder> MakeScopeRecorder(const Clock* clock) {
  return std::make_unique<ScopeRecorder>(clock);
}

}  // namespace fresco
