#include "pipeline/engine/gpu_allocator.h"

#include <c10/core/AllocatorConfig.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "pipeline/engine/device.h"

namespace fresco {
namespace {

using Config = c10::CachingAllocator::AcceleratorAllocatorConfig;

TEST(GpuAllocator, IsTheOperatorsWhoHasSetAnythingOfIt) {
  EXPECT_TRUE(LeavesAllocatorToUs(nullptr, nullptr));
  EXPECT_FALSE(LeavesAllocatorToUs("expandable_segments:False", nullptr));
  EXPECT_FALSE(LeavesAllocatorToUs(nullptr, "max_split_size_mb:512"));
  EXPECT_FALSE(LeavesAllocatorToUs("", nullptr));
}

// A limit of memory is set after the segments' kind, and libtorch forgets what is not said again.
TEST(GpuAllocator, OneSettingLeavesTheOthers) {
  AddAllocatorSetting("max_split_size_mb:100");
  AddAllocatorSetting("expandable_segments:True");
  AddAllocatorSetting("garbage_collection_threshold:0.5");
  EXPECT_EQ(Config::max_split_size(), size_t{100} << 20);
  EXPECT_TRUE(Config::use_expandable_segments());
  EXPECT_EQ(Config::garbage_collection_threshold(), 0.5);
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:False");
}

TEST(GpuAllocator, GrowsItsSegmentsOnAGpu) {
  const auto device = PrepareDevice("cuda:0", 0);
  if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
  if (!LeavesAllocatorToUs(std::getenv("PYTORCH_ALLOC_CONF"), std::getenv("PYTORCH_CUDA_ALLOC_CONF")))
    GTEST_SKIP() << "the environment sets it";
  EXPECT_TRUE(Config::use_expandable_segments());
}

// Whoever asks for a GPU that is not there changes nothing.
TEST(GpuAllocator, IsLeftAloneWithoutADriver) {
  if (PrepareDevice("cuda:0", 0).ok()) GTEST_SKIP() << "there is a GPU";
  GrowGpuSegments(at::Device(at::kCUDA, 0));
  EXPECT_FALSE(Config::use_expandable_segments());
}

}  // namespace
}  // namespace fresco
