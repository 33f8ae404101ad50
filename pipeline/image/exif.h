// The part of EXIF (a TIFF structure; CIPA DC-008) that picture viewers show as text.
#pragma once

#include <string>
#include <string_view>

namespace fresco {

// UTF-8; empty fields are left out.
struct ExifTexts {
  std::string description;  // ImageDescription
  std::string software;     // Software
  std::string comment;      // UserComment
};

// A TIFF header with its directories: what WebP's EXIF chunk holds, and JPEG's APP1 after "Exif\0\0". Each text is cut
// to 12 KiB. Empty if there is no text.
std::string WriteExif(const ExifTexts& texts);

// The texts of such a block, of either byte order; what is missing or damaged is empty. "Exif\0\0" before it is
// skipped.
ExifTexts ReadExif(std::string_view block);

}  // namespace fresco
