// The weights of one component (a transformer, a text encoder, a VAE), however many files they lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/safetensors.h"

namespace fresco {

// File stems: diffusers calls its own "diffusion_pytorch_model", transformers "model".
inline constexpr std::string_view kDiffusersStem = "diffusion_pytorch_model";
inline constexpr std::string_view kTransformersStem = "model";

// Immutable and thread-safe once open; cheap to copy (the mappings are shared).
class WeightStore {
 public:
  // A tensor, under whatever name: a range of a file's data, or memory of its own.
  struct Piece {
    std::shared_ptr<const SafetensorsFile> file;        // where it comes from, never null
    SafetensorsFile::Entry entry;                       // its type and shape; its place in the file's data or in `own`
    std::shared_ptr<const std::vector<std::byte>> own;  // null: the data are the file's
    std::string stored_name;                            // what the file calls it, where that is another name

    std::span<const std::byte> Data() const;
  };
  using Pieces = std::map<std::string, Piece, std::less<>>;  // by name
  using Metadata = std::map<std::string, std::string>;

  // The weights in folder `dir`. In this order: STEM.safetensors, STEM.safetensors.index.json (sharded), then variants:
  // STEM.VARIANT.safetensors, STEM.safetensors.index.VARIANT.json or STEM.VARIANT.safetensors.index.json (first by name
  // where several are; fp32 before the others). `variant`, where given, is the only one looked for. NOT_FOUND where
  // there is none (says what was looked for), INVALID_ARGUMENT for an unsound file or index (a shard that the index
  // names is missing, a tensor lies in another shard than it says, a shard's name leads out of the folder).
  static absl::StatusOr<WeightStore> Open(const std::string& dir, std::string_view stem, std::string_view variant = "");

  // One file.
  static absl::StatusOr<WeightStore> OpenFile(const std::string& path);

  // What is sound already, for errors to name as `path`'s.
  static WeightStore OfPieces(std::string path, Pieces pieces, Metadata metadata);

  // These weights with layers of `other` in place of their own, those that are `wanted`: of such a layer X, known by
  // X.weight, nothing of this store remains but its bias, where `other` has none. The path, for errors, stays.
  WeightStore WithLayersOf(const WeightStore& other, const std::function<bool(std::string_view layer)>& wanted) const;

  // As SafetensorsFile::Find.
  absl::StatusOr<TensorView> Find(std::string_view name) const;
  // What the file says of a tensor, whose type need not be known; null where there is none.
  const SafetensorsFile::Entry* FindEntry(std::string_view name) const;
  bool Contains(std::string_view name) const { return pieces_.find(name) != pieces_.end(); }

  std::vector<std::string> Names() const;            // sorted by bytes
  int64_t total_bytes() const;                       // of all tensors' data
  const std::string& path() const { return path_; }  // the file or index that was opened
  std::vector<std::string> Files() const;            // that hold tensors, each once
  // The file that holds `name`, for error messages; path() where none does.
  const std::string& PathOf(std::string_view name) const;
  // FILE: tensor "NAME" (there "STORED NAME"), for error messages, whether there is one or not.
  std::string Where(std::string_view name) const;
  // "__metadata__"; of shards, each key from the first that has it.
  const Metadata& metadata() const { return metadata_; }

  // "sha256:" and 64 hexadecimal digits over names, types, shapes and data, the same however the tensors are spread
  // over files: SHA-256 of the concatenation, over all tensors in byte order of their names, of
  //   name '\0' dtype name (as the file has it) '\0' shape as decimal numbers joined by ',' '\0' and the 32 bytes of
  //   SHA-256 of the data.
  // Reads everything (about 2 GB/s per thread); tensors are hashed by `threads` threads of its own. Call it when and
  // where it does not delay anything. CANCELLED soon after `stop` is asked for.
  absl::StatusOr<std::string> Digest(int threads = 1, const std::stop_token& stop = {}) const;

 private:
  WeightStore() = default;
  static absl::StatusOr<WeightStore> OpenIndex(const std::string& path);

  std::string path_;
  Pieces pieces_;
  Metadata metadata_;
};

// One more than the highest number that follows `prefix` in a tensor's name ("blocks." of "blocks.11.bias"); 0 where
// none does.
int64_t CountBlocks(const WeightStore& weights, std::string_view prefix);

}  // namespace fresco
