// Weights that are brought to a device piece by piece: the same as those that are brought as they are, and no more of
// them on the host than some pieces.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/checkpoint/safetensors_writer.h"
#include "pipeline/engine/memory.h"
#include "pipeline/models/staged_copy.h"
#include "pipeline/models/weight_reader.h"
#include "pipeline/precision/quantized_linear.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

constexpr int64_t kMiB = 1 << 20;

using Named = std::vector<std::pair<std::string, at::Tensor>>;

DType StoredAs(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::kF32;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kFloat8_e4m3fn:
      return DType::kF8E4M3;
    default:
      return DType::kI8;
  }
}

WeightStore Write(const TempFolder& folder, const Named& tensors) {
  std::vector<SafetensorsWriter::Tensor> entries;
  for (const auto& [name, tensor] : tensors) entries.push_back({name, StoredAs(tensor), tensor.sizes().vec()});
  const std::string path = folder.path() + "/model.safetensors";
  SafetensorsWriter writer = SafetensorsWriter::Create(path, entries, {}).value();
  for (const SafetensorsWriter::Tensor& entry : writer.tensors()) {
    for (const auto& [name, tensor] : tensors) {
      if (name != entry.name) continue;
      const auto* const data = static_cast<const std::byte*>(tensor.const_data_ptr());
      EXPECT_TRUE(writer.Write(std::span(data, tensor.nbytes())).ok());
    }
  }
  EXPECT_TRUE(writer.Finish().ok());
  return WeightStore::OpenFile(path).value();
}

class StagedLoad : public ::testing::Test {
 protected:
  StagedLoad() { CountCpuMemory(); }

  at::Tensor Random(at::IntArrayRef shape, at::ScalarType type = at::kFloat) {
    return at::randn(shape, generator_, at::TensorOptions()).to(type);
  }

  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(17);
  const c10::InferenceMode inference_;
  const TempFolder folder_;
};

TEST_F(StagedLoad, PiecesMakeUpTheWhole) {
  for (const int64_t piece_bytes : {1, 100, 1000, 4000, 1 << 20}) {
    SCOPED_TRACE(piece_bytes);
    StagedCopy staging(at::kCPU, piece_bytes);
    const at::Tensor from = Random({37, 3, 9}), to = at::full({37, 3, 9}, -1.0, at::TensorOptions(at::kBFloat16));
    staging.Write(to, from);
    EXPECT_TRUE(to.equal(from.to(at::kBFloat16)));
    // What is not contiguous, a scalar, and a piece that grows with its row.
    const at::Tensor turned = at::full({9, 37}, -1.0);
    staging.Write(turned, from.select(1, 2).t());
    EXPECT_TRUE(turned.equal(from.select(1, 2).t()));
    const at::Tensor scalar = at::full({}, -1.0);
    staging.Write(scalar, at::full({}, 3.0));
    EXPECT_EQ(scalar.item<float>(), 3);
    const at::Tensor rows = at::full({50}, -1, at::TensorOptions(at::kLong));
    staging.Write(
        rows, [](int64_t first, const at::Tensor& piece) { piece.copy_(at::arange(first, first + piece.size(0))); });
    EXPECT_TRUE(rows.equal(at::arange(50)));
  }
}

// Every way of storing a linear, in every scheme.
TEST_F(StagedLoad, LinearsAreTheSameAsWithoutPieces) {
  constexpr int64_t kIn = 64;
  Named tensors = {{"plain.weight", Random({96, kIn}, at::kBFloat16)},
                   {"wide.weight", Random({48, kIn})},
                   {"half.weight", Random({48, kIn}, at::kHalf)},
                   {"cast.weight", Random({32, kIn}).to(at::kFloat8_e4m3fn)},
                   {"scaled.weight", Random({32, kIn}).to(at::kFloat8_e4m3fn)},
                   {"scaled.weight_scale", at::rand({32}) + 0.5},
                   {"codes.weight", at::randn({32, kIn}).mul_(40).clamp_(-127, 127).to(at::kChar)},
                   {"codes.weight_scale", at::rand({32}) + 0.5},
                   {"smooth.weight", Random({48, kIn})},
                   {"smooth.input_multiplier", at::rand({kIn}) + 0.5}};
  for (const char* layer : {"plain", "wide", "half", "cast", "scaled", "codes", "smooth"}) {
    const std::string name = layer;
    int64_t rows = 0;
    for (const auto& [own, tensor] : tensors)
      if (own == name + ".weight") rows = tensor.size(0);
    tensors.emplace_back(name + ".bias", Random({rows}));
  }
  const WeightStore store = Write(folder_, tensors);
  const std::vector<std::vector<WeightReader::Part>> linears = {
      {{"plain", 96}}, {{"wide", 48}, {"half", 48}, {"plain", 96}},
      {{"cast", 32}},  {{"scaled", 32}, {"cast", 32}},
      {{"codes", 32}}, {{"smooth", 48}}};
  const at::Tensor x = Random({2, 20, kIn});
  for (const LinearScheme scheme : {LinearScheme::kHigh, LinearScheme::kFp8, LinearScheme::kFp8WeightOnly,
                                    LinearScheme::kInt8, LinearScheme::kInt8WeightOnly}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const LayerTable table({{"*", scheme}});
      const Placement placement{at::kCPU, type};
      WeightReader whole(store, placement, table), pieces(store, placement, table, /*piece_bytes=*/1000);
      for (const auto& parts : linears) {
        SCOPED_TRACE(testing::Message() << parts.front().prefix << " as " << static_cast<int>(scheme) << " " << type);
        const Linear expected = whole.ReadStacked(parts, kIn), actual = pieces.ReadStacked(parts, kIn);
        ASSERT_TRUE(whole.status().ok() && pieces.status().ok()) << whole.status() << pieces.status();
        EXPECT_TRUE(actual.Tokens(x.to(type)).equal(expected.Tokens(x.to(type))));
        ASSERT_EQ(actual.quantized == nullptr, expected.quantized == nullptr);
        if (expected.quantized == nullptr) continue;
        const QuantizedWeight &a = actual.quantized->weight(), &b = expected.quantized->weight();
        EXPECT_TRUE(a.codes.view(at::kByte).equal(b.codes.view(at::kByte)) && a.scale.equal(b.scale));
      }
      EXPECT_EQ(pieces.bytes(), whole.bytes());
    }
  }
}

TEST_F(StagedLoad, OtherWeightsAreTheSameAsWithoutPieces) {
  const WeightStore store = Write(folder_, {{"table.weight", Random({300, 24}, at::kHalf)},
                                            {"conv.weight", Random({8, 6, 3, 3})},
                                            {"conv.bias", Random({8})},
                                            {"time.weight", Random({40, 24}, at::kBFloat16)}});
  const Placement placement{at::kCPU, at::kBFloat16};
  WeightReader whole(store, placement), pieces(store, placement, {}, /*piece_bytes=*/500);
  EXPECT_TRUE(pieces.ReadEmbedding("table", 300, 24).equal(whole.ReadEmbedding("table", 300, 24)));
  const Conv actual = pieces.ReadConv("conv", 6, 8, 3), expected = whole.ReadConv("conv", 6, 8, 3);
  EXPECT_TRUE(actual.weight.equal(expected.weight) && actual.bias.equal(expected.bias));
  EXPECT_TRUE(actual.weight.is_contiguous(at::MemoryFormat::ChannelsLast));
  const at::Tensor x = Random({1, 20, 24});
  EXPECT_TRUE(pieces.ReadLinearAs("time", 24, 40, at::kFloat)
                  .Tokens(x)
                  .equal(whole.ReadLinearAs("time", 24, 40, at::kFloat).Tokens(x)));
  EXPECT_TRUE(pieces.status().ok() && whole.status().ok());
}

// On libtorch's meta device the weights themselves take no memory of the host: what is left is what it takes to bring
// them there. A piece, the one before it, and what a piece is made from.
TEST_F(StagedLoad, TheHostHoldsNoSecondCopy) {
  constexpr int64_t kRows = 2048, kIn = 4096, kElements = kRows * kIn;
  const WeightStore store = Write(folder_, {{"wide.weight", Random({kRows, kIn})},
                                            {"half.weight", Random({kRows, kIn}, at::kHalf)},
                                            {"plain.weight", Random({kRows, kIn}, at::kBFloat16)},
                                            {"scaled.weight", Random({kRows, kIn}).to(at::kFloat8_e4m3fn)},
                                            {"scaled.weight_scale", at::rand({kRows}) + 0.5}});
  for (const LinearScheme scheme : {LinearScheme::kHigh, LinearScheme::kFp8, LinearScheme::kInt8}) {
    WeightReader reader(store, {at::kMeta, at::kBFloat16}, LayerTable({{"*", scheme}}), /*piece_bytes=*/kMiB);
    ResetPeakMemory(at::kCPU);
    const int64_t before = MemoryUseOf(at::kCPU).allocated_bytes;
    const Linear stacked = reader.ReadStacked({{"wide", kRows}, {"half", kRows}, {"plain", kRows}}, kIn, false);
    const Linear scaled = reader.ReadLinear("scaled", kIn, kRows, false);
    ASSERT_TRUE(reader.status().ok()) << reader.status();
    EXPECT_GE(reader.bytes(), 4 * kElements);  // of the device
    EXPECT_LE(MemoryUseOf(at::kCPU).peak_bytes - before, 4 * kMiB) << static_cast<int>(scheme);
  }
}

}  // namespace
}  // namespace fresco
