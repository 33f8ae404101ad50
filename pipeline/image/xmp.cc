#include "pipeline/image/xmp.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

constexpr std::string_view kHead =
    "<?xpacket begin=\"\xEF\xBB\xBF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n"
    "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n"
    "<rdf:Description rdf:about=\"\" xmlns:fresco=\"urn:fresco:v1:\">\n";
constexpr std::string_view kGenerated =
    "<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\">"
    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>\n";
constexpr std::string_view kTail = "</rdf:Description>\n</rdf:RDF></x:xmpmeta>\n<?xpacket end=\"r\"?>";
constexpr std::string_view kOpen = "<fresco:";
constexpr std::string_view kClose = "</fresco:";

// XML 1.0's Char; \r is written as a reference, because parsers read a bare one as \n.
bool IsXmlCharacter(char32_t c) {
  return c == '\t' || c == '\n' || c == '\r' || (c >= 0x20 && c != 0xFFFE && c != 0xFFFF && c <= 0x10FFFF);
}

std::string EscapeText(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::string_view before = text;
    const char32_t c = TakeUtf8(&text);
    if (!IsXmlCharacter(c)) {
      out += kReplacementCharacter;
    } else if (c == '&' || c == '<' || c == '>' || c == '\r') {
      out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : "&#xD;";
    } else {
      out += before.substr(0, before.size() - text.size());
    }
  }
  return out;
}

std::string UnescapeText(std::string_view text) {
  return absl::StrReplaceAll(ToAbsl(text), {{"&lt;", "<"},
                                            {"&gt;", ">"},
                                            {"&quot;", "\""},
                                            {"&apos;", "'"},
                                            {"&#xD;", "\r"},
                                            {"&#13;", "\r"},
                                            {"&amp;", "&"}});
}

// "Creation Time" -> "Creation_x0020_Time"; an underscore that would read as such an escape is escaped itself.
std::string EscapeKey(std::string_view key) {
  std::string out;
  for (size_t i = 0; i < key.size(); ++i) {
    const char c = key[i];
    const bool starts = absl::ascii_isalpha(c) || (c == '_' && key.substr(i + 1, 1) != "x");
    const bool continues = i > 0 && (absl::ascii_isdigit(c) || c == '-' || c == '.');
    if (starts || continues) {
      out.push_back(c);
    } else {
      absl::StrAppendFormat(&out, "_x%04X_", c);
    }
  }
  return out;
}

std::string UnescapeKey(std::string_view key) {
  std::string out;
  while (!key.empty()) {
    int code = 0;
    const std::string_view digits = key.substr(std::min<size_t>(2, key.size()), 4);
    // Digits alone: the parser takes a sign and spaces too.
    const bool escape = key.size() >= 7 && key.substr(0, 2) == "_x" && key[6] == '_' &&
                        std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit) &&
                        absl::SimpleHexAtoi(ToAbsl(digits), &code) && code < 0x80;
    out.push_back(escape ? static_cast<char>(code) : key.front());
    key.remove_prefix(escape ? 7 : 1);
  }
  return out;
}

std::string WriteWithTextsOf(const ImageMetadata& metadata, bool generated, size_t text_bytes) {
  std::string out(kHead);
  if (generated) out += kGenerated;
  for (const auto& [key, value] : metadata) {
    const std::string name = EscapeKey(key);
    out += StrCat(kOpen, name, ">", EscapeText(Utf8Prefix(value, text_bytes)), kClose, name, ">\n");
  }
  out += kTail;
  return out;
}

}  // namespace

std::string WriteXmp(const ImageMetadata& metadata, bool generated) {
  return WriteWithTextsOf(metadata, generated, std::string::npos);
}

std::string WriteXmp(const ImageMetadata& metadata, bool generated, size_t bytes) {
  size_t longest = 0;
  for (const auto& [key, value] : metadata) longest = std::max(longest, value.size());
  for (;; longest = longest / 4 * 3) {
    std::string packet = WriteWithTextsOf(metadata, generated, longest);
    if (packet.size() <= bytes) return packet;
    if (longest == 0) return "";
  }
}

bool SaysGenerated(std::string_view packet) {
  return packet.find(kGenerated) != std::string_view::npos;
}

ImageMetadata ReadXmp(std::string_view packet) {
  ImageMetadata metadata;
  if (!IsUtf8(packet)) return metadata;
  for (size_t at = packet.find(kOpen); at != std::string_view::npos; at = packet.find(kOpen, at)) {
    at += kOpen.size();
    const size_t name_end = packet.find('>', at);
    if (name_end == std::string_view::npos) break;
    const std::string_view name = packet.substr(at, name_end - at);
    at = name_end + 1;
    if (packet.substr(name_end - 1, 1) == "/") continue;
    const size_t close = packet.find(StrCat(kClose, name, ">"), at);
    if (close == std::string_view::npos) break;
    metadata.emplace_back(UnescapeKey(name), UnescapeText(packet.substr(at, close - at)));
    at = close;
  }
  return metadata;
}

}  // namespace fresco
