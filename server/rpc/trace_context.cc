#include "server/rpc/trace_context.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr size_t kTraceIdDigits = 32, kSpanIdDigits = 16;
constexpr size_t kTraceparentBytes = 2 + 1 + kTraceIdDigits + 1 + kSpanIdDigits + 1 + 2;
constexpr uint8_t kKnownFlags = 0x03;

constexpr size_t kMaxMembers = 32;
constexpr size_t kMaxSimpleKey = 256, kMaxTenantId = 241, kMaxSystemId = 14, kMaxValue = 256;

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsId(std::string_view text) {
  return IsLowerHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

bool IsLower(char c) {
  return c >= 'a' && c <= 'z';
}

// The characters of a key after its first.
bool IsKeyTail(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return IsLower(c) || absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '*' ||
           c == '/';
  });
}

bool IsKey(std::string_view key) {
  const size_t at = key.find('@');
  const std::string_view first = key.substr(0, at);
  if (first.empty() || !IsKeyTail(first.substr(1))) return false;
  if (at == std::string_view::npos) return IsLower(first[0]) && first.size() <= kMaxSimpleKey;
  const std::string_view system = key.substr(at + 1);
  return (IsLower(first[0]) || absl::ascii_isdigit(static_cast<unsigned char>(first[0]))) &&
         first.size() <= kMaxTenantId && !system.empty() && system.size() <= kMaxSystemId && IsLower(system[0]) &&
         IsKeyTail(system.substr(1));
}

bool IsValue(std::string_view value) {
  return !value.empty() && value.size() <= kMaxValue && value.back() != ' ' &&
         std::all_of(value.begin(), value.end(), [](char c) { return c >= 0x20 && c <= 0x7e && c != ',' && c != '='; });
}

std::string_view TrimBlanks(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// 16 digits, not all 0: the one number that would be none has its place taken by 1.
std::string RandomId(const std::function<uint64_t()>& random) {
  return absl::StrFormat("%016x", std::max<uint64_t>(random(), 1));
}

}  // namespace

std::optional<Traceparent> ParseTraceparent(std::string_view value) {
  if (value.size() < kTraceparentBytes) return std::nullopt;
  const std::string_view version = value.substr(0, 2), trace_id = value.substr(3, kTraceIdDigits),
                         span_id = value.substr(4 + kTraceIdDigits, kSpanIdDigits),
                         flags = value.substr(kTraceparentBytes - 2, 2);
  const bool dashes = value[2] == '-' && value[3 + kTraceIdDigits] == '-' && value[kTraceparentBytes - 3] == '-';
  if (!dashes || !IsLowerHex(version) || version == "ff" || !IsId(trace_id) || !IsId(span_id) || !IsLowerHex(flags))
    return std::nullopt;
  const std::string_view rest = value.substr(kTraceparentBytes);
  if (!rest.empty() && (version == "00" || rest[0] != '-')) return std::nullopt;
  const auto bits = static_cast<uint8_t>(std::stoi(std::string(flags), nullptr, 16));
  return Traceparent{std::string(trace_id), std::string(span_id), static_cast<uint8_t>(bits & kKnownFlags)};
}

std::string ToString(const Traceparent& traceparent) {
  return absl::StrFormat("00-%s-%s-%02x", traceparent.trace_id, traceparent.span_id, unsigned{traceparent.flags});
}

std::optional<std::string> ParseTracestate(const std::vector<std::string_view>& headers) {
  std::vector<std::string> members;
  std::set<std::string_view> keys;
  for (const std::string_view header : headers) {
    for (const absl::string_view part : absl::StrSplit(ToAbsl(header), ',')) {
      const std::string_view member = TrimBlanks(ToStd(part));
      if (member.empty()) continue;
      const size_t equals = member.find('=');
      if (equals == std::string_view::npos || !IsKey(member.substr(0, equals)) || !IsValue(member.substr(equals + 1)) ||
          !keys.insert(member.substr(0, equals)).second || keys.size() > kMaxMembers)
        return std::nullopt;
      members.emplace_back(member);
    }
  }
  return absl::StrJoin(members, ",");
}

TraceContext ContinueTrace(const std::vector<std::string_view>& traceparents,
                           const std::vector<std::string_view>& tracestates, const std::function<uint64_t()>& random) {
  TraceContext context;
  const std::optional<Traceparent> parent =
      traceparents.size() == 1 ? ParseTraceparent(traceparents.front()) : std::nullopt;
  context.own.span_id = RandomId(random);
  if (!parent.has_value()) {
    context.own.trace_id = RandomId(random);  // one after the other: arguments of one call have no order
    context.own.trace_id += RandomId(random);
    return context;
  }
  context.own.trace_id = parent->trace_id;
  context.own.flags = parent->flags;
  context.parent_span_id = parent->span_id;
  context.tracestate = ParseTracestate(tracestates).value_or("");
  return context;
}

}  // namespace fresco
