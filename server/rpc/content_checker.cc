#include "server/rpc/content_checker.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <optional>
#include <set>
#include <string>
#include <utility>

#include "fresco/v1/content_check.grpc.pb.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

constexpr size_t kMaxReason = 500;  // bytes
constexpr absl::Duration kAgain = absl::Seconds(5);

// Each text once, in the order of the images.
class Texts {
 public:
  explicit Texts(google::protobuf::RepeatedPtrField<std::string>* out) : out_(*out) {}
  void Add(const std::string& text) {
    if (!text.empty() && seen_.insert(text).second) *out_.Add() = text;
  }
  void Add(const std::optional<std::string>& text) {
    if (text.has_value()) Add(*text);
  }

 private:
  google::protobuf::RepeatedPtrField<std::string>& out_;
  std::set<std::string> seen_;
};

v1::CheckPromptRequest QuestionOf(const GenerationRequest& request) {
  v1::CheckPromptRequest question;
  question.set_tenant(request.tenant);
  question.set_request_id(request.id);
  question.set_model(request.model);
  Texts prompts(question.mutable_prompts()), negative(question.mutable_negative_prompts());
  for (const ImageSpec& image : request.images) {
    prompts.Add(image.prompt);
    prompts.Add(image.prompt_2);
    prompts.Add(image.prompt_3);
    negative.Add(image.negative_prompt);
    negative.Add(image.negative_prompt_2);
    negative.Add(image.negative_prompt_3);
  }
  return question;
}

// What an answer that did not come means.
absl::Status Unreachable(const ContentCheckConfig& config) {
  if (config.allow_when_unreachable) return absl::OkStatus();
  return WithRetryAfter(absl::UnavailableError("what checks prompts and pictures here does not answer"), kAgain);
}

std::string Reason(const std::string& given) {
  return given.empty() ? "no reason is given" : Excerpt(given, kMaxReason);
}

struct PromptCall {
  grpc::ClientContext context;
  v1::CheckPromptRequest question;
  v1::CheckPromptResponse answer;
};

}  // namespace

class ContentChecker::Impl {
 public:
  explicit Impl(const ContentCheckConfig& config)
      : stub_(
            v1::ContentCheckService::NewStub(grpc::CreateChannel(config.address, grpc::InsecureChannelCredentials()))) {
  }

  v1::ContentCheckService::Stub* stub() { return stub_.get(); }

  void Begin() {
    MutexLock lock(&mutex_);
    ++due_;
  }
  void End() {
    MutexLock lock(&mutex_);
    --due_;
    ended_.NotifyAll();
  }
  void AwaitAnswers() {
    MutexLock lock(&mutex_);
    while (due_ > 0) ended_.Wait(&mutex_);
  }

 private:
  const std::unique_ptr<v1::ContentCheckService::Stub> stub_;
  Mutex mutex_;
  CondVar ended_;
  int due_ FRESCO_GUARDED_BY(mutex_) = 0;  // answers
};

ContentChecker::ContentChecker(const ContentCheckConfig& config)
    : config_(config), impl_(std::make_unique<Impl>(config)) {}

ContentChecker::~ContentChecker() {
  AwaitAnswers();
}

void ContentChecker::AwaitAnswers() {
  impl_->AwaitAnswers();
}

void ContentChecker::CheckPrompt(const GenerationRequest& request, std::function<void(absl::Status)> done) {
  const auto call = std::make_shared<PromptCall>();
  call->question = QuestionOf(request);
  call->context.set_deadline(SystemTimeIn(config_.timeout));
  impl_->Begin();
  impl_->stub()->async()->CheckPrompt(
      &call->context, &call->question, &call->answer, [this, call, done = std::move(done)](const grpc::Status& status) {
        if (!status.ok()) {
          done(Unreachable(config_));
        } else if (!call->answer.allowed()) {
          done(InvalidRequest({{"prompt", StrCat("is not allowed here: ", Reason(call->answer.reason()))}}));
        } else {
          done(absl::OkStatus());
        }
        impl_->End();
      });
}

absl::Status ContentChecker::CheckPicture(const GenerationRequest& request, int image_index,
                                          const EncodedImage& picture) {
  v1::CheckPictureRequest question;
  question.set_tenant(request.tenant);
  question.set_request_id(request.id);
  question.set_model(request.model);
  question.set_image_index(image_index);
  question.set_mime_type(picture.mime_type);
  question.set_data(picture.bytes.str());
  grpc::ClientContext context;
  context.set_deadline(SystemTimeIn(config_.timeout));
  v1::CheckPictureResponse answer;
  const grpc::Status status = impl_->stub()->CheckPicture(&context, question, &answer);
  if (!status.ok()) return Unreachable(config_);
  if (answer.allowed()) return absl::OkStatus();
  return absl::PermissionDeniedError(StrCat("the picture is not handed out: ", Reason(answer.reason())));
}

}  // namespace fresco
