// How a linear's weight is stored and its product computed.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fresco {

enum class LinearScheme {
  kHigh,           // the model's own type
  kFp8,            // E4M3 weights, a scale per row; E4M3 activations, a scale per token; fp32 accumulation
  kFp8WeightOnly,  // E4M3 weights, a scale per row; activations and product in the model's own type
  kInt8,           // int8 weights, a scale per row; int8 activations, a scale per token; int32 accumulation
  kInt8WeightOnly,
};

// How attention multiplies queries, keys, weights and values.
enum class AttentionScheme {
  kHigh,  // in the model's own type
  kFp8,   // on E4M3 codes (fp8_attention.h)
};
inline constexpr std::string_view kAttentionNames[] = {"high", "fp8"};  // by AttentionScheme

// "high", "fp8", "fp8-weight-only", "int8", "int8-weight-only".
std::string_view SchemeName(LinearScheme scheme);
std::optional<LinearScheme> ParseScheme(std::string_view name);
std::string SchemeNames();  // all, for messages: "high, fp8, … or int8-weight-only"

inline bool IsFp8(LinearScheme scheme) {
  return scheme == LinearScheme::kFp8 || scheme == LinearScheme::kFp8WeightOnly;
}
inline bool IsInt8(LinearScheme scheme) {
  return scheme == LinearScheme::kInt8 || scheme == LinearScheme::kInt8WeightOnly;
}
// Activations are quantised as well.
inline bool QuantisesActivations(LinearScheme scheme) {
  return scheme == LinearScheme::kFp8 || scheme == LinearScheme::kInt8;
}
// The same storage, and the product in the model's own type.
inline LinearScheme StorageOnly(LinearScheme scheme) {
  if (scheme == LinearScheme::kFp8) return LinearScheme::kFp8WeightOnly;
  if (scheme == LinearScheme::kInt8) return LinearScheme::kInt8WeightOnly;
  return scheme;
}

}  // namespace fresco
