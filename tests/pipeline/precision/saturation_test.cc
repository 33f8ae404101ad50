#include "pipeline/precision/saturation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Names(const std::vector<SaturationCount::Layer>& layers) {
  std::vector<std::string> names;
  for (const auto& layer : layers) names.push_back(layer.name);
  return names;
}

TEST(SaturationCount, NamesTheLayersThatSaturateMost) {
  SaturationCount count;
  EXPECT_THAT(count.Worst(3), IsEmpty());
  count.Add("b", {.saturated = 5, .elements = 10});
  count.Add("a", {.saturated = 5, .elements = 1000});
  count.Add("sound", {.elements = 10});
  count.Add("guarded", {.guarded = 9, .elements = 10});
  count.Add("worst", {.saturated = 4, .elements = 10});
  count.Add("worst", {.saturated = 2, .guarded = 1, .elements = 10});
  EXPECT_THAT(Names(count.Worst(10)), ElementsAre("worst", "a", "b", "guarded"));
  EXPECT_THAT(Names(count.Worst(1)), ElementsAre("worst"));
  const SaturationCount::Activations worst = count.Worst(1).front().activations, total = count.Total();
  EXPECT_EQ(worst.saturated, 6);
  EXPECT_EQ(worst.elements, 20);
  EXPECT_EQ(total.saturated, 16);
  EXPECT_EQ(total.guarded, 10);
  EXPECT_EQ(total.elements, 1050);
}

TEST(SaturationCount, LosesNothingBetweenThreads) {
  SaturationCount count;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&count, i] {
      for (int n = 0; n < 1000; ++n) count.Add(std::to_string(i % 2), {.saturated = 1, .elements = 2});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count.Total().saturated, 4000);
  EXPECT_EQ(count.Worst(1).front().activations.saturated, 2000);
}

TEST(SaturationTally, IsOfItsThreadAndItsCountAlone) {
  SaturationCount count, another;
  count.Add("a", {.elements = 1});
  {
    const SaturationTally tally(&count);
    count.Add("a", {.saturated = 1, .elements = 10});
    count.Add("a", {.elements = 100});
    count.Add("b", {.elements = 5});
    another.Add("a", {.elements = 1000});
    std::thread([&] { count.Add("a", {.elements = 10000}); }).join();
    EXPECT_THAT(tally.elements(), ElementsAre(std::pair<const std::string, int64_t>("a", 110),
                                              std::pair<const std::string, int64_t>("b", 5)));
    {
      const SaturationTally inner(nullptr);
      count.Add("a", {.elements = 7});
      EXPECT_THAT(inner.elements(), IsEmpty());
    }
    EXPECT_EQ(tally.elements().at("a"), 110);
  }
  count.Add("a", {.elements = 1});
  EXPECT_EQ(count.Total().elements, 10124);
}

}  // namespace
}  // namespace fresco
