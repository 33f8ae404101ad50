#include "pipeline/models/packed_tokens.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

#include <algorithm>

namespace fresco {
namespace {

using Group = PackedSequences::Group;

// Numbers as the kernels index by.
at::Tensor Range(int64_t begin, int64_t end, int64_t step, const at::Device& device) {
  return at::arange(begin, end, step, at::TensorOptions(device).dtype(at::kInt));
}

void Append(const PackedTokens::Pictures& pictures, int64_t more_tokens, int64_t first_sample, PackedSequences* to) {
  const int64_t length = pictures.tokens + more_tokens;
  if (!to->groups.empty() && to->groups.back().length == length) {
    to->groups.back().samples += pictures.samples;
  } else {
    to->groups.push_back({pictures.samples, length, first_sample, to->tokens});
  }
  to->tokens += pictures.samples * length;
  to->longest = std::max(to->longest, length);
}

// Calls part(group) for each, and joins what it returns.
template <typename Part>
at::Tensor OfGroups(const std::vector<Group>& groups, const Part& part) {
  std::vector<at::Tensor> parts;
  for (const Group& group : groups) parts.push_back(part(group).reshape({-1}));
  return at::cat(parts);
}

at::Tensor FirstTokens(const Group& group, const at::Device& device) {
  return Range(group.first_token, group.first_token + group.samples * group.length, group.length, device);
}

// Of the `count` tokens from `first` on of each of a group's samples, their numbers among all.
at::Tensor TokensOfEach(const Group& group, int64_t first, int64_t count, const at::Device& device) {
  return FirstTokens(group, device).unsqueeze(1) + Range(first, first + count, 1, device);
}

at::Tensor StartsOf(const PackedSequences& sequences, const at::Device& device) {
  return at::cat({OfGroups(sequences.groups, [&](const Group& group) { return FirstTokens(group, device); }),
                  Range(sequences.tokens, sequences.tokens + 1, 1, device)});
}

}  // namespace

at::Tensor PackedSequences::OfGroup(const at::Tensor& x, const Group& group) {
  return x.narrow(1, group.first_token, group.samples * group.length).view({group.samples, group.length, x.size(2)});
}

PackedTokens::PackedTokens(const std::vector<Pictures>& pictures, int64_t text_tokens, const at::Device& device)
    : text_tokens_(text_tokens) {
  for (const Pictures& alike : pictures) {
    const int64_t first_sample = samples();
    rows_.lengths.insert(rows_.lengths.end(), static_cast<size_t>(alike.samples), alike.tokens);
    Append(alike, 0, first_sample, &image_);
    Append(alike, text_tokens, first_sample, &joint_);
  }
  image_.starts = StartsOf(image_, device);
  joint_.starts = StartsOf(joint_, device);
  rows_.sample_of_row = OfGroups(image_.groups, [&](const Group& group) {
    return Range(group.first_sample, group.first_sample + group.samples, 1, device)
        .unsqueeze(1)
        .expand({group.samples, group.length});
  });
  joint_of_image_ = OfGroups(
      joint_.groups, [&](const Group& group) { return TokensOfEach(group, 0, group.length - text_tokens, device); });
  joint_of_text_ = OfGroups(joint_.groups, [&](const Group& group) {
    return TokensOfEach(group, group.length - text_tokens, text_tokens, device);
  });
}

}  // namespace fresco
