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

TEST(CatchTorch, OtherExceptionsAreInternal) {
  EXPECT_EQ(std::string(Thrown([] { throw std::runtime_error("boom"); }).message()), "doing: boom");
  EXPECT_EQ(Thrown([] { throw 3; }).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace fresco
