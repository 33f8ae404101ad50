// The part of XMP (ISO 16684-1) that Fresco writes: an RDF description with one plain property per text, in a namespace
// of Fresco's own.
#pragma once

#include <string>
#include <string_view>

#include "pipeline/image/codec.h"

namespace fresco {

// `metadata` as an XMP packet. Keys that are no XML names have the characters that do not fit written as _xHHHH_.
// `generated`: with IPTC's digital source type "trainedAlgorithmicMedia" (IPTC Photo Metadata Standard 2023.1,
// "Digital Source Type"; its values: cv.iptc.org/newscodes/digitalsourcetype).
std::string WriteXmp(const ImageMetadata& metadata, bool generated);

// The same, with its texts cut so that it has at most `bytes` bytes; empty where even that is too much.
std::string WriteXmp(const ImageMetadata& metadata, bool generated, size_t bytes);

// The properties of a packet as WriteXmp makes them; empty for anything else.
ImageMetadata ReadXmp(std::string_view packet);

// Whether a packet says what `generated` has WriteXmp say.
bool SaysGenerated(std::string_view packet);

}  // namespace fresco
