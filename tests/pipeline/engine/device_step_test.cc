// A step on a GPU: that it waits for nothing, its fused kernel against the CPU, and graphs against launches one by one;
// skipped where there is no GPU.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/precision/cuda_kernels.h"

namespace fresco {
namespace {

const at::Device kGpu(at::kCUDA, 0);

class DeviceStep : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    ASSERT_TRUE(CudaKernelsStatus().ok()) << CudaKernelsStatus();
  }

  at::Tensor Random(at::IntArrayRef shape, at::ScalarType type = at::kBFloat16) {
    return at::randn(shape, generator_, at::TensorOptions()).to(type);
  }

  // Guided, of the demo model.
  std::unique_ptr<DiffusionJob> Job(const Mmdit& transformer, uint64_t id, int steps) {
    const MmditConfig& config = transformer.config();
    const auto text = [&] {
      auto made = std::make_shared<PromptEmbedding>();
      made->text = Random({1, 45, config.joint_attention_dim}).to(kGpu);
      made->pooled = Random({1, config.pooled_projection_dim}).to(kGpu);
      return made;
    };
    ImageSpec spec;
    spec.width = spec.height = 128;
    spec.steps = steps;
    spec.guidance_scale = 4.5F;
    DiffusionState state;
    state.schedule = MakeSchedule({1000, 3.0}, steps);
    state.positive = text();
    state.negative = text();
    state.latents = Random({1, config.in_channels, 16, 16}).to(kGpu);
    return std::make_unique<DiffusionJob>(id, spec, std::move(state));
  }

  static Mmdit Demo() {
    return Mmdit::Load("models/demo/transformer", {kGpu, at::kBFloat16}, LayerTable::ForTransformer("fp8")).value();
  }

  static at::Tensor Drawn(Denoiser& denoiser, DiffusionJob& job) {
    denoiser.Begin(&job.state());
    while (!job.done())
      for (const absl::Status& status : denoiser.Step({&job})) EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(Denoiser::Settle(job).ok());
    return job.state().latents.to(at::kCPU, at::kFloat);
  }

  const c10::InferenceMode inference_;
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(5);
};

TEST_F(DeviceStep, TheFusedUpdateHasTheCpusBits) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor latents = Random({1, 16, 33, 7}, type), u = Random({1, 16, 33, 7}, type),
                     t = Random({1, 16, 33, 7}, type);
    const at::Tensor here = at::zeros({}), there = at::zeros({}, at::TensorOptions(kGpu));
    for (const bool guided : {true, false}) {
      const SamplingUpdate cpu = GuidedEulerStep(latents, guided ? u : at::Tensor(), t, 4.5F, {0.9F, 0.8F}, here);
      const SamplingUpdate gpu =
          GuidedEulerStep(latents.to(kGpu), guided ? u.to(kGpu) : at::Tensor(), t.to(kGpu), 4.5F, {0.9F, 0.8F}, there);
      EXPECT_TRUE(at::equal(gpu.latents.to(at::kCPU), cpu.latents)) << type << guided;
      EXPECT_TRUE(at::equal(gpu.velocity.to(at::kCPU), cpu.velocity)) << type << guided;
    }
    EXPECT_EQ(there.item<float>(), 0);
    at::Tensor bad = t.clone();
    bad.view({-1}).select(0, 100).fill_(std::numeric_limits<float>::quiet_NaN());
    GuidedEulerStep(latents.to(kGpu), u.to(kGpu), bad.to(kGpu), 4.5F, {0.9F, 0.8F}, there);
    EXPECT_NE(there.item<float>(), 0);
  }
}

// The device has seconds of other work before it; a step that asked it for anything would have waited for that.
TEST_F(DeviceStep, ReturnsBeforeTheDeviceHasBegunIt) {
  const Mmdit transformer = Demo();
  Denoiser denoiser(transformer, {.look_later = true, .modulations_ahead = ByteAllowance::Of(int64_t{1} << 30)});
  const auto job = Job(transformer, 1, 6);
  denoiser.Begin(&job->state());
  for (int step = 0; step < 4; ++step) ASSERT_TRUE(denoiser.Step({job.get()}).front().ok());
  ASSERT_TRUE(Denoiser::Settle(*job).ok());
  job->state().pending = {};
  const at::Tensor large = Random({16384, 16384}).to(kGpu);
  at::Tensor product = at::mm(large, large);
  for (int i = 0; i < 100; ++i) at::mm_out(product, large, large);
  const c10::impl::VirtualGuardImpl cuda(at::kCUDA);
  ASSERT_FALSE(cuda.queryStream(cuda.getStream(kGpu)));
  ASSERT_TRUE(denoiser.Step({job.get()}).front().ok());
  EXPECT_FALSE(cuda.queryStream(cuda.getStream(kGpu)));
  EXPECT_TRUE(Denoiser::Settle(*job).ok());
}

// By the device's clock: the calls return at once, or with the step before.
TEST_F(DeviceStep, EachStepHasATimeOfItsOwn) {
  const Mmdit transformer = Demo();
  Denoiser denoiser(transformer, {.look_later = true});
  const auto one = Job(transformer, 1, 4), other = Job(transformer, 2, 4);
  for (DiffusionJob* const job : {one.get(), other.get(), one.get()}) {
    if (job->step() == 0) denoiser.Begin(&job->state());
    ASSERT_TRUE(denoiser.Step({job}).front().ok());
  }
  EXPECT_EQ(denoiser.last_step(), 3u);
  std::vector<StepTime> times = denoiser.TakeStepTimes(/*wait=*/false);
  ASSERT_EQ(times.size(), 2u);
  for (const StepTime& time : denoiser.TakeStepTimes(/*wait=*/true)) times.push_back(time);
  ASSERT_EQ(times.size(), 3u);
  for (size_t i = 0; i < times.size(); ++i) {
    EXPECT_EQ(times[i].step, i + 1);
    EXPECT_GT(times[i].seconds, 0);
    EXPECT_LT(times[i].seconds, 60);
  }
  EXPECT_TRUE(denoiser.TakeStepTimes(/*wait=*/true).empty());
}

TEST_F(DeviceStep, PicturesByGraphsAndWithModulationsAheadAreThoseWithout) {
  const Mmdit transformer = Demo();
  constexpr int kSteps = 12;
  Denoiser plain(transformer);
  const auto expected_job = Job(transformer, 1, kSteps);
  const DiffusionState begun = expected_job->state();
  const at::Tensor expected = Drawn(plain, *expected_job);
  const auto graphs = ForwardGraphs::OnGpu(transformer, int64_t{1} << 30, nullptr);
  ASSERT_NE(graphs, nullptr);
  Denoiser fast(transformer,
                {.look_later = true, .modulations_ahead = ByteAllowance::Of(int64_t{1} << 30), .graphs = graphs});
  DiffusionJob job(2, expected_job->spec(), begun);
  const at::Tensor drawn = Drawn(fast, job);
  EXPECT_GT(graphs->bytes(), 0) << "no graph was recorded";
  EXPECT_LT(at::linalg_vector_norm(drawn - expected).item<double>(),
            0.02 * at::linalg_vector_norm(expected).item<double>());
  EXPECT_TRUE(graphs->Drop());
}

TEST_F(DeviceStep, WithinABudgetGraphsGiveTheirMemoryBack) {
  const Mmdit transformer = Demo();
  const SystemClock clock;
  const auto held = [] { return MemoryUseOf(kGpu).allocated_bytes; };
  const auto budget = std::make_shared<MemoryBudget>(held() + (int64_t{1} << 30), &clock);
  const auto graphs = ForwardGraphs::OnGpu(transformer, int64_t{1} << 30, nullptr, budget);
  ASSERT_NE(graphs, nullptr);
  {
    Denoiser denoiser(transformer, {.look_later = true, .graphs = graphs});
    Drawn(denoiser, *Job(transformer, 1, 6));
  }
  EXPECT_GT(graphs->bytes(), 0) << "no graph was recorded";
  EXPECT_EQ(budget->overdrafts(), 0);
  { const CacheRelease release(kGpu); }
  const int64_t before = MemoryOf(kGpu).free_bytes;
  EXPECT_TRUE(budget->MakeRoom(budget->bytes() - held(), held).fits());
  EXPECT_EQ(graphs->bytes(), 0);
  EXPECT_GT(MemoryOf(kGpu).free_bytes, before);
}

TEST_F(DeviceStep, WhatCannotBeRecordedLeavesTheDeviceUsable) {
  const absl::StatusOr<std::unique_ptr<GraphMaker>> maker = MakeCudaGraphs(0, GraphPriority::kFirst);
  ASSERT_TRUE(maker.ok()) << maker.status();
  const at::Tensor values = Random({64}).to(kGpu), sum = at::zeros({}, at::TensorOptions(kGpu));
  int calls = 0;
  const auto waits = [&] {
    sum.copy_(values.to(at::kFloat).sum());
    if (++calls == 2) sum.item<float>();
  };
  EXPECT_ANY_THROW((*maker)->Capture(waits));
  const std::unique_ptr<DeviceGraph> graph = (*maker)->Capture([&] { sum.copy_(values.to(at::kFloat).sum()); });
  values.fill_(2);
  graph->Replay();
  EXPECT_EQ(sum.item<float>(), 128);
}

}  // namespace
}  // namespace fresco
