#include "pipeline/diffusion/prompt_cache.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace fresco {
namespace {

PromptKey Key(const std::string& text) {
  return {text, text, text, 16, 0};
}

// Of `floats` * 4 bytes, texts aside.
std::shared_ptr<const PromptEmbedding> Embedding(int64_t floats) {
  auto embedding = std::make_shared<PromptEmbedding>();
  embedding->text = at::zeros({1, floats - 1, 1});
  embedding->pooled = at::zeros({1, 1});
  return embedding;
}

TEST(PromptCache, GivesBackWhatWasPutInAndCounts) {
  PromptCache cache(1 << 20);
  EXPECT_EQ(cache.Find(Key("a")), nullptr);
  const auto embedding = Embedding(10);
  cache.Insert(Key("a"), embedding);
  EXPECT_EQ(cache.Find(Key("a")), embedding);
  EXPECT_EQ(cache.Find(Key("b")), nullptr);
  EXPECT_EQ(cache.counts().hits, 1);
  EXPECT_EQ(cache.counts().misses, 2);
}

TEST(PromptCache, EveryPartOfTheKeyCounts) {
  PromptCache cache(1 << 20);
  const PromptKey key = {"a", "b", "c", 16, 0};
  cache.Insert(key, Embedding(4));
  for (const PromptKey& other :
       {PromptKey{"x", "b", "c", 16, 0}, PromptKey{"a", "x", "c", 16, 0}, PromptKey{"a", "b", "x", 16, 0},
        PromptKey{"a", "b", "c", 17, 0}, PromptKey{"a", "b", "c", 16, 1}, PromptKey{"b", "a", "c", 16, 0}})
    EXPECT_EQ(cache.Find(other), nullptr);
  EXPECT_NE(cache.Find(key), nullptr);
}

TEST(PromptCache, LetsTheLeastRecentlyUsedGo) {
  PromptCache cache(3 * (400 + 6));  // three embeddings of 100 floats, each under a key of three letters, held twice
  for (const char* text : {"a", "b", "c"}) cache.Insert(Key(text), Embedding(100));
  EXPECT_EQ(cache.counts().bytes, 3 * 406);
  EXPECT_NE(cache.Find(Key("a")), nullptr);  // now b is the oldest
  cache.Insert(Key("d"), Embedding(100));
  EXPECT_EQ(cache.Find(Key("b")), nullptr);
  EXPECT_NE(cache.Find(Key("a")), nullptr);
  EXPECT_NE(cache.Find(Key("c")), nullptr);
  EXPECT_NE(cache.Find(Key("d")), nullptr);
  EXPECT_EQ(cache.counts().bytes, 3 * 406);
}

TEST(PromptCache, ALargeOneTakesThePlaceOfSeveral) {
  PromptCache cache(3 * 406);
  for (const char* text : {"a", "b", "c"}) cache.Insert(Key(text), Embedding(100));
  cache.Insert(Key("d"), Embedding(200));
  EXPECT_EQ(cache.Find(Key("a")), nullptr);
  EXPECT_EQ(cache.Find(Key("b")), nullptr);
  EXPECT_NE(cache.Find(Key("c")), nullptr);
  EXPECT_LE(cache.counts().bytes, 3 * 406);
}

TEST(PromptCache, WhatIsLargerThanTheCacheIsNotKeptAndDisplacesNothing) {
  PromptCache cache(500);
  cache.Insert(Key("a"), Embedding(100));
  cache.Insert(Key("b"), Embedding(1000));
  EXPECT_EQ(cache.Find(Key("b")), nullptr);
  EXPECT_NE(cache.Find(Key("a")), nullptr);
}

TEST(PromptCache, AnEntryIsReplacedNotCountedTwice) {
  PromptCache cache(1 << 20);
  cache.Insert(Key("a"), Embedding(100));
  const auto second = Embedding(50);
  cache.Insert(Key("a"), second);
  EXPECT_EQ(cache.Find(Key("a")), second);
  EXPECT_EQ(cache.counts().bytes, 50 * 4 + 6);
}

TEST(PromptCache, OfNoBytesKeepsNothing) {
  PromptCache cache(0);
  cache.Insert(Key("a"), Embedding(1));
  EXPECT_EQ(cache.Find(Key("a")), nullptr);
  EXPECT_EQ(cache.counts().bytes, 0);
}

TEST(PromptCache, AnEmbeddingInUseOutlivesItsEntry) {
  PromptCache cache(500);
  cache.Insert(Key("a"), Embedding(100));
  const auto held = cache.Find(Key("a"));
  cache.Insert(Key("b"), Embedding(100));
  EXPECT_EQ(cache.Find(Key("a")), nullptr);
  EXPECT_EQ(held->text.numel(), 99);
}

}  // namespace
}  // namespace fresco
