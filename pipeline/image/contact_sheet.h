// Many pictures on one page.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/image/image.h"

namespace fresco {

struct ContactSheetOptions {
  int columns = 0;            // 0: about as many as rows
  int cell = 256;             // pixels, the longest side of each picture
  int padding = 12;           // pixels around and between pictures
  uint8_t background = 0xF4;  // grey
};

// `images` in reading order, each scaled down to a cell of its own (never up) and centred there. A cell is as large as
// the largest picture that stands in one. INVALID_ARGUMENT if there are none, or the sheet would have more than 256
// megapixels.
absl::StatusOr<Image> ContactSheet(const std::vector<Image>& images, const ContactSheetOptions& options);

}  // namespace fresco
