#include "pipeline/engine/memory_shortage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "pipeline/base/format_bytes.h"

namespace fresco {
namespace {

constexpr char kPayload[] = "fresco.dev/memory-shortage";
constexpr size_t kHoldersNamed = 6;  // of those that have most; the others are one sum
constexpr size_t kBlocksNamed = 3;

const MemorySnapshot& MemoryOf(const ShortageReport& report) {
  return report.shortage.has_value() ? report.shortage->before : report.memory;
}

bool SeveralModels(const MemorySnapshot& memory) {
  std::string first;
  for (const MemoryHeld& held : memory.held) {
    if (held.holder.model.empty() || held.bytes <= 0) continue;
    if (!first.empty() && held.holder.model != first) return true;
    first = held.holder.model;
  }
  return false;
}

// The model's name where there are others.
std::string NameAmong(const MemoryHolder& holder, bool several) {
  return absl::StrCat(several && !holder.model.empty() ? holder.model + "'s " : "", NameOf(holder));
}

std::string PrecisionOf(const ShortageReport& report, const MemoryHolder& holder) {
  if (holder.kind != MemoryKind::kWeights) return "";
  for (const ModelInfo::Component& component : report.components) {
    if (component.name == holder.component) return absl::StrCat(" (", component.precision, ")");
  }
  return "";
}

// As google.rpc.ErrorInfo's metadata has them: letters, digits and '_'.
std::string Key(const std::string& name) {
  std::string key = "held_";
  for (const char c : name) key += absl::ascii_isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return key;
}

std::string Asked(const ShortageReport& report) {
  const MemorySnapshot& memory = MemoryOf(report);
  std::string text = report.doing;
  if (report.width > 0) absl::StrAppend(&text, " ", report.width, "x", report.height);
  if (report.batch > 1) absl::StrAppend(&text, ", batch ", report.batch);
  absl::StrAppend(&text, report.predicted ? " would run out of memory on " : ": out of memory on ", report.device);
  if (report.shortage.has_value())
    absl::StrAppend(&text, ": ", FormatBytes(report.shortage->asked_bytes), " more were asked for");
  const int64_t whole = memory.limit_bytes > 0 ? memory.limit_bytes : report.whole.total_bytes;
  absl::StrAppend(&text, report.shortage.has_value() ? ", where " : ": ", FormatBytes(memory.allocated_bytes));
  if (whole > 0) absl::StrAppend(&text, " of ", FormatBytes(whole));
  absl::StrAppend(&text, memory.limit_bytes > 0 ? " (a limit that was set)" : "", " are taken");
  if (memory.limit_bytes == 0 && report.whole.total_bytes > 0)
    absl::StrAppend(&text, " and ", FormatBytes(report.whole.free_bytes), " are free");
  return text;
}

std::string Held(const ShortageReport& report) {
  const MemorySnapshot& memory = MemoryOf(report);
  const bool several = SeveralModels(memory);
  std::vector<std::string> parts;
  int64_t rest = memory.allocated_bytes;
  for (const MemoryHeld& held : memory.held) {
    if (held.bytes <= 0 || parts.size() == kHoldersNamed) break;
    parts.push_back(
        absl::StrCat(NameAmong(held.holder, several), " ", FormatBytes(held.bytes), PrecisionOf(report, held.holder)));
    rest -= held.bytes;
  }
  if (parts.empty()) return "";
  if (rest > 0) parts.push_back(absl::StrCat("the rest ", FormatBytes(rest)));
  return absl::StrCat(". Held: ", absl::StrJoin(parts, ", "));
}

std::string Largest(const ShortageReport& report) {
  const MemorySnapshot& memory = MemoryOf(report);
  std::vector<std::string> parts;
  for (const MemoryBlock& block : memory.largest) {
    if (parts.size() == kBlocksNamed) break;
    const std::string whose = NameOf(block.holder);
    parts.push_back(absl::StrCat(FormatBytes(block.bytes), " ",
                                 block.name.empty() ? whose : absl::StrCat(block.name, " (", whose, ")")));
  }
  return parts.empty() ? "" : absl::StrCat(". Largest: ", absl::StrJoin(parts, ", "));
}

std::string Needed(const ShortageReport& report) {
  std::string text;
  if (report.needed_bytes > 0) {
    absl::StrAppend(&text, ". Needed: about ", FormatBytes(report.needed_bytes),
                    report.needed_for.empty() ? "" : absl::StrCat(" (", report.needed_for, ")"));
  }
  if (!report.remedies.empty())
    absl::StrAppend(&text, ". It would fit with: ", absl::StrJoin(report.remedies, "; or "));
  return text;
}

}  // namespace

int64_t AvailableBytes(const ShortageReport& report, const std::string& model, int64_t state_bytes) {
  const MemorySnapshot& memory = MemoryOf(report);
  int64_t available = memory.limit_bytes > 0 ? memory.limit_bytes : memory.allocated_bytes + report.whole.free_bytes;
  int64_t own_state = 0;
  for (const MemoryHeld& held : memory.held) {
    if (held.holder.model != model) {
      available -= held.bytes;
    } else if (held.holder.kind == MemoryKind::kState) {
      own_state += held.bytes;
    }
  }
  return available - std::max<int64_t>(0, own_state - state_bytes);
}

std::string Describe(const ShortageReport& report) {
  // What helps comes first: a status is cut where it is too long to travel.
  return absl::StrCat(Asked(report), Needed(report), Held(report), Largest(report));
}

absl::Status ShortageError(const ShortageReport& report) {
  absl::Status status = absl::ResourceExhaustedError(Describe(report));
  const MemorySnapshot& memory = MemoryOf(report);
  const bool several = SeveralModels(memory);
  std::string payload = absl::StrCat("device\t", report.device, "\n");
  const auto add = [&](const std::string& key, int64_t bytes) { absl::StrAppend(&payload, key, "\t", bytes, "\n"); };
  if (report.shortage.has_value()) add("asked", report.shortage->asked_bytes);
  add("taken", memory.allocated_bytes);
  if (memory.limit_bytes > 0) add("limit", memory.limit_bytes);
  if (report.needed_bytes > 0) add("needed", report.needed_bytes);
  for (const MemoryHeld& held : memory.held) {
    if (held.bytes > 0) add(Key(NameAmong(held.holder, several)), held.bytes);
  }
  status.SetPayload(kPayload, absl::Cord(payload));
  return status;
}

std::vector<std::pair<std::string, std::string>> FindShortage(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  std::vector<std::pair<std::string, std::string>> found;
  if (!payload.has_value()) return found;
  const std::string lines(*payload);
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> field = absl::StrSplit(line, absl::MaxSplits('\t', 1));
    found.push_back(field);
  }
  return found;
}

}  // namespace fresco
