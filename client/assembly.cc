#include "client/assembly.h"

#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int64_t kMaxImageBytes = int64_t{1} << 30;

}  // namespace

absl::StatusOr<std::optional<std::string>> ImageAssembler::Add(int image_index, std::string_view data, int64_t offset,
                                                               int64_t total_bytes) {
  if (total_bytes <= 0 || total_bytes > kMaxImageBytes) {
    return absl::DataLossError(StrCat("the server sent an image of ", total_bytes, " bytes"));
  }
  Part& part = parts_[image_index];
  const auto there = static_cast<int64_t>(part.bytes.size()), size = static_cast<int64_t>(data.size());
  // The offset first: it is any number until then, and none that sums may be made of.
  if (part.complete || offset != there || size > total_bytes - offset ||
      (offset > 0 && total_bytes != part.total_bytes)) {
    return absl::DataLossError(StrCat("the server sent ", size, " bytes at ", offset, " of ", total_bytes, " of image ",
                                      image_index, " where byte ", there, " comes next"));
  }
  part.total_bytes = total_bytes;
  part.bytes += data;
  if (offset + size < total_bytes) return std::nullopt;
  part.complete = true;
  return std::exchange(part.bytes, {});
}

absl::Status ImageAssembler::CheckComplete(int count) const {
  for (int i = 0; i < count; ++i) {
    const auto part = parts_.find(i);
    if (part == parts_.end() || !part->second.complete) {
      return absl::DataLossError(StrCat("the server ended the request without image ", i + 1, " of ", count));
    }
  }
  return absl::OkStatus();
}

}  // namespace fresco
