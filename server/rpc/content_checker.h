// Asks what a deployment has put beside the server to look at prompts and pictures
// (proto/fresco/v1/content_check.proto).
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "server/config/config.h"
#include "server/scheduler/events.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

// Thread-safe.
class ContentChecker {
 public:
  // Connects at the first question.
  explicit ContentChecker(const ContentCheckConfig& config);
  ~ContentChecker();

  // Returns when every `done` that is due has been called. Nobody asks any more.
  void AwaitAnswers();

  bool checks_prompts() const { return config_.prompts; }
  bool checks_pictures() const { return config_.pictures; }

  // Calls `done` once, from any thread and maybe at once: OK; INVALID_ARGUMENT, with the reason, for texts that are not
  // allowed; UNAVAILABLE where there was no answer and the configuration does not let that pass.
  void CheckPrompt(const GenerationRequest& request, std::function<void(absl::Status)> done);

  // The same of a picture, on this thread: PERMISSION_DENIED for one that is not allowed.
  absl::Status CheckPicture(const GenerationRequest& request, int image_index, const EncodedImage& picture);

 private:
  class Impl;
  const ContentCheckConfig config_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace fresco
