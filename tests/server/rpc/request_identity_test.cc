#include "server/rpc/request_identity.h"

#include "fresco/v1/image_generation.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

v1::GenerateRequest ACat() {
  v1::GenerateRequest request;
  request.set_prompt("a cat");
  request.set_steps(4);
  request.set_guidance_scale(2.5f);
  return request;
}

std::vector<std::string> Differing(const v1::GenerateRequest& a, const v1::GenerateRequest& b) {
  return DifferingFields(IdentityOf("Generate", "a", a), IdentityOf("Generate", "b", b));
}

TEST(RequestIdentityTest, WhatACallIsNamedIsNotWhatItAsksFor) {
  v1::GenerateRequest one = ACat(), two = ACat();
  one.set_request_id("one");
  EXPECT_THAT(Differing(one, two), IsEmpty());
}

TEST(RequestIdentityTest, FieldsThatDifferAreNamed) {
  v1::GenerateRequest other = ACat();
  other.set_prompt("a dog");
  EXPECT_THAT(Differing(ACat(), other), ElementsAre("prompt"));
  other.clear_steps();
  other.set_prompt_2("");  // set, and to nothing
  EXPECT_THAT(Differing(ACat(), other), UnorderedElementsAre("prompt", "steps", "prompt_2"));
  EXPECT_THAT(Differing(other, ACat()), UnorderedElementsAre("prompt", "steps", "prompt_2"));
}

TEST(RequestIdentityTest, AnUnsetSeedIsLikeAnotherUnsetSeedAndLikeNoOther) {
  v1::GenerateRequest zero = ACat();
  zero.set_seed(0);
  EXPECT_THAT(Differing(ACat(), ACat()), IsEmpty());
  EXPECT_THAT(Differing(ACat(), zero), ElementsAre("seed"));
  EXPECT_THAT(Differing(zero, zero), IsEmpty());
}

TEST(RequestIdentityTest, WhatOnlyANewerClientKnowsCountsToo) {
  v1::GenerateRequest newer = ACat();
  newer.GetReflection()->MutableUnknownFields(&newer)->AddVarint(4321, 1);
  EXPECT_THAT(Differing(newer, newer), IsEmpty());
  EXPECT_THAT(Differing(ACat(), newer), ElementsAre("fields that this server does not know"));
}

}  // namespace
}  // namespace fresco
