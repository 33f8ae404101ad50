#include "client/saved_image.h"

#include <utility>

#include "client/files.h"
#include "client/naming.h"
#include "pipeline/base/status.h"
#include "pipeline/image/codec.h"
#include "pipeline/image/contact_sheet.h"
#include "pipeline/image/resize.h"

namespace fresco {

absl::StatusOr<SavedImage> SaveImage(const std::string& pattern, const DrawRequest& request, DrawnImage image) {
  SavedImage saved;
  saved.file = OutputPath(pattern, {request.prompt, image.seed, image.index, request.count, request.format});
  if (NamesItself(pattern)) saved.file = UnusedPath(saved.file, FileExists);
  FRESCO_RETURN_IF_ERROR(WriteFileAtomically(saved.file, image.bytes));
  saved.bytes = image.bytes.size();
  saved.image = std::move(image);
  saved.image.bytes = {};
  return saved;
}

absl::Status WriteContactSheet(const std::vector<std::string>& files, const std::string& path) {
  const ContactSheetOptions sheet_options;
  std::vector<Image> images;
  for (const std::string& file : files) {
    FRESCO_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
    absl::StatusOr<DecodedImage> decoded = DecodeImage(bytes);
    if (!decoded.ok()) return Annotate(decoded.status(), file);
    images.push_back(FitInside(decoded->image, sheet_options.cell));
  }
  FRESCO_ASSIGN_OR_RETURN(const Image sheet, ContactSheet(images, sheet_options));
  EncodeOptions options;
  FRESCO_ASSIGN_OR_RETURN(options.format, FormatOfPath(path));
  FRESCO_ASSIGN_OR_RETURN(const std::string encoded, EncodeImage(sheet, options));
  return WriteFileAtomically(path, encoded);
}

}  // namespace fresco
