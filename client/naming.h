// Where pictures go.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "pipeline/image/codec.h"

namespace fresco {

// Letters and digits of `prompt` in lower case with '-' between words, at most 48 bytes; "image" if there are none.
// Letters beyond ASCII stay as they are.
std::string Slug(std::string_view prompt);

struct ImageName {
  std::string prompt;
  uint64_t seed = 0;
  int index = 0;  // of the image in its request, from 0
  int count = 1;  // images of the request
  ImageFormat format = ImageFormat::kPng;
};

// `pattern` with {seed}, {index} (from 1) and {prompt} (its slug) filled in, in the name and in its folders. Where
// there is more than one image and neither {seed} nor {index}, "-1", "-2", … before the extension. A pattern that is
// empty or ends in '/' gets "{prompt}-{seed}" and the format's extension as its name.
std::string OutputPath(std::string_view pattern, const ImageName& image);

// INVALID_ARGUMENT for a placeholder that OutputPath does not know.
absl::Status CheckOutputPattern(std::string_view pattern);

// `pattern` up to its first placeholder: the folders in it are those of every picture.
std::string FixedPart(std::string_view pattern);

// Whether OutputPath makes a name up for this pattern, so that it must not replace a file that is there.
bool NamesItself(std::string_view pattern);

// `path`, or with "-2", "-3", … before its extension, whichever does not exist first.
std::string UnusedPath(const std::string& path, const std::function<bool(const std::string&)>& exists);

// By extension: "png", "jpg", "jpeg", "webp". INVALID_ARGUMENT for any other.
absl::StatusOr<ImageFormat> FormatOfPath(std::string_view path);

}  // namespace fresco
