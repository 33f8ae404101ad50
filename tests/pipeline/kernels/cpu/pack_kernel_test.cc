#include "pipeline/kernels/cpu/pack_kernel.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "tests/pipeline/kernels/cpu/every_target.h"

namespace fresco::kernels {
namespace {

class PackKernel : public EveryTarget {};
INSTANTIATE_TEST_SUITE_P(Targets, PackKernel, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()), TargetOf);

TEST_P(PackKernel, PairsAreWhereTheyBelong) {
  std::mt19937 random(3);
  for (const size_t columns : {1u, 7u, 8u, 16u, 29u, 64u}) {
    for (const size_t terms : {2u, 6u, 8u, 30u, 64u, 258u}) {
      const size_t stride = terms + 3;
      // The codes end where their memory does; one more byte behind the pairs is not to be written to.
      std::vector<uint8_t> codes((columns - 1) * stride + terms), pairs(columns * terms + 1, 0xaa);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
      PackPairs(codes.data(), stride, columns, terms, pairs.data());
      for (size_t column = 0; column < columns; ++column) {
        for (size_t term = 0; term < terms; ++term)
          ASSERT_EQ(pairs[term / 2 * 2 * columns + 2 * column + term % 2], codes[column * stride + term])
              << column << " of " << columns << ", " << term << " of " << terms;
      }
      EXPECT_EQ(pairs.back(), 0xaa);
    }
  }
}

}  // namespace
}  // namespace fresco::kernels
