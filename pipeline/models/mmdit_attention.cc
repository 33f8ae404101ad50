#include "pipeline/models/mmdit_attention.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <utility>
#include <vector>

#include "pipeline/models/gpu_attention.h"
#include "pipeline/models/layer_work.h"
#include "pipeline/precision/fp8_attention.h"
#include "pipeline/precision/fused_rows.h"

namespace fresco {
namespace {

constexpr char kJointNorm[] = "attn.qk_norm", kJointAttention[] = "attn.attention";
constexpr char kImageNorm[] = "attn2.qk_norm", kImageAttention[] = "attn2.attention";

HeadNorms NormsOf(const MmditAttention& weights) {
  return {weights.norm_q, weights.norm_k, kMmditEps};
}

struct Heads {
  at::Tensor q, k, v;  // [B, heads, N, head_dim]
};

// qkv [B, N, 3 D]
Heads Split(const at::Tensor& qkv, int64_t heads) {
  const std::vector<at::Tensor> parts = qkv.chunk(3, -1);
  return {SplitHeads(parts[0], heads), SplitHeads(parts[1], heads), SplitHeads(parts[2], heads)};
}

bool UsesFp8(const MmditAttention& weights, const at::Tensor& x) {
  return weights.scheme == AttentionScheme::kFp8 && HasFp8Attention(x.device(), x.scalar_type());
}

// [B, N, D]
at::Tensor Attend(const char* name, const Heads& heads, const MmditAttention& weights) {
  const bool fp8 = UsesFp8(weights, heads.q);
  const LayerScope scope(name, [&] { return AttentionWork(heads.q, heads.k, heads.v, fp8); });
  if (fp8) return Fp8Attention(heads.q, heads.k, heads.v);
  return Attention(heads.q, heads.k, heads.v, {.kernels = weights.kernels.get()});
}

Heads SplitAndNorm(const at::Tensor& qkv, const MmditAttention& weights, int64_t heads) {
  Heads split = Split(qkv, heads);
  if (weights.norm_q.defined()) split.q = RmsNorm(split.q, weights.norm_q, kMmditEps);
  if (weights.norm_k.defined()) split.k = RmsNorm(split.k, weights.norm_k, kMmditEps);
  return split;
}

// All heads are written where those of both streams are, v's as they are.
LayerWork JointNormWork(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block) {
  const MmditAttention &own = block.attention, &context = block.context_attention;
  return ElementwiseWork({image, text, own.norm_q, own.norm_k, context.norm_q, context.norm_k},
                         BytesOf(image) + BytesOf(text));
}

// Only what is normalised is written. The kernel, in place, reads the other heads too.
LayerWork ImageNormWork(const at::Tensor& qkv, const MmditAttention& weights, int64_t heads) {
  int64_t normed = 0;  // of q, k and v
  for (const at::Tensor& norm : {weights.norm_q, weights.norm_k}) normed += norm.defined() ? 1 : 0;
  const at::Tensor read = HasHeadKernels(qkv, heads) ? qkv : qkv.narrow(-1, 0, qkv.size(-1) / 3 * normed);
  return ElementwiseWork({read, weights.norm_q, weights.norm_k}, BytesOf(qkv) / 3 * normed);
}

// Both streams' heads normalised into one tensor, image first.
Heads JoinOnGpu(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block, int64_t heads) {
  const LayerScope scope(kJointNorm, [&] { return JointNormWork(image, text, block); });
  const at::Tensor joint = at::empty({image.size(0), image.size(1) + text.size(1), image.size(2)}, image.options());
  NormHeads(image, heads, NormsOf(block.attention), joint, 0);
  NormHeads(text, heads, NormsOf(block.context_attention), joint, image.size(1));
  return Split(joint, heads);
}

Heads Join(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block, int64_t heads) {
  const LayerScope scope(kJointNorm, [&] { return JointNormWork(image, text, block); });
  const Heads a = SplitAndNorm(image, block.attention, heads);
  const Heads b = SplitAndNorm(text, block.context_attention, heads);
  return {at::cat({a.q, b.q}, 2), at::cat({a.k, b.k}, 2), at::cat({a.v, b.v}, 2)};
}

// ---- samples of different lengths -----------------------------------------------------------------------------------

// [1, M + B T, 3 D], as PackedTokens::joint lies.
at::Tensor JoinPackedOnGpu(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block, int64_t heads,
                           const PackedTokens& packed) {
  const LayerScope scope(kJointNorm, [&] { return JointNormWork(image, text, block); });
  at::Tensor joint = at::empty({1, packed.joint().tokens, image.size(2)}, image.options());
  NormHeads(image, heads, NormsOf(block.attention), joint, packed.joint_of_image());
  NormHeads(text, heads, NormsOf(block.context_attention), joint, packed.joint_of_text());
  return joint;
}

// Whether all sequences are best attended to by the kernel that takes their lengths: it is what was measured to be the
// fastest for each of them by itself.
bool AtOnce(const at::Tensor& qkv, const MmditAttention& weights, int64_t heads, const PackedSequences& sequences) {
  if (!qkv.is_cuda() || UsesFp8(weights, qkv) || weights.kernels == nullptr) return false;
  const int64_t head_dim = qkv.size(2) / (3 * heads);
  for (const PackedSequences::Group& group : sequences.groups)
    if (!FlashIsFastest(*weights.kernels, qkv.scalar_type(), heads, head_dim, group.length)) return false;
  return true;
}

LayerWork SumOfWork(const at::Tensor& qkv, int64_t heads, const PackedSequences& sequences) {
  LayerWork sum;
  for (const PackedSequences::Group& group : sequences.groups) {
    const Heads own = Split(PackedSequences::OfGroup(qkv, group), heads);
    const LayerWork work = AttentionWork(own.q, own.k, own.v);
    sum = {sum.flops + work.flops, sum.bytes + work.bytes, work.dtype};
  }
  return sum;
}

// Of qkv [1, M, 3 D], normalised, each group's mixtures [B, N, D].
std::vector<at::Tensor> AttendPacked(const char* name, const at::Tensor& qkv, const MmditAttention& weights,
                                     int64_t heads, const PackedSequences& sequences) {
  std::vector<at::Tensor> mixed;
  if (!AtOnce(qkv, weights, heads, sequences)) {
    for (const PackedSequences::Group& group : sequences.groups)
      mixed.push_back(Attend(name, Split(PackedSequences::OfGroup(qkv, group), heads), weights));
    return mixed;
  }
  const LayerScope scope(name, [&] { return SumOfWork(qkv, heads, sequences); });
  const at::Tensor rows = qkv.view({qkv.size(1), 3, heads, -1});
  const at::Tensor all =
      PackedFlashAttention(rows.select(1, 0), rows.select(1, 1), rows.select(1, 2), sequences.starts, sequences.longest)
          .view({1, qkv.size(1), -1});
  for (const PackedSequences::Group& group : sequences.groups) mixed.push_back(PackedSequences::OfGroup(all, group));
  return mixed;
}

// Of each group's joint mixtures [B, N + T, D], every token to its place.
JointMixture Part(const std::vector<at::Tensor>& mixed, const PackedTokens& packed) {
  const int64_t text_tokens = packed.text_tokens(), width = mixed.front().size(2);
  const JointMixture parted{at::empty({1, packed.image().tokens, width}, mixed.front().options()),
                            at::empty({packed.samples(), text_tokens, width}, mixed.front().options())};
  for (size_t i = 0; i < mixed.size(); ++i) {
    const PackedSequences::Group& group = packed.image().groups[i];
    PackedSequences::OfGroup(parted.image, group).copy_(mixed[i].narrow(1, 0, group.length));
    parted.text.narrow(0, group.first_sample, group.samples).copy_(mixed[i].narrow(1, group.length, text_tokens));
  }
  return parted;
}

JointMixture PackedJointAttention(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block,
                                  int64_t heads, const PackedTokens& packed) {
  if (HasHeadKernels(image, heads)) {
    const at::Tensor joint = JoinPackedOnGpu(image, text, block, heads, packed);
    return Part(AttendPacked(kJointAttention, joint, block.attention, heads, packed.joint()), packed);
  }
  std::vector<at::Tensor> mixed;
  for (const PackedSequences::Group& group : packed.image().groups) {
    const Heads own =
        Join(PackedSequences::OfGroup(image, group), text.narrow(0, group.first_sample, group.samples), block, heads);
    mixed.push_back(Attend(kJointAttention, own, block.attention));
  }
  return Part(mixed, packed);
}

at::Tensor PackedImageAttention(const at::Tensor& qkv, const MmditAttention& weights, int64_t heads,
                                const PackedTokens& packed) {
  std::vector<at::Tensor> mixed;
  if (HasHeadKernels(qkv, heads)) {
    {
      const LayerScope scope(kImageNorm, [&] { return ImageNormWork(qkv, weights, heads); });
      NormHeads(qkv, heads, NormsOf(weights), qkv, 0);
    }
    mixed = AttendPacked(kImageAttention, qkv, weights, heads, packed.image());
  } else {
    for (const PackedSequences::Group& group : packed.image().groups) {
      const at::Tensor own = PackedSequences::OfGroup(qkv, group);
      const auto normed = [&] {
        const LayerScope scope(kImageNorm, [&] { return ImageNormWork(own, weights, heads); });
        return SplitAndNorm(own, weights, heads);
      };
      mixed.push_back(Attend(kImageAttention, normed(), weights));
    }
  }
  for (at::Tensor& group : mixed) group = group.reshape({1, -1, group.size(2)});
  return at::cat(mixed, 1);
}

}  // namespace

JointMixture JointAttention(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block, int64_t heads,
                            const PackedTokens* packed) {
  if (packed != nullptr) return PackedJointAttention(image, text, block, heads, *packed);
  const Heads joint =
      HasHeadKernels(image, heads) ? JoinOnGpu(image, text, block, heads) : Join(image, text, block, heads);
  const at::Tensor mixed = Attend(kJointAttention, joint, block.attention);
  return {mixed.narrow(1, 0, image.size(1)), mixed.narrow(1, image.size(1), text.size(1))};
}

at::Tensor ImageAttention(const at::Tensor& qkv, const MmditAttention& weights, int64_t heads,
                          const PackedTokens* packed) {
  if (packed != nullptr) return PackedImageAttention(qkv, weights, heads, *packed);
  const auto normed = [&] {
    const LayerScope scope(kImageNorm, [&] { return ImageNormWork(qkv, weights, heads); });
    if (!HasHeadKernels(qkv, heads)) return SplitAndNorm(qkv, weights, heads);
    NormHeads(qkv, heads, NormsOf(weights), qkv, 0);
    return Split(qkv, heads);
  };
  return Attend(kImageAttention, normed(), weights);
}

}  // namespace fresco
