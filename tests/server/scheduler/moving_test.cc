// Images that move from one worker with the model that ships to another: their pictures are those of an undisturbed
// engine, bit for bit (fp32, CPU).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/mutex.h"
#include "tests/support/demo_model.h"
#include "tests/support/forwarding_engine.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;

// The picture that the encoder is given.
std::string Pixels(const Image& image) {
  return {image.rgb.begin(), image.rgb.end()};
}

// Of one device: a door before each step and one before each decode beside the steps, and what happens in a step.
struct Device {
  Gate gate;
  Gate decodes;
  Gate gone;              // passed when its engine is
  std::string lost_with;  // its context is lost in the step of the image of this prompt
  int lost_at = 0;        // that begins with so many steps done
  Mutex mutex;
  std::map<std::string, std::vector<int>> steps FRESCO_GUARDED_BY(mutex);  // made: by prompt, as they began

  std::vector<int> StepsOf(const std::string& prompt) {
    MutexLock lock(&mutex);
    return steps[prompt];
  }
};

class DemoEngine final : public ForwardingEngine {
 public:
  explicit DemoEngine(std::shared_ptr<Device> device) : ForwardingEngine(LoadDemo()), device_(std::move(device)) {}
  ~DemoEngine() override {
    Destroy();
    device_->gone.Pass();
  }

  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override {
    device_->gate.Pass();
    const bool lost = std::any_of(batch.begin(), batch.end(), [&](const ImageJob* job) {
      return job->spec().prompt == device_->lost_with && job->step() == device_->lost_at;
    });
    if (lost) return std::vector<absl::Status>(batch.size(), absl::AbortedError("the device's context is lost"));
    {
      MutexLock lock(&device_->mutex);
      for (const ImageJob* job : batch) device_->steps[job->spec().prompt].push_back(job->step());
    }
    return ForwardingEngine::Step(batch);
  }
  absl::StatusOr<Image> FinishBeside(ImageJob& job) override {
    device_->decodes.Pass();
    return ForwardingEngine::FinishBeside(job);
  }

 private:
  const std::shared_ptr<Device> device_;  // a thread that hangs outlives the test
};

class MovingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { alone_ = LoadDemo().release(); }
  static void TearDownTestSuite() { delete alone_; }

  // Of one type: a deterministic image goes on from where it was on no other. The second device is loaded when the
  // first has what is submitted first.
  void Start(const SchedulerOptions& options = {}) {
    harness_ = std::make_unique<SchedulerHarness>(
        options, [](const Image& image, const EncodeOptions&) -> absl::StatusOr<std::string> { return Pixels(image); });
    Load("cpu:a", a_);
    a_->gate.Close();
  }

  ~MovingTest() override {
    for (Device* device : {a_.get(), b_.get()}) {
      device->gate.Open();
      device->decodes.Open();
    }
  }

  void Load(const std::string& name, const std::shared_ptr<Device>& device) {
    const absl::Status loaded = harness_->Load("demo", name, [device]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<DemoEngine>(device);
    });
    ASSERT_TRUE(loaded.ok()) << loaded;
  }

  std::unique_ptr<EventReader> Submit(const std::string& id, const std::vector<ImageSpec>& specs,
                                      RequestPriority priority = RequestPriority::kStandard) {
    GenerationRequest request;
    request.id = id;
    request.model = "demo";
    request.images = specs;
    request.priority = priority;
    return harness_->Submit(std::move(request));
  }

  // By index.
  static std::map<int, ImageEvent> Pictures(EventReader* reader) {
    const std::vector<RequestEvent> events = reader->Rest();
    EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
    std::map<int, ImageEvent> pictures;
    for (ImageEvent& image : EventsOf<ImageEvent>(events)) pictures[image.image_index] = std::move(image);
    return pictures;
  }

  static void ExpectUndisturbed(const std::map<int, ImageEvent>& pictures, const std::vector<ImageSpec>& specs) {
    ASSERT_EQ(pictures.size(), specs.size());
    for (size_t i = 0; i < specs.size(); ++i) {
      EXPECT_TRUE(pictures.at(static_cast<int>(i)).image.bytes == Undisturbed(specs[i])) << "image " << i;
    }
  }

  // The call of the first device that stands before a door, its only one, takes too long, and the device is given up.
  void LetItHang() {
    const absl::Duration floor = WatchdogOptions().floor;
    harness_->clock.AwaitWaiter(harness_->clock.Now() + floor);
    harness_->clock.Advance(floor);
  }

  // The call that was given up goes on by itself: it is not to be in libtorch when the process ends.
  void AwaitTheHung() {
    harness_->scheduler.reset();
    a_->gate.Open();
    a_->decodes.Open();
    a_->gone.AwaitPassed(1);
  }

  static std::string Undisturbed(const ImageSpec& spec) {
    const auto job = alone_->Prepare(spec).value();
    while (!job->done()) {
      for (const absl::Status& status : alone_->Step({job.get()})) EXPECT_TRUE(status.ok()) << status;
    }
    return Pixels(alone_->Finish(*job).value());
  }

  // They share steps, and are done at different times.
  const std::vector<ImageSpec> long_and_short_ = {DeterministicSpec("a robot", 64, 96, 12, 3, 3),
                                                  DeterministicSpec("a red apple", 64, 96, 2, 4, 1),
                                                  DeterministicSpec("a fox", 96, 64, 4, 1, 2)};
  static Engine* alone_;
  const std::shared_ptr<Device> a_ = std::make_shared<Device>(), b_ = std::make_shared<Device>();
  std::unique_ptr<SchedulerHarness> harness_;
};
Engine* MovingTest::alone_ = nullptr;

class LostTest : public MovingTest, public ::testing::WithParamInterface<int> {};

TEST_P(LostTest, AnImageWhoseDeviceIsLostIsTheSamePicture) {
  Start();
  const ImageSpec spec = DeterministicSpec("a red apple on a white background", 64, 96, 4, 4, 1);
  a_->lost_with = spec.prompt;
  a_->lost_at = GetParam();
  const auto reader = Submit("x", {spec});
  a_->gate.AwaitBlocked();
  Load("cpu:b", b_);
  a_->gate.Open();
  const std::map<int, ImageEvent> pictures = Pictures(reader.get());
  ExpectUndisturbed(pictures, {spec});
  EXPECT_EQ(pictures.at(0).provenance.device, "cpu:b");
  // It has gone on, and not begun again.
  EXPECT_THAT(a_->StepsOf(spec.prompt), SizeIs(static_cast<size_t>(GetParam())));
  EXPECT_THAT(b_->StepsOf(spec.prompt), SizeIs(static_cast<size_t>(spec.steps - GetParam())));
}

// Its first step is decided while there is no other device, and so leaves no copy.
INSTANTIATE_TEST_SUITE_P(Steps, LostTest, ::testing::Values(0, 2, 3));

// They have shared steps, and are of two sizes and with and without guidance.
TEST_F(MovingTest, AWholeBatchWhoseDeviceIsLostIsTheSamePictures) {
  Start();
  const std::vector<ImageSpec> specs = {DeterministicSpec("a fox", 96, 64, 6, 1, 2),
                                        DeterministicSpec("a robot", 64, 96, 5, 0, 5),
                                        DeterministicSpec("a red apple", 64, 96, 4, 4, 3)};
  a_->lost_with = "a fox";
  a_->lost_at = 2;
  const auto reader = Submit("x", specs);
  a_->gate.AwaitBlocked();
  Load("cpu:b", b_);
  a_->gate.Open();
  ExpectUndisturbed(Pictures(reader.get()), specs);
  // The third has gone to the other device, which was free, before the first was lost.
  EXPECT_EQ(harness_->observer.counts()["demo moved from cpu:a"], 2);
}

TEST_F(MovingTest, AnImageWhoseDeviceHangsIsTheSamePicture) {
  Start();
  const ImageSpec spec = DeterministicSpec("a sunflower", 64, 64, 5, 2.5, 4);
  const auto reader = Submit("x", {spec});
  a_->gate.AwaitBlocked();
  Load("cpu:b", b_);
  a_->gate.Allow(2);
  a_->gate.AwaitArrivals(3);
  LetItHang();
  const std::map<int, ImageEvent> pictures = Pictures(reader.get());
  ExpectUndisturbed(pictures, {spec});
  EXPECT_EQ(pictures.at(0).provenance.device, "cpu:b");
  EXPECT_THAT(b_->StepsOf(spec.prompt), ElementsAre(2, 3, 4));
  AwaitTheHung();
}

TEST_F(MovingTest, AnImageWhoseDecoderHangsIsTheSamePicture) {
  SchedulerOptions options;
  options.decoding = Decoding::kBesideSteps;
  options.watchdog.first = options.watchdog.floor;
  Start(options);
  const ImageSpec spec = DeterministicSpec("a sunflower", 64, 64, 4, 2.5, 4);
  const auto reader = Submit("x", {spec});
  a_->gate.AwaitBlocked();
  Load("cpu:b", b_);
  a_->decodes.Close();
  a_->gate.Open();
  a_->decodes.AwaitBlocked();
  LetItHang();
  const std::map<int, ImageEvent> pictures = Pictures(reader.get());
  ExpectUndisturbed(pictures, {spec});
  EXPECT_EQ(pictures.at(0).provenance.device, "cpu:b");
  EXPECT_THAT(b_->StepsOf(spec.prompt), ElementsAre(3));  // the last is made once more
  AwaitTheHung();
}

// Preempted on the one, for one that is more urgent, and free to go on on the other.
TEST_F(MovingTest, AnImageThatMakesRoomAndGoesOnElsewhereIsTheSamePicture) {
  SchedulerOptions options;
  options.max_batch = 1;
  options.max_resident = 1;
  Start(options);
  const ImageSpec spec = DeterministicSpec("a red apple", 64, 96, 6, 4, 1);
  const ImageSpec urgent = DeterministicSpec("a fox", 96, 96, 3, 1, 2);
  const auto reader = Submit("x", {spec}, RequestPriority::kBatch);
  a_->gate.AwaitBlocked();
  a_->gate.Allow(1);
  a_->gate.AwaitArrivals(2);
  const auto other = Submit("urgent", {urgent}, RequestPriority::kInteractive);
  a_->gate.Allow(1);
  a_->gate.AwaitArrivals(3);  // the urgent one's first step: the image has been parked
  Load("cpu:b", b_);
  const std::map<int, ImageEvent> pictures = Pictures(reader.get());
  ExpectUndisturbed(pictures, {spec});
  EXPECT_EQ(pictures.at(0).provenance.device, "cpu:b");
  EXPECT_THAT(b_->StepsOf(spec.prompt), SizeIs(4));
  a_->gate.Open();
  ExpectUndisturbed(Pictures(other.get()), {urgent});
  EXPECT_THAT(harness_->observer.counts(),
              AllOf(Contains(Pair("demo preempted on cpu:a", 1)), Not(Contains(Pair("lost cpu:a", 1)))));
}

TEST_F(MovingTest, ARequestSpreadOverTwoDevicesOfWhichOneIsLostIsTheSamePictures) {
  SchedulerOptions options;
  options.max_batch = 1;
  Start(options);
  const std::vector<ImageSpec> specs = {DeterministicSpec("a red apple", 64, 96, 5, 4, 1),
                                        DeterministicSpec("a fox", 96, 96, 5, 1, 2),
                                        DeterministicSpec("a robot", 64, 64, 5, 3, 3)};
  a_->lost_with = "a red apple";
  a_->lost_at = 3;
  const auto reader = Submit("x", specs);
  a_->gate.AwaitBlocked();
  Load("cpu:b", b_);
  a_->gate.Open();
  ExpectUndisturbed(Pictures(reader.get()), specs);
}

// Their bytes do not depend on where they are decoded.
TEST_F(MovingTest, PicturesThatAreDecodedBetweenStepsAreTheSame) {
  SchedulerOptions options;
  options.decoding = Decoding::kBetweenSteps;
  Start(options);
  const auto reader = Submit("x", long_and_short_);
  a_->gate.Open();
  ExpectUndisturbed(Pictures(reader.get()), long_and_short_);
}

TEST_F(MovingTest, PicturesThatAreDecodedBesideStepsAreTheSame) {
  SchedulerOptions options;
  options.decoding = Decoding::kBesideSteps;
  Start(options);
  a_->decodes.Close();
  const auto reader = Submit("x", long_and_short_);
  // The third step, of those that are not done, and the decode of the one that is begin together.
  a_->gate.Allow(2);
  a_->gate.AwaitArrivals(3);
  a_->decodes.AwaitArrivals(1);
  a_->decodes.Open();
  a_->gate.Open();
  ExpectUndisturbed(Pictures(reader.get()), long_and_short_);
  a_->decodes.AwaitPassed(3);
}

}  // namespace
}  // namespace fresco
