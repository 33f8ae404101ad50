#include "client/naming.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

constexpr size_t kMaxSlugBytes = 48;

// Where the extension of a path's last part begins, or its end where there is none.
size_t ExtensionStart(std::string_view path) {
  const size_t name = path.rfind('/') == std::string_view::npos ? 0 : path.rfind('/') + 1;
  const size_t dot = path.rfind('.');
  return dot == std::string_view::npos || dot <= name ? path.size() : dot;
}

std::string BeforeExtension(const std::string& path, const std::string& text) {
  std::string out = path;
  return out.insert(ExtensionStart(path), text);
}

std::string Fill(std::string_view pattern, const ImageName& image) {
  const std::pair<std::string_view, std::string> values[] = {
      {"{seed}", StrCat(image.seed)}, {"{index}", StrCat(image.index + 1)}, {"{prompt}", Slug(image.prompt)}};
  std::string out;
  while (!pattern.empty()) {
    const auto* value = std::find_if(std::begin(values), std::end(values),
                                     [&](const auto& entry) { return pattern.starts_with(entry.first); });
    const bool found = value != std::end(values);
    out += found ? std::string_view(value->second) : pattern.substr(0, 1);
    pattern.remove_prefix(found ? value->first.size() : 1);
  }
  return out;
}

}  // namespace

std::string Slug(std::string_view prompt) {
  std::string slug;
  bool gap = false;
  for (const char c : prompt) {
    const bool letter = absl::ascii_isalnum(c) || static_cast<uint8_t>(c) >= 0x80;
    if (letter && gap && !slug.empty()) slug += '-';
    if (letter) slug += absl::ascii_tolower(c);
    gap = !letter;
  }
  if (slug.size() > kMaxSlugBytes) {
    size_t end = Utf8Prefix(slug, kMaxSlugBytes).size();
    // At a word's end, unless that leaves too little.
    if (const size_t word = slug.rfind('-', end); word != std::string_view::npos && word > kMaxSlugBytes / 2)
      end = word;
    slug.resize(end);
  }
  return slug.empty() ? "image" : slug;
}

std::string OutputPath(std::string_view pattern, const ImageName& image) {
  if (NamesItself(pattern)) {
    return Fill(StrCat(pattern, "{prompt}-{seed}.", FileExtension(image.format)), image);
  }
  std::string path = Fill(pattern, image);
  const bool distinct =
      pattern.find("{seed}") != std::string_view::npos || pattern.find("{index}") != std::string_view::npos;
  return image.count > 1 && !distinct ? BeforeExtension(path, StrCat("-", image.index + 1)) : path;
}

absl::Status CheckOutputPattern(std::string_view pattern) {
  for (size_t open = pattern.find('{'); open != std::string_view::npos; open = pattern.find('{', open + 1)) {
    const size_t close = pattern.find('}', open);
    const std::string_view name = pattern.substr(open, close == std::string_view::npos ? close : close - open + 1);
    if (name != "{seed}" && name != "{index}" && name != "{prompt}") {
      return absl::InvalidArgumentError(
          StrCat("unknown placeholder \"", name, "\": there are {seed}, {index} and {prompt}"));
    }
  }
  return absl::OkStatus();
}

std::string FixedPart(std::string_view pattern) {
  return std::string(pattern.substr(0, pattern.find('{')));
}

bool NamesItself(std::string_view pattern) {
  return pattern.empty() || pattern.back() == '/';
}

std::string UnusedPath(const std::string& path, const std::function<bool(const std::string&)>& exists) {
  std::string candidate = path;
  for (int n = 2; exists(candidate); ++n) candidate = BeforeExtension(path, StrCat("-", n));
  return candidate;
}

absl::StatusOr<ImageFormat> FormatOfPath(std::string_view path) {
  const std::string extension = absl::AsciiStrToLower(ToAbsl(path.substr(ExtensionStart(path))));
  if (extension == ".png") return ImageFormat::kPng;
  if (extension == ".jpg" || extension == ".jpeg") return ImageFormat::kJpeg;
  if (extension == ".webp") return ImageFormat::kWebp;
  return absl::InvalidArgumentError(StrCat("\"", path, "\" does not end in .png, .jpg, .jpeg or .webp"));
}

}  // namespace fresco
