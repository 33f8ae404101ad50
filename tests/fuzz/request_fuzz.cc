// Requests as the bytes that gRPC carries: what is accepted is within every limit, what is refused is said with fields
// that the caller knows, in a status that fits into HTTP/2 headers.
#include <google/protobuf/descriptor.h>
#include <grpcpp/impl/grpc_library.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fresco/v1/image_generation.pb.h"
#include "pipeline/base/utf8.h"
#include "pipeline/engine/picture_metadata.h"
#include "server/rpc/request_identity.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/rpc/wire_bytes.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

constexpr uint64_t kRandom = 0xfeedfacecafef00d;

// Knows what the model is, and draws nothing.
class DescribedEngine final : public Engine {
 public:
  DescribedEngine(ModelInfo info, absl::Status verdict) : info_(std::move(info)), verdict_(std::move(verdict)) {}

  const ModelInfo& info() const override { return info_; }
  absl::Status Validate(const ImageSpec& /*spec*/) const override { return verdict_; }

  EngineStats stats() const override { return {}; }
  int64_t TakePeakBytes() override { return 0; }
  DeviceMemory MemoryOfDevice() override { return {}; }
  std::string BatchKey(const ImageSpec& /*spec*/) const override { return ""; }
  ImageLoad LoadOf(const ImageSpec& /*spec*/) const override { return {}; }
  std::vector<int> TextsToEncode(absl::Span<const ImageSpec* const> /*specs*/) const override { return {}; }
  absl::StatusOr<std::unique_ptr<ImageJob>> Prepare(const ImageSpec& /*spec*/) override { return None(); }
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> /*specs*/,
                                                                    TextCache /*cache*/) override {
    return {};
  }
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> /*batch*/) override { return {}; }
  absl::StatusOr<Image> Preview(const ImageJob& /*job*/, int /*max_side*/) override { return None(); }
  absl::StatusOr<Image> Finish(ImageJob& /*job*/) override { return None(); }
  absl::Status Park(ImageJob& /*job*/) override { return None(); }
  absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& /*job*/) override { return None(); }
  absl::Status Resume(ImageJob& /*job*/) override { return None(); }

 private:
  static absl::Status None() { return absl::UnimplementedError("it only describes a model"); }

  const ModelInfo info_;
  const absl::Status verdict_;
};

// The server that a request comes to.
struct Server {
  explicit Server(uint8_t choice) {
    if ((choice & 2) != 0)
      limits = {.max_width = 100, .max_height = 40, .max_steps = 10, .max_image_count = 2, .max_prompt_bytes = 16};
    ModelInfo info;
    info.name = "demo";
    if ((choice & 4) != 0) info.max_sequence_length_limit = 0;
    absl::Status verdict;
    if ((choice & 8) != 0) verdict = absl::InvalidArgumentError("prompt: is too long; width: is odd; and more");
    engine = std::make_unique<DescribedEngine>(info, verdict);
  }

  RequestLimits limits;
  std::unique_ptr<Engine> engine;
};

void CheckImage(const ImageSpec& spec, const Server& server) {
  const ModelInfo& info = server.engine->info();
  const RequestLimits& limits = server.limits;
  const auto side = [&](int value, int limit) {
    return value > 0 && value <= std::min(limit, info.max_size) && value % info.size_multiple == 0;
  };
  Check(side(spec.width, limits.max_width) && side(spec.height, limits.max_height), "a size beyond the limits");
  Check(spec.steps >= 1 && spec.steps <= limits.max_steps, "steps beyond the limits");
  Check(std::isfinite(spec.guidance_scale) && spec.guidance_scale >= 0 && spec.guidance_scale <= 30,
        "a guidance of no number");
  Check(spec.max_sequence_length >= 1 && spec.max_sequence_length <= 512, "a sequence beyond the limits");
  Check(spec.clip_skip >= 0 && spec.clip_skip <= 10, "clip_skip beyond the limits");
  for (const std::string& text :
       {spec.prompt, spec.negative_prompt, spec.prompt_2.value_or(""), spec.prompt_3.value_or("")}) {
    Check(IsUtf8(text) && text.size() <= static_cast<size_t>(limits.max_prompt_bytes), "a prompt beyond the limits");
  }
}

// What is written into a picture of it.
void CheckMetadata(const ImageSpec& spec, const Server& server) {
  ImageProvenance provenance = ProvenanceOf(server.engine->info(), "fresco");
  provenance.spec = spec;
  for (const auto& [key, value] : PictureMetadata(provenance, {})) {
    Check(!key.empty() && IsUtf8(value), "a picture's parameters that are no text");
  }
}

void CheckAccepted(const GenerationRequest& request, const Server& server) {
  const size_t images = request.images.size();
  Check(images >= 1 && images <= static_cast<size_t>(server.limits.max_image_count), "images beyond the limits");
  for (size_t i = 0; i < images; ++i) {
    CheckImage(request.images[i], server);
    Check(request.images[i].seed == request.images[0].seed + i, "a seed that is not the next");
  }
  CheckMetadata(request.images.front(), server);
  Check(IsRequestId(request.id) && request.model == "demo", "a request of no name, or no model");
  Check(request.encode.quality >= 1 && request.encode.quality <= 100 && request.preview_every >= 0,
        "an encoding beyond the limits");
}

void CheckRefused(const absl::Status& status, const google::protobuf::Descriptor& type, bool parsed) {
  Check(absl::IsInvalidArgument(status), "refused as something else:", status.ToString());
  const std::vector<FieldViolation> violations = ViolationsOf(status);
  Check(!parsed || !violations.empty(), "a request is refused, and no field of it");
  for (const FieldViolation& violation : violations) {
    Check(type.FindFieldByName(violation.field) != nullptr, "a field that the request has not:", violation.field);
    Check(IsUtf8(violation.description) && !violation.description.empty(), "a field is refused without a word");
  }
  const grpc::Status answer = ToGrpcStatus(status);
  // Both travel in headers, of which clients take 8 KiB: the message percent-encoded, the details in base64.
  Check(IsUtf8(answer.error_message()), "a message that is not UTF-8");
  Check(3 * answer.error_message().size() + 4 * answer.error_details().size() / 3 < 7000,
        "a status that is too long:", answer.error_message());
}

template <typename Request, typename Validate>
void CheckRequest(const grpc::ByteBuffer& bytes, const Server& server, Validate validate) {
  Request request;
  const auto bad_texts = ParseRequest(bytes, &request);
  if (!bad_texts.ok()) return CheckRefused(bad_texts.status(), *Request::descriptor(), /*parsed=*/false);
  const auto random = [] { return kRandom; };
  const auto validated = WithEarlier(*bad_texts, validate(request, *server.engine, server.limits, random));
  if (!validated.ok()) return CheckRefused(validated.status(), *Request::descriptor(), /*parsed=*/true);
  CheckAccepted(*validated, server);
  Request again;
  Check(ParseRequest(ToBytes(request), &again).ok(), "a request that cannot be sent on");
  Check(DifferingFields(IdentityOf("", "", request), IdentityOf("", "", again)).empty(), "a request that is another");
  const auto same = validate(again, *server.engine, server.limits, random);
  Check(same.ok() && same->images == validated->images && same->id == validated->id,
        "a request that changes on its way");
}

// As it comes in, in pieces.
grpc::ByteBuffer BufferOf(std::string_view bytes, size_t first) {
  first = std::min(first, bytes.size());
  const grpc::Slice slices[] = {grpc::Slice(bytes.data(), first),
                                grpc::Slice(bytes.data() + first, bytes.size() - first)};
  return grpc::ByteBuffer(slices, 2);
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static grpc::internal::GrpcLibraryInitializer library;
  library.summon();
  Input input(data, size);
  const uint8_t choice = input.Byte(), first = input.Byte();
  const Server server(choice);
  const grpc::ByteBuffer bytes = BufferOf(input.rest(), first);
  if ((choice & 1) != 0) {
    CheckRequest<v1::CreateImageRequest>(bytes, server, ValidateCreateImage);
  } else {
    CheckRequest<v1::GenerateRequest>(bytes, server, ValidateGenerate);
  }
  return 0;
}
