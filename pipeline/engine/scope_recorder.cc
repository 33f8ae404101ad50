#include "pipeline/engine/scope_recorder.h"

#include "pipeline/base/scope_log.h"

namespace fresco {
namespace {

class ScopeRecorder final : public Recorder {
 public:
  explicit ScopeRecorder(const Clock* clock) : log_(clock) {}

  absl::Status Begin() override {
    log_.Open();
    return absl::OkStatus();
  }

  absl::StatusOr<Recording> End() override {
    log_.Close();
    Recording recording;
    recording.scopes = log_.Take();
    return recording;
  }

 private:
  ScopeLog log_;
};

}  // namespace

std::unique_ptr<Recorder> MakeScopeRecorder(const Clock* clock) {
  return std::make_unique<ScopeRecorder>(clock);
}

}  // namespace fresco
