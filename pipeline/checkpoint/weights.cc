#include "pipeline/checkpoint/weights.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/checkpoint/single_file_names.h"
#include "pipeline/checkpoint/text_file.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::string_view kFileEnding = ".safetensors";
constexpr std::string_view kIndexEnding = ".safetensors.index.json";
constexpr size_t kMaxIndexBytes = 64 << 20;
constexpr size_t kHashedAtOnce = 8 << 20;  // some milliseconds

bool IsIndex(std::string_view file) {
  return file.ends_with(".json");
}

// The variant in the name of a weights file or index of `stem`: "" for the plain names, nothing for other files and
// shards.
std::optional<std::string> VariantOf(std::string_view file, std::string_view stem) {
  if (!file.starts_with(stem)) return std::nullopt;
  std::string_view rest = file.substr(stem.size());
  constexpr std::string_view kOldIndex = ".safetensors.index.";  // STEM.safetensors.index.fp16.json
  std::string_view variant;
  if (rest == kFileEnding || rest == kIndexEnding) return "";
  if (rest.starts_with(kOldIndex) && rest.ends_with(".json")) {
    variant = rest.substr(kOldIndex.size(), rest.size() - kOldIndex.size() - 5);
  } else if (rest.ends_with(kIndexEnding) && rest.front() == '.') {
    variant = rest.substr(0, rest.size() - kIndexEnding.size()).substr(1);
  } else if (rest.ends_with(kFileEnding) && rest.front() == '.') {
    variant = rest.substr(0, rest.size() - kFileEnding.size()).substr(1);
  }
  // A dot or dash would be a shard ("fp16-00001-of-00002") or somebody's own file.
  if (variant.empty() || variant.find_first_of(".-") != std::string_view::npos) return std::nullopt;
  return std::string(variant);
}

struct Candidate {
  std::string variant;
  bool index = false;
  std::string file;

  // Plain names first, then fp32, then by name; a whole file before an index.
  auto Rank() const { return std::tuple(!variant.empty(), variant != "fp32", variant, index, file); }
};

absl::StatusOr<std::string> FindWeights(const std::string& dir, std::string_view stem, std::string_view wanted) {
  std::vector<Candidate> candidates;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string file = it->path().filename().string();
    const std::optional<std::string> variant = VariantOf(file, stem);
    if (variant && (wanted.empty() || *variant == wanted)) candidates.push_back({*variant, IsIndex(file), file});
  }
  if (error) return absl::NotFoundError(StrCat(dir, ": cannot be read: ", error.message()));
  if (candidates.empty()) {
    const std::string infix = wanted.empty() ? "" : StrCat(".", wanted);
    return absl::NotFoundError(StrCat(dir, ": no weights: neither ", stem, infix, kFileEnding, " nor ", stem, infix,
                                      kIndexEnding, wanted.empty() ? " nor a variant of them" : ""));
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.Rank() < b.Rank(); });
  return (fs::path(dir) / candidates.front().file).string();
}

// A shard's name comes out of a file: it must not lead anywhere else, and errors quote the path that it makes.
bool IsPlainFileName(std::string_view name) {
  constexpr size_t kLongest = 255;  // NAME_MAX
  return !name.empty() && name.size() <= kLongest && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c == '/' || absl::ascii_iscntrl(c); });
}

// Tensor name → shard, of an index file.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxIndexBytes));
  absl::StatusOr<Json> json = ParseJson(text, 8);
  if (!json.ok()) return Annotate(json.status(), path);
  const auto map = json->is_object() ? json->find("weight_map") : json->end();
  if (!json->is_object() || map == json->end() || !map->is_object()) {
    return absl::InvalidArgumentError(StrCat(path, ": weight_map is missing or not an object"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          StrCat(path, ": the shard of tensor \"", PrintableName(name), "\" is not a file name"));
    }
    shards.emplace(name, shard.get<std::string>());
  }
  return shards;
}

// Of nothing in particular once `stop` is asked for.
Sha256::Digest HashData(std::span<const std::byte> data, const std::stop_token& stop) {
  Sha256 hash;
  while (!data.empty() && !stop.stop_requested()) {
    const size_t chunk = std::min(data.size(), kHashedAtOnce);
    hash.Add(data.first(chunk));
    data = data.subspan(chunk);
  }
  return hash.Finish();
}

// HashData of each, with the largest spread first so that no thread is left with one at the end.
std::vector<Sha256::Digest> HashAll(const std::vector<std::span<const std::byte>>& tensors, int threads,
                                    const std::stop_token& stop) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors[a].size() > tensors[b].size(); });
  std::vector<Sha256::Digest> digests(tensors.size());
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i = next++; i < order.size(); i = next++) digests[order[i]] = HashData(tensors[order[i]], stop);
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  others.clear();
  return digests;
}

}  // namespace

absl::StatusOr<WeightStore> WeightStore::Open(const std::string& dir, std::string_view stem, std::string_view variant) {
  FRESCO_ASSIGN_OR_RETURN(const std::string path, FindWeights(dir, stem, variant));
  return IsIndex(path) ? OpenIndex(path) : OpenFile(path);
}

std::span<const std::byte> WeightStore::Piece::Data() const {
  return own == nullptr ? file->Data(entry) : std::span(*own).subspan(entry.begin, entry.bytes());
}

WeightStore WeightStore::OfPieces(std::string path, Pieces pieces, Metadata metadata) {
  WeightStore store;
  store.path_ = std::move(path);
  store.pieces_ = std::move(pieces);
  store.metadata_ = std::move(metadata);
  return store;
}

absl::StatusOr<WeightStore> WeightStore::OpenFile(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(std::shared_ptr<const SafetensorsFile> file, SafetensorsFile::Open(path));
  Pieces pieces;
  for (const auto& [name, entry] : file->entries()) pieces.emplace(name, Piece{.file = file, .entry = entry});
  return OfPieces(path, std::move(pieces), file->metadata());
}

absl::StatusOr<WeightStore> WeightStore::OpenIndex(const std::string& path) {
  Pieces pieces;
  Metadata metadata;
  FRESCO_ASSIGN_OR_RETURN(const auto shards, ReadIndex(path));
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> files;
  for (const auto& [name, shard] : shards) {
    std::shared_ptr<const SafetensorsFile>& file = files[shard];
    if (file == nullptr) {
      absl::StatusOr opened = SafetensorsFile::Open((fs::path(path).parent_path() / shard).string());
      if (!opened.ok()) return Annotate(opened.status(), path);
      file = *std::move(opened);
    }
    const auto entry = file->entries().find(name);
    if (entry == file->entries().end()) {
      return absl::InvalidArgumentError(
          StrCat(path, ": tensor \"", PrintableName(name), "\" is not in ", file->path(), ", as it says"));
    }
    pieces.emplace(name, Piece{.file = file, .entry = entry->second});
  }
  for (const auto& [shard, file] : files) metadata.insert(file->metadata().begin(), file->metadata().end());
  return OfPieces(path, std::move(pieces), std::move(metadata));
}

WeightStore WeightStore::WithLayersOf(const WeightStore& other,
                                      const std::function<bool(std::string_view layer)>& wanted) const {
  constexpr std::string_view kWeight = ".weight";
  // Calls `visit` with each of the store's tensors whose name begins with `layer` and a dot.
  const auto of_layer = [](Pieces& pieces, const std::string& layer, const auto& visit) {
    const std::string prefix = layer + ".";
    for (auto own = pieces.lower_bound(prefix); own != pieces.end() && own->first.starts_with(prefix);) visit(own++);
  };
  WeightStore merged = *this;
  Pieces instead = other.pieces_;
  for (const auto& [name, piece] : other.pieces_) {
    if (!name.ends_with(kWeight)) continue;
    const std::string layer = name.substr(0, name.size() - kWeight.size());
    if (!wanted(layer)) continue;
    of_layer(merged.pieces_, layer, [&](Pieces::iterator own) {
      if (own->first != layer + ".bias") merged.pieces_.erase(own);
    });
    of_layer(instead, layer, [&](Pieces::iterator own) { merged.pieces_.insert_or_assign(own->first, own->second); });
  }
  return merged;
}

absl::StatusOr<TensorView> WeightStore::Find(std::string_view name) const {
  const auto found = pieces_.find(name);
  if (found == pieces_.end()) {
    return absl::NotFoundError(StrCat(path_, ": no tensor \"", PrintableName(name), "\""));
  }
  const Piece& piece = found->second;
  const std::optional<DType> dtype = ParseDType(piece.entry.dtype_name);
  if (!dtype) {
    return absl::UnimplementedError(
        StrCat(Where(name), ": element type \"", PrintableName(piece.entry.dtype_name), "\" is not known"));
  }
  const std::span<const std::byte> data = piece.Data();
  std::shared_ptr<const void> keep = piece.file;
  if (piece.own != nullptr) keep = piece.own;
  return TensorView{.dtype = *dtype,
                    .shape = piece.entry.shape,
                    .data = data.data(),
                    .bytes = data.size(),
                    .mapping = std::move(keep)};
}

const SafetensorsFile::Entry* WeightStore::FindEntry(std::string_view name) const {
  const auto found = pieces_.find(name);
  return found == pieces_.end() ? nullptr : &found->second.entry;
}

std::vector<std::string> WeightStore::Names() const {
  std::vector<std::string> names;
  names.reserve(pieces_.size());
  for (const auto& [name, piece] : pieces_) names.push_back(name);
  return names;
}

std::vector<std::string> WeightStore::Files() const {
  std::set<std::string> files;
  for (const auto& [name, piece] : pieces_) files.insert(piece.file->path());
  return {files.begin(), files.end()};
}

int64_t WeightStore::total_bytes() const {
  int64_t total = 0;
  for (const auto& [name, piece] : pieces_) total += static_cast<int64_t>(piece.entry.bytes());
  return total;
}

const std::string& WeightStore::PathOf(std::string_view name) const {
  const auto found = pieces_.find(name);
  return found == pieces_.end() ? path_ : found->second.file->path();
}

std::string WeightStore::Where(std::string_view name) const {
  const auto found = pieces_.find(name);
  const std::string_view stored = found == pieces_.end() ? "" : std::string_view(found->second.stored_name);
  return StrCat(PathOf(name), ": tensor \"", PrintableName(name), "\"",
                stored.empty() ? "" : StrCat(" (there \"", PrintableName(stored), "\")"));
}

absl::StatusOr<std::string> WeightStore::Digest(int threads, const std::stop_token& stop) const {
  std::vector<std::span<const std::byte>> tensors;
  for (const auto& [name, piece] : pieces_) tensors.push_back(piece.Data());
  const std::vector<Sha256::Digest> data = HashAll(tensors, threads, stop);
  if (stop.stop_requested()) return absl::CancelledError(StrCat(path_, ": hashing was stopped"));
  Sha256 all;
  size_t i = 0;
  for (const auto& [name, piece] : pieces_) {
    const SafetensorsFile::Entry& entry = piece.entry;
    all.Add(name);
    all.Add(std::string_view("\0", 1));
    all.Add(entry.dtype_name);
    all.Add(std::string_view("\0", 1));
    all.Add(absl::StrJoin(entry.shape, ","));
    all.Add(std::string_view("\0", 1));
    all.Add(std::as_bytes(std::span(data[i++])));
  }
  return StrCat("sha256:", all.FinishHex());
}

int64_t CountBlocks(const WeightStore& weights, std::string_view prefix) {
  int64_t count = 0;
  for (const std::string& name : weights.Names()) {
    if (!name.starts_with(prefix)) continue;
    const std::optional<int64_t> number = LeadingNumber(std::string_view(name).substr(prefix.size()));
    count = std::max(count, number.value_or(-1) + 1);
  }
  return count;
}

}  // namespace fresco
