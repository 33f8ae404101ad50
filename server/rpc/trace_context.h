// W3C trace context (https://www.w3.org/TR/trace-context/): which trace a call belongs to, as its metadata says, and
// the span that the server's part of it is. Pure: randomness is passed in.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fresco {

inline constexpr char kTraceparentHeader[] = "traceparent";  // gRPC metadata, both ways
inline constexpr char kTracestateHeader[] = "tracestate";

// A traceparent's value: "00-<trace_id>-<span_id>-<flags>".
struct Traceparent {
  std::string trace_id;  // 32 lower-case hexadecimal digits, not all 0
  std::string span_id;   // 16 likewise
  uint8_t flags = 0;     // 1: sampled, 2: the trace id is random; none other
};

// Nothing for what the specification calls invalid. Of a version later than ours what ours knows is taken, as it is
// told to.
std::optional<Traceparent> ParseTraceparent(std::string_view value);
std::string ToString(const Traceparent& traceparent);

// The list-members of a tracestate that may be in several headers, in order, joined by ",". Nothing where any is
// invalid, a key is there twice or they are more than 32: then all are to be dropped. Empty: there are none.
std::optional<std::string> ParseTracestate(const std::vector<std::string_view>& headers);

// The server's part of a trace.
struct TraceContext {
  Traceparent own;             // the trace, and the server's span
  std::string parent_span_id;  // the caller's; empty: the trace begins here
  std::string tracestate;      // the caller's; empty: none
};

// Goes on with the caller's trace where there is exactly one traceparent and it is valid; else begins one. `random`
// gives 64 random bits at a time.
TraceContext ContinueTrace(const std::vector<std::string_view>& traceparents,
                           const std::vector<std::string_view>& tracestates, const std::function<uint64_t()>& random);

}  // namespace fresco
