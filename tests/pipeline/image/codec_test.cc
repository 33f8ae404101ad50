#include "pipeline/image/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "pipeline/base/strings.h"
#include "pipeline/image/exif.h"
#include "pipeline/image/similarity.h"
#include "pipeline/image/xmp.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

// data/ is made by make_fixtures.py: pictures by Pillow, and the pixels that Pillow reads from them.
std::string ReadData(const std::string& name) {
  std::ifstream file("tests/pipeline/image/data/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string_view Message(const absl::Status& status) {
  return ToStd(status.message());
}

// The most memory that the process has had.
int64_t PeakBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} << 10;
}

// Smooth, so that lossy formats keep it.
Image Gradient(int width, int height) {
  Image image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (const int value : {x * 255 / width, y * 255 / height, 128}) image.rgb.push_back(static_cast<uint8_t>(value));
    }
  }
  return image;
}

int LargestDifference(const std::vector<uint8_t>& a, const std::string& b) {
  if (a.size() != b.size()) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - static_cast<uint8_t>(b[i])));
  return largest;
}

struct Fixture {
  const char* name;
  ImageFormat format;
  int tolerance;  // of a channel's value
};

class PillowTest : public ::testing::TestWithParam<Fixture> {};

TEST_P(PillowTest, DecodesToThePixelsThatPillowReads) {
  const absl::StatusOr<DecodedImage> decoded = DecodeImage(ReadData(GetParam().name));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->format, GetParam().format);
  EXPECT_EQ(decoded->image.width, 9);
  EXPECT_EQ(decoded->image.height, 5);
  EXPECT_LE(LargestDifference(decoded->image.rgb, ReadData(GetParam().name + std::string(".rgb"))),
            GetParam().tolerance);
}

TEST_P(PillowTest, RefusesEveryTruncation) {
  const std::string bytes = ReadData(GetParam().name);
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A copy of its own, so that AddressSanitizer sees a read past the end.
    const std::string part(bytes, 0, size);
    EXPECT_EQ(DecodeImage(part).status().code(), absl::StatusCode::kInvalidArgument) << size << " of " << bytes.size();
  }
}

TEST_P(PillowTest, SurvivesAnyDamagedByte) {
  const std::string bytes = ReadData(GetParam().name);
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int flip : {0x01, 0x80, 0xFF}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const absl::StatusOr<DecodedImage> decoded = DecodeImage(damaged, 1 << 20);
      if (!decoded.ok()) {
        EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << decoded.status();
      } else {
        EXPECT_EQ(decoded->image.rgb.size(), size_t{3} * decoded->image.width * decoded->image.height);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, PillowTest,
    ::testing::Values(Fixture{"rgb.png", ImageFormat::kPng, 0}, Fixture{"rgba.png", ImageFormat::kPng, 0},
                      Fixture{"grey_alpha.png", ImageFormat::kPng, 0}, Fixture{"palette.png", ImageFormat::kPng, 0},
                      Fixture{"one_bit.png", ImageFormat::kPng, 0}, Fixture{"grey16.png", ImageFormat::kPng, 0},
                      Fixture{"texts.png", ImageFormat::kPng, 0}, Fixture{"grey.jpg", ImageFormat::kJpeg, 1},
                      Fixture{"rgb.jpg", ImageFormat::kJpeg, 1}, Fixture{"progressive.jpg", ImageFormat::kJpeg, 1},
                      Fixture{"cmyk.jpg", ImageFormat::kJpeg, 1}, Fixture{"little_endian.jpg", ImageFormat::kJpeg, 1},
                      Fixture{"lossless.webp", ImageFormat::kWebp, 0}),
    [](const auto& info) {
      std::string name = info.param.name;
      std::replace(name.begin(), name.end(), '.', '_');
      return name;
    });

TEST(DecodeTest, ReadsThePngTextsOfPillow) {
  const absl::StatusOr<DecodedImage> decoded = DecodeImage(ReadData("texts.png"));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const ImageMetadata expected = {{"Latin", "café"}, {"International", "水彩"}, {"Packed", std::string(300, 'x')}};
  EXPECT_EQ(decoded->metadata, expected);
}

TEST(DecodeTest, ReadsTheExifOfPillowInBothByteOrders) {
  for (const char* name : {"little_endian.jpg", "big_endian.jpg"}) {
    const absl::StatusOr<DecodedImage> decoded = DecodeImage(ReadData(name));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    const ImageMetadata expected = {{"Description", "a red fox"}, {"Software", "Pillow"}, {"parameters", "fox 🦊"}};
    EXPECT_EQ(decoded->metadata, expected) << name;
  }
}

TEST(DecodeTest, RefusesWhatIsNoPicture) {
  EXPECT_EQ(Message(DecodeImage("").status()), "neither a PNG, a JPEG nor a WebP");
  EXPECT_EQ(Message(DecodeImage("GIF89a, and more of it").status()), "neither a PNG, a JPEG nor a WebP");
  EXPECT_THAT(std::string(Message(DecodeImage(ReadData("animated.webp")).status())), HasSubstr("animation"));
}

TEST(DecodeTest, RefusesMorePixelsThanAllowed) {
  for (const char* name : {"rgb.png", "rgb.jpg", "lossless.webp"}) {
    EXPECT_TRUE(DecodeImage(ReadData(name), 45).ok()) << name;
    const absl::Status status = DecodeImage(ReadData(name), 44).status();
    EXPECT_THAT(std::string(Message(status)), HasSubstr("of 9x5 pixels: the limit is 44 pixels")) << name;
  }
}

TEST(DecodeTest, RefusesAHugePngBeforeDecodingIt) {
  std::string bytes = ReadData("rgb.png");
  bytes.replace(16, 8, std::string("\x20\0\0\0\x20\0\0\0", 8));  // 2^29 x 2^29
  bytes.replace(29, 4, std::string("\x85\x66\x22\x13", 4));      // the CRC of it
  EXPECT_THAT(std::string(Message(DecodeImage(bytes).status())), HasSubstr("536870912x536870912 pixels: the limit is"));
}

// 2^30 x 1 pixels in 69 bytes: libpng takes two rows of that width as soon as it is asked for RGBA.
TEST(DecodeTest, APngThatClaimsALongRowTakesNoMemory) {
  std::string bytes = ReadData("rgb.png");
  bytes.replace(16, 8, std::string("\x3F\xFF\xFF\xFF\0\0\0\1", 8));
  bytes.replace(29, 4, std::string("\x92\xD9\x35\x21", 4));
  const int64_t before = PeakBytes();
  EXPECT_THAT(std::string(Message(DecodeImage(bytes).status())), HasSubstr("1073741823x1 pixels: the limit is"));
  EXPECT_LT(PeakBytes() - before, 64 << 20);
}

// 4 KiB are decompressed into 4 MiB, 250 times over. (AddressSanitizer keeps 256 MiB of what was given back.)
TEST(DecodeTest, ManyLargeTextsOfAPngTakeNoMoreMemoryThanOneMay) {
  const std::string png = ReadData("rgb.png"), chunk = ReadData("large_text.chunk");
  constexpr size_t kAfterHeader = 33;  // the signature and IHDR
  std::string bytes = png.substr(0, kAfterHeader);
  for (int i = 0; i < 250; ++i) bytes += chunk;
  const int64_t before = PeakBytes();
  const absl::StatusOr<DecodedImage> decoded = DecodeImage(bytes + png.substr(kAfterHeader));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->image.rgb, DecodeImage(png)->image.rgb);
  ASSERT_FALSE(decoded->metadata.empty());
  EXPECT_EQ(decoded->metadata.front().second, std::string(4 << 20, 'a'));
  EXPECT_LT(PeakBytes() - before, 512 << 20);
}

TEST(EncodeTest, PngKeepsEveryPixelAtEveryLevel) {
  const Image image = Gradient(61, 37);
  for (int level = 0; level <= 9; ++level) {
    EncodeOptions options;
    options.png_compression = level;
    const absl::StatusOr<std::string> bytes = EncodeImage(image, options);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const absl::StatusOr<DecodedImage> decoded = DecodeImage(*bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->image.rgb, image.rgb);
  }
}

class LossyTest : public ::testing::TestWithParam<ImageFormat> {};

TEST_P(LossyTest, QualityBuysLikenessWithBytes) {
  const Image image = Gradient(64, 48);
  EncodeOptions options;
  options.format = GetParam();
  options.quality = 95;
  const std::string fine = EncodeImage(image, options).value();
  options.quality = 20;
  const std::string coarse = EncodeImage(image, options).value();
  EXPECT_LT(coarse.size(), fine.size());
  const double fine_psnr = Psnr(DecodeImage(fine)->image, image).value();
  EXPECT_GT(fine_psnr, 38);
  EXPECT_LT(Psnr(DecodeImage(coarse)->image, image).value(), fine_psnr);
}

INSTANTIATE_TEST_SUITE_P(Formats, LossyTest, ::testing::Values(ImageFormat::kJpeg, ImageFormat::kWebp),
                         [](const auto& info) { return std::string(FileExtension(info.param)); });

class MetadataTest : public ::testing::TestWithParam<ImageFormat> {
 protected:
  static absl::StatusOr<std::string> Encode(const ImageMetadata& metadata) {
    EncodeOptions options;
    options.format = GetParam();
    options.metadata = metadata;
    return EncodeImage(Gradient(16, 16), options);
  }
};

TEST_P(MetadataTest, TextsComeBackInOrder) {
  const ImageMetadata metadata = {{"prompt", "a \"fox\" & <b>&lt;hen</b>\r\n\ttwo  spaces "},
                                  {"parameters", "水彩の狐 🦊, é\nSteps: 20"},
                                  {"Software", "fresco 0.1.0"},
                                  {"Creation Time", "now"},
                                  {"fresco:provenance", "{\"seed\":1}"},
                                  {"_x0041_", "a key that looks like an escape"},
                                  {"empty", ""}};
  const absl::StatusOr<std::string> bytes = Encode(metadata);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(DecodeImage(*bytes)->metadata, metadata);
}

TEST_P(MetadataTest, WhatCanNotBeWrittenIsReplaced) {
  const absl::StatusOr<std::string> bytes = Encode({{"prompt", std::string("a\0b", 3)}});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(DecodeImage(*bytes)->metadata.at(0).second, "a\uFFFDb");
}

TEST_P(MetadataTest, LongTextsAreCutOnlyWhereTheFormatAsksForIt) {
  std::string text;
  while (text.size() < 200000) text += "狐&";
  const absl::StatusOr<std::string> bytes = Encode({{"prompt", text}, {"seed", "7"}});
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const ImageMetadata read = DecodeImage(*bytes)->metadata;
  ASSERT_EQ(read.size(), 2U);
  EXPECT_EQ(read[1].second, "7");
  if (GetParam() == ImageFormat::kJpeg) {
    EXPECT_GT(read[0].second.size(), 10000U);
    EXPECT_TRUE(text.starts_with(read[0].second));
  } else {
    EXPECT_EQ(read[0].second, text);
  }
}

TEST_P(MetadataTest, RefusesWhatIsNoText) {
  EXPECT_EQ(Message(Encode({{"prompt", "\xC3"}}).status()), "metadata \"prompt\" is not UTF-8");
  EXPECT_EQ(Message(Encode({{"prompt", "\xED\xA0\x80"}}).status()), "metadata \"prompt\" is not UTF-8");
  for (const std::string& key : {std::string(), std::string("é"), std::string(" x"), std::string("x  y"),
                                 std::string("XML:com.adobe.xmp"), std::string(80, 'k')}) {
    EXPECT_EQ(Encode({{key, "x"}}).status().code(), absl::StatusCode::kInvalidArgument) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, MetadataTest,
                         ::testing::Values(ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp),
                         [](const auto& info) { return std::string(FileExtension(info.param)); });

TEST(EncodeTest, PngWritesTextChunksForAsciiAndInternationalOnesForTheRest) {
  EncodeOptions options;
  options.metadata = {{"plain", "fox"}, {"other", "狐"}};
  const std::string bytes = EncodeImage(Gradient(2, 2), options).value();
  // PNG 1.2, 4.2.3: keyword, NUL, text; iTXt has two flags and two empty strings between.
  EXPECT_THAT(bytes, HasSubstr(std::string("tEXtplain\0fox", 13)));
  EXPECT_THAT(bytes, HasSubstr(std::string("iTXtother\0\0\0\0\0狐", 17)));
}

TEST(EncodeTest, WritesNoMetadataWhereThereIsNone) {
  for (const ImageFormat format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    EncodeOptions options;
    options.format = format;
    EXPECT_TRUE(DecodeImage(EncodeImage(Gradient(8, 8), options).value())->metadata.empty());
  }
}

TEST(EncodeTest, RefusesImpossibleImagesAndOptions) {
  EncodeOptions options;
  EXPECT_EQ(Message(EncodeImage({0, 4, {}}, options).status()), "image of 0x4 pixels has none");
  EXPECT_EQ(Message(EncodeImage({2, 2, {1, 2, 3}}, options).status()),
            "image of 2x2 pixels has 3 bytes, expected 3 per pixel");
  options.quality = 0;
  EXPECT_EQ(Message(EncodeImage(Gradient(2, 2), options).status()), "quality is 0, expected 1 to 100");
  options.quality = 50;
  options.png_compression = 10;
  EXPECT_EQ(Message(EncodeImage(Gradient(2, 2), options).status()), "png_compression is 10, expected 0 to 9");
}

TEST(EncodeTest, RefusesSidesThatAFormatHasNoRoomFor) {
  EncodeOptions options;
  options.format = ImageFormat::kWebp;
  EXPECT_THAT(std::string(Message(EncodeImage(Gradient(16384, 1), options).status())), HasSubstr("at most 16383"));
  options.format = ImageFormat::kJpeg;
  EXPECT_THAT(std::string(Message(EncodeImage(Gradient(65536, 1), options).status())), HasSubstr("65500"));
}

TEST(XmpTest, IsOneWellFormedPacket) {
  EXPECT_EQ(
      WriteXmp({{"a b", "<1> & \x01"}}, false),
      "<?xpacket begin=\"\xEF\xBB\xBF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n"
      "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n"
      "<rdf:Description rdf:about=\"\" xmlns:fresco=\"urn:fresco:v1:\">\n"
      "<fresco:a_x0020_b>&lt;1&gt; &amp; \xEF\xBF\xBD</fresco:a_x0020_b>\n"
      "</rdf:Description>\n</rdf:RDF></x:xmpmeta>\n<?xpacket end=\"r\"?>");
}

// Whether there are texts or not.
TEST(EncodeTest, AMarkOfAModelsWorkIsReadBackAndIsNoText) {
  for (const ImageFormat format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    for (const ImageMetadata& texts : {ImageMetadata(), ImageMetadata{{"parameters", "a fox <&>"}}}) {
      for (const bool generated : {false, true}) {
        EncodeOptions options;
        options.format = format;
        options.metadata = texts;
        options.generated = generated;
        const absl::StatusOr<std::string> bytes = EncodeImage(Gradient(8, 8), options);
        ASSERT_TRUE(bytes.ok()) << bytes.status();
        const absl::StatusOr<DecodedImage> decoded = DecodeImage(*bytes);
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        EXPECT_EQ(decoded->generated, generated) << MimeType(format);
        EXPECT_EQ(decoded->metadata, texts) << MimeType(format);
      }
    }
  }
}

TEST(XmpTest, ReadsNothingFromDamagedPackets) {
  EXPECT_TRUE(ReadXmp("").empty());
  EXPECT_TRUE(ReadXmp("<fresco:").empty());
  EXPECT_TRUE(ReadXmp("<fresco:a>unfinished").empty());
  EXPECT_TRUE(ReadXmp("<fresco:>").empty());
  EXPECT_TRUE(ReadXmp("<fresco:a>\xFF</fresco:a>").empty());
}

TEST(XmpTest, OnlyDigitsAreAnEscapeInAKey) {
  const ImageMetadata expected = {{"A", "1"}, {"_x-00F_", "2"}, {"_x0xF_", "3"}};
  EXPECT_EQ(ReadXmp("<fresco:_x0041_>1</fresco:_x0041_><fresco:_x-00F_>2</fresco:_x-00F_>"
                    "<fresco:_x0xF_>3</fresco:_x0xF_>"),
            expected);
}

TEST(ExifTest, FollowsTheTiffLayout) {
  // TIFF 6.0: "MM", 42, the directory's offset; 1 entry: tag 0x0131, ASCII, 3 bytes in place; no next directory.
  EXPECT_EQ(WriteExif({"", "ab", ""}), std::string("MM\0*\0\0\0\x08"
                                                   "\0\x01\x01\x31\0\x02\0\0\0\x03"
                                                   "ab\0\0\0\0\0\0",
                                                   26));
  EXPECT_EQ(WriteExif({}), "");
}

TEST(ExifTest, SurvivesAnyDamagedByteAndTruncation) {
  const std::string block = WriteExif({"a description", "software", "a comment"});
  EXPECT_EQ(ReadExif(block).comment, "a comment");
  for (size_t at = 0; at < block.size(); ++at) {
    (void)ReadExif(std::string(block, 0, at));
    for (const int flip : {0x01, 0x80, 0xFF}) {
      std::string damaged = block;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      (void)ReadExif(damaged);
    }
  }
}

}  // namespace
}  // namespace fresco
