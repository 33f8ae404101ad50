// Where the tokens lie of samples whose pictures differ in size, in one forward of the transformer: the pictures' in
// one tensor [1, M, D], sample by sample, the texts', all of one length, in [B, T, D], and for the attention over both
// [1, M + B T, D], each sample's picture before its text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "pipeline/precision/fused_rows.h"

namespace fresco {

// Sequences of tokens, one after the other: neighbours of one length are a group.
struct PackedSequences {
  struct Group {
    int64_t samples = 0;
    int64_t length = 0;        // of each, in tokens
    int64_t first_sample = 0;  // of all
    int64_t first_token = 0;   // of all
  };
  std::vector<Group> groups;
  at::Tensor starts;    // [samples + 1] kInt: the first token of each and, at last, how many there are
  int64_t tokens = 0;   // of all
  int64_t longest = 0;  // of a sample

  // A group's tokens of x [1, tokens, width]: a view [samples, length, width].
  static at::Tensor OfGroup(const at::Tensor& x, const Group& group);
};

// Immutable. Its tensors are made on the device, which nothing waits for.
class PackedTokens {
 public:
  // Samples with pictures of so many tokens, at least one.
  struct Pictures {
    int64_t samples = 0;
    int64_t tokens = 0;
  };
  // In order; may throw libtorch's exceptions.
  PackedTokens(const std::vector<Pictures>& pictures, int64_t text_tokens, const at::Device& device);

  const PackedSequences& image() const { return image_; }
  const PackedSequences& joint() const { return joint_; }  // of the same groups
  const PackedRows& rows() const { return rows_; }         // of the pictures' tokens
  int64_t samples() const { return static_cast<int64_t>(rows_.lengths.size()); }
  int64_t text_tokens() const { return text_tokens_; }

  // Which of the joint tokens each of the pictures' is, [M] kInt, and each of the texts', [B T] kInt.
  const at::Tensor& joint_of_image() const { return joint_of_image_; }
  const at::Tensor& joint_of_text() const { return joint_of_text_; }

 private:
  int64_t text_tokens_ = 0;
  PackedSequences image_, joint_;
  PackedRows rows_;
  at::Tensor joint_of_image_, joint_of_text_;
};

}  // namespace fresco
