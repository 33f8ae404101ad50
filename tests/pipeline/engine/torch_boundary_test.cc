#include "pipeline/engine/torch_boundary.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

#include "absl/status/statusor.h"

namespace fresco {
namespace {

absl::Status Thrown(void (*thrower)()) {
  return CatchTorch("doing", [&] {
    thrower();
    return absl::OkStatus();
  });
}

TEST(CatchTorch, ResultsPass) {
  EXPECT_TRUE(CatchTorch("doing", [] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(CatchTorch("doing", [] { return absl::StatusOr<int>(3); }).value(), 3);
  EXPECT_EQ(CatchTorch("doing", [] { return absl::DataLossError("x"); }).code(), absl::StatusCode::kDataLoss);
}

TEST(CatchTorch, ErrorsOfLibtorchAreInternalAndOneLine) {
  const absl::Status status = Thrown([] { TORCH_CHECK(false, "shapes differ\nand more"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()), "doing: shapes differ");
}

TEST(CatchTorch, MemoryThatRanOutIsResourceExhausted) {
  EXPECT_EQ(Thrown([] { throw std::bad_alloc(); }).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Thrown([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory."); }).code(),
            absl::StatusCode::kResourceExhausted);
  // What libtorch really throws on the CPU, where a petabyte is more than there is.
  const absl::Status status = Thrown([] { at::empty({int64_t{1} << 50}); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

// Texts and numbers as CUDA 13's cudaGetErrorString and driver_types.h have them, in what libtorch throws.
TEST(CatchTorch, AContextThatIsLostIsAborted) {
  const absl::Status status = Thrown([] {
    TORCH_CHECK(false, "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(std::string(status.message()),
            "doing: the device's context is lost: CUDA error: an illegal memory access was encountered");
  const c10::SourceLocation here = {__func__, __FILE__, __LINE__};
  for (const int code : {214, 700, 702, 710, 714, 716, 719}) {
    const auto thrown = std::make_exception_ptr(c10::AcceleratorError(here, code, "CUDA error"));
    EXPECT_EQ(StatusFromException(thrown, "doing").code(), absl::StatusCode::kAborted) << code;
  }
}

TEST(CatchTorch, OtherErrorsOfADeviceAreNot) {
  const c10::SourceLocation here = {__func__, __FILE__, __LINE__};
  for (const int code : {1, 98, 101, 209}) {  // invalid value, device function, ordinal, no kernel image
    const auto thrown = std::make_exception_ptr(c10::AcceleratorError(here, code, "CUDA error: invalid argument"));
    EXPECT_EQ(StatusFromException(thrown, "doing").code(), absl::StatusCode::kInternal) << code;
  }
  EXPECT_EQ(Thrown([] { TORCH_CHECK(false, "tensor has a misaligned address"); }).code(), absl::StatusCode::kInternal);
}

TEST(CatchTorch, OtherExceptionsAreInternal) {
  EXPECT_EQ(std::string(Thrown([] { throw std::runtime_error("boom"); }).message()), "doing: boom");
  EXPECT_EQ(Thrown([] { throw 3; }).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace fresco
