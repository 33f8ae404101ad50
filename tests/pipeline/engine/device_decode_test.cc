// Decodes by graphs on a GPU, against launches one by one, and what threads beside each other do while one records;
// skipped where there is no GPU.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/decode_graphs.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/side_stream.h"
#include "pipeline/precision/cuda_kernels.h"

namespace fresco {
namespace {

const at::Device kGpu(at::kCUDA, 0);

class DeviceDecode : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    ASSERT_TRUE(CudaKernelsStatus().ok()) << CudaKernelsStatus();
  }

  static Autoencoder Load(VaeTiling tiling, VaePrecision precision = VaePrecision::kAuto) {
    VaeOptions options;
    options.tiling = tiling;
    options.tile_size = 128;
    options.precision = precision;
    return Autoencoder::Load("models/demo/vae", {kGpu, at::kBFloat16}, options).value();
  }

  at::Tensor Draw(int64_t samples, int64_t height, int64_t width) {
    return at::randn({samples, 16, height, width}, generator_, at::TensorOptions()).to(kGpu, at::kBFloat16);
  }

  // `count` times, whatever it finds out: the words of its first failure, or none.
  static std::string Repeat(int count, const std::function<void()>& work) {
    try {
      const c10::InferenceMode inference;
      const c10::DeviceGuard guard(kGpu);
      for (int i = 0; i < count; ++i) work();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  }

  const c10::InferenceMode inference_;
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(7);
};

TEST_F(DeviceDecode, PicturesByGraphsHaveTheBitsOfThoseWithout) {
  for (const auto& [tiling, precision] :
       {std::pair(VaeTiling::kNever, VaePrecision::kAuto), std::pair(VaeTiling::kAlways, VaePrecision::kAuto),
        std::pair(VaeTiling::kNever, VaePrecision::kFp8)}) {
    const Autoencoder vae = Load(tiling, precision);
    const auto graphs = DecodeGraphs::OnGpu(vae, int64_t{8} << 30, nullptr);
    ASSERT_NE(graphs, nullptr);
    for (int i = 0; i < 5; ++i) {
      const at::Tensor z = Draw(2, 24, 32), expected = vae.Decode(z);
      EXPECT_TRUE(at::equal(graphs->Decode(z), expected)) << i;
    }
    EXPECT_GT(graphs->bytes(), 0) << "no graph was recorded";
    EXPECT_TRUE(graphs->Drop());
  }
}

// The engine's two threads: previews on one, finished pictures on the other.
TEST_F(DeviceDecode, TwoStreamsMayUseThem) {
  const Autoencoder vae = Load(VaeTiling::kNever);
  const auto graphs = DecodeGraphs::OnGpu(vae, int64_t{8} << 30, nullptr);
  ASSERT_NE(graphs, nullptr);
  const at::Tensor here = Draw(1, 32, 32), there = Draw(1, 32, 32);
  const at::Tensor expected_here = vae.Decode(here), expected_there = vae.Decode(there);
  Synchronize(kGpu);
  std::atomic<int> wrong = 0;
  std::string failed;
  std::thread beside([&] {
    SideStream stream(kGpu);
    failed = Repeat(100, [&] {
      const SideStream::Scope scope(&stream);
      if (!at::equal(graphs->Decode(there), expected_there)) ++wrong;
    });
  });
  EXPECT_EQ(Repeat(100,
                   [&] {
                     if (!at::equal(graphs->Decode(here), expected_here)) ++wrong;
                   }),
            "");
  beside.join();
  EXPECT_EQ(failed, "");
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(graphs->bytes(), 0);
}

// Steps go on while a decode is recorded: their graphs are replayed, memory comes and goes, results are waited for.
TEST_F(DeviceDecode, RecordingDisturbsNobodyAndIsDisturbedByNobody) {
  const absl::StatusOr<std::unique_ptr<GraphMaker>> maker = MakeCudaGraphs(0, GraphPriority::kFirst);
  ASSERT_TRUE(maker.ok()) << maker.status();
  const at::Tensor counter = at::full({1024}, 0.0F, at::TensorOptions(kGpu));
  const std::unique_ptr<DeviceGraph> step = (*maker)->Capture([&] { counter.add_(1); });
  counter.zero_();
  std::atomic<bool> done = false;
  int replays = 0;
  std::string failed;
  std::thread steps([&] {
    while (!done && failed.empty()) {
      failed = Repeat(1, [&] {
        step->Replay();
        ++replays;
        const at::Tensor fresh = at::full({1 << (replays % 24)}, 1.0F, at::TensorOptions(kGpu));
        static_cast<void>(fresh.sum().item<float>());
        if (replays % 16 == 0) Synchronize(kGpu);
        if (replays % 16 == 8) CacheRelease{kGpu};
      });
    }
  });
  const Autoencoder vae = Load(VaeTiling::kNever);
  SideStream stream(kGpu);
  int recorded = 0;
  for (int round = 0; round < 10; ++round) {
    const SideStream::Scope scope(&stream);
    const auto graphs = DecodeGraphs::OnGpu(vae, int64_t{8} << 30, nullptr);
    const at::Tensor z = Draw(1, 32, 32), expected = vae.Decode(z);
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(graphs->Decode(z), expected));
    if (graphs->bytes() > 0) ++recorded;
  }
  done = true;
  steps.join();
  EXPECT_EQ(failed, "");
  EXPECT_EQ(recorded, 10);
  Synchronize(kGpu);
  EXPECT_EQ(counter[0].item<float>(), static_cast<float>(replays));
}

}  // namespace
}  // namespace fresco
