#include "pipeline/engine/graph_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Says when it goes.
struct FakeGraph {
  std::string key;
  std::vector<std::string>* gone;
  ~FakeGraph() { gone->push_back(key); }
};

class GraphCacheTest : public ::testing::Test {
 protected:
  using Cache = GraphCache<FakeGraph>;
  Cache Make(int64_t bytes, size_t graphs = 32, int uses_before = 0) {
    return Cache({.bytes = bytes, .graphs = graphs, .uses_before = uses_before},
                 [this](const std::string& why) { warnings_.push_back(why); });
  }
  // The key's graph; "": none.
  std::string Use(Cache* cache, const std::string& key, int64_t bytes = 10) {
    const FakeGraph* const graph = cache->Use(key, bytes, [&](int64_t kept) {
      made_.push_back(key);
      kept_ = kept;
      return std::unique_ptr<FakeGraph>(new FakeGraph{key, &gone_});
    });
    return graph == nullptr ? "" : graph->key;
  }

  std::vector<std::string> made_, gone_, warnings_;
  int64_t kept_ = 0;  // by others, when the last one was made
};

TEST_F(GraphCacheTest, AKeyHasAGraphOnceItHasComeOften) {
  Cache cache = Make(100, 32, /*uses_before=*/2);
  EXPECT_EQ(Use(&cache, "a"), "");
  EXPECT_EQ(Use(&cache, "b"), "");
  EXPECT_EQ(Use(&cache, "a"), "");
  EXPECT_EQ(Use(&cache, "a"), "a");
  EXPECT_EQ(Use(&cache, "a"), "a");
  EXPECT_THAT(made_, ElementsAre("a"));
  EXPECT_EQ(cache.bytes(), 10);
}

// What whoever warms up counts on.
TEST_F(GraphCacheTest, AfterItsUsesToRecordAKeyHasItsGraph) {
  for (const int uses_before : {0, GraphLimits().uses_before, 5}) {
    const GraphLimits limits{.bytes = 100, .uses_before = uses_before};
    Cache cache(limits, nullptr);
    for (int use = 1; use < limits.uses_to_record(); ++use) EXPECT_EQ(Use(&cache, "a"), "");
    made_.clear();
    EXPECT_EQ(Use(&cache, "a"), "a");
    EXPECT_THAT(made_, ElementsAre("a"));  // and the next is a replay
  }
}

TEST_F(GraphCacheTest, ThoseNotUsedForLongestGoWhereBytesRunOut) {
  Cache cache = Make(30);
  for (const char* key : {"a", "b", "c", "a"}) Use(&cache, key);
  EXPECT_EQ(Use(&cache, "d", 20), "d");
  EXPECT_THAT(gone_, ElementsAre("b", "c"));
  EXPECT_EQ(kept_, 10);
  EXPECT_EQ(cache.bytes(), 30);
  EXPECT_EQ(Use(&cache, "a"), "a");
  EXPECT_THAT(made_, ElementsAre("a", "b", "c", "d"));
}

TEST_F(GraphCacheTest, NoMoreGraphsThanItsNumber) {
  Cache cache = Make(1000, /*graphs=*/2);
  for (const char* key : {"a", "b", "c"}) Use(&cache, key);
  EXPECT_THAT(gone_, ElementsAre("a"));
  EXPECT_EQ(cache.graphs(), 2u);
}

TEST_F(GraphCacheTest, WhatIsTooLargeIsNotMadeAndNobodyGoesForIt) {
  Cache cache = Make(30);
  Use(&cache, "a");
  EXPECT_EQ(Use(&cache, "large", 31), "");
  EXPECT_THAT(gone_, IsEmpty());
  EXPECT_THAT(made_, ElementsAre("a"));
}

TEST_F(GraphCacheTest, WhatCannotBeMadeIsTriedOnceAndOneWarningIsEnough) {
  Cache cache = Make(100);
  int tried = 0;
  const auto fail = [&](int64_t) -> std::unique_ptr<FakeGraph> {
    ++tried;
    throw std::runtime_error("not while recording");
  };
  for (const char* key : {"a", "a", "b"}) EXPECT_EQ(cache.Use(key, 10, fail), nullptr);
  EXPECT_EQ(tried, 2);
  EXPECT_THAT(warnings_, ElementsAre("not while recording"));
  EXPECT_EQ(cache.bytes(), 0);
  EXPECT_EQ(Use(&cache, "c"), "c");
}

TEST_F(GraphCacheTest, WhatCannotBeMadeNowIsTriedAgainLater) {
  Cache cache = Make(100, 32, /*uses_before=*/1);
  int tried = 0;
  const auto not_now = [&](int64_t) {
    ++tried;
    return std::unique_ptr<FakeGraph>();
  };
  for (int i = 0; i < 4; ++i) EXPECT_EQ(cache.Use("a", 10, not_now), nullptr);
  EXPECT_EQ(tried, 2);  // at every second use
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_EQ(cache.graphs(), 0u);
  EXPECT_EQ(Use(&cache, "a"), "");
  EXPECT_EQ(Use(&cache, "a"), "a");
}

TEST_F(GraphCacheTest, AShortageTakesAllOfThem) {
  Cache cache = Make(100);
  Use(&cache, "a");
  Use(&cache, "b");
  EXPECT_TRUE(cache.Clear());
  EXPECT_EQ(gone_.size(), 2u);
  EXPECT_EQ(cache.bytes(), 0);
  EXPECT_FALSE(cache.Clear());
  EXPECT_EQ(Use(&cache, "a"), "a");
}

TEST_F(GraphCacheTest, KeysThatComeOnceAreForgotten) {
  Cache cache({.bytes = 100, .graphs = 2, .uses_before = 1, .remembered = 3}, nullptr);
  Use(&cache, "kept");
  Use(&cache, "kept");
  for (int i = 0; i < 4; ++i) Use(&cache, std::to_string(i));
  EXPECT_EQ(Use(&cache, "kept"), "kept");
  for (int i = 10; i < 20; ++i) Use(&cache, std::to_string(i));
  EXPECT_EQ(Use(&cache, "0"), "");
}

}  // namespace
}  // namespace fresco
