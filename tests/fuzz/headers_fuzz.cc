// The metadata of a call that the server reads: traces, as W3C has them. One header a line, the first a traceparent.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/rpc/trace_context.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t end = 0; end != std::string_view::npos;) {
    end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

void CheckParent(std::string_view value) {
  const std::optional<Traceparent> parent = ParseTraceparent(value);
  if (!parent) return;
  const std::string text = ToString(*parent);
  const std::optional<Traceparent> again = ParseTraceparent(text);
  Check(again && ToString(*again) == text, "a traceparent that changes when it is sent on:", text);
}

void CheckState(const std::vector<std::string_view>& headers) {
  const std::optional<std::string> state = ParseTracestate(headers);
  if (!state) return;
  Check(IsPrintable(*state), "a tracestate that is not printable");
  Check(ParseTracestate({*state}) == state, "a tracestate that changes when it is sent on:", *state);
}

// Whatever the caller says, the server's own span is a valid one.
void CheckContext(const std::vector<std::string_view>& parents, const std::vector<std::string_view>& states) {
  uint64_t last = 0;
  const TraceContext context = ContinueTrace(parents, states, [&last] { return last++; });
  Check(ParseTraceparent(ToString(context.own)).has_value(), "a span that is none:", ToString(context.own));
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  const std::vector<std::string_view> lines = Lines(TextOf(data, size));
  const std::vector<std::string_view> states(lines.begin() + 1, lines.end());
  CheckParent(lines.front());
  CheckState(states);
  CheckContext({lines.front()}, states);
  CheckContext(states, {lines.front()});
  return 0;
}
