// Whom a thread allocates for: what its tensors take of a device's memory is counted under that name (memory_ledger.h).
//
//   const MemoryScope scope("vae", MemoryKind::kActivations);
//   pixels = vae.Decode(latents);
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fresco {

enum class MemoryKind : uint8_t {
  kWeights,
  kActivations,  // what a computation needs while it lasts
  kState,        // what stays from one computation to the next: latents, texts' embeddings
};

// "weights", "activations", "state".
std::string_view MemoryKindName(MemoryKind kind);

// Who holds memory.
struct MemoryHolder {
  std::string model;      // as the configuration calls it; empty: none in particular
  std::string component;  // "transformer", "text_encoder", …, "vae", "images", "prompts"; empty: nobody has said
  MemoryKind kind = MemoryKind::kState;

  bool operator==(const MemoryHolder&) const = default;
};

// "transformer weights", "vae activations", "images"; "other" where nobody has said.
std::string NameOf(const MemoryHolder& holder);

// A holder by number. Holders are few, numbered from 1 as they come up, and known for as long as the process lives; 0:
// nobody in particular, and all that come up after the first kMaxMemoryHolders.
using MemoryHolderId = uint16_t;
inline constexpr int kMaxMemoryHolders = 256;

// Thread-safe.
int MemoryHolderCount();  // numbers given, 0 counted
const MemoryHolder& MemoryHolderOf(MemoryHolderId id);

// While it lives, the calling thread allocates for a component of the model of its MemoryModelScope. The innermost
// counts.
class MemoryScope {
 public:
  MemoryScope(std::string_view component, MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  const MemoryHolderId before_;
};

// While it lives, the scopes that the calling thread opens are of `model`, which outlives it.
class MemoryModelScope {
 public:
  explicit MemoryModelScope(std::string_view model);
  ~MemoryModelScope();
  MemoryModelScope(const MemoryModelScope&) = delete;
  MemoryModelScope& operator=(const MemoryModelScope&) = delete;

 private:
  const std::string_view before_;
};

// While it lives, what the calling thread allocates is known by `name` where it is large: a tensor's. `name` outlives
// it.
class MemoryNameScope {
 public:
  explicit MemoryNameScope(std::string_view name);
  ~MemoryNameScope();
  MemoryNameScope(const MemoryNameScope&) = delete;
  MemoryNameScope& operator=(const MemoryNameScope&) = delete;

 private:
  const std::string_view before_;
};

// The calling thread's.
MemoryHolderId CurrentMemoryHolder();
std::string_view CurrentMemoryName();

}  // namespace fresco
