#include "server/scheduler/policy/eviction.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "pipeline/base/format_bytes.h"

namespace fresco {
namespace {

int64_t BytesOf(const std::vector<const ResidentModel*>& models) {
  int64_t bytes = 0;
  for (const ResidentModel* model : models) bytes += model->bytes;
  return bytes;
}

// Those that may go, least recently used first.
std::vector<const ResidentModel*> Evictable(const std::vector<ResidentModel>& residents) {
  std::vector<const ResidentModel*> evictable;
  for (const ResidentModel& model : residents) {
    if (!model.busy && !model.pinned && !model.leaving) evictable.push_back(&model);
  }
  std::stable_sort(evictable.begin(), evictable.end(),
                   [](const ResidentModel* a, const ResidentModel* b) { return a->last_used < b->last_used; });
  return evictable;
}

std::string Why(const ResidentModel& model) {
  if (model.leaving) return " (leaving)";
  if (model.pinned) return " (pinned)";
  return model.busy ? " (busy)" : "";
}

}  // namespace

EvictionPlan PlanEviction(const std::vector<ResidentModel>& residents, int64_t budget, int64_t needed) {
  int64_t used = 0, leaving = 0;
  for (const ResidentModel& model : residents) {
    used += model.bytes;
    if (model.leaving) leaving += model.bytes;
  }
  if (used + needed <= budget) return {EvictionPlan::Kind::kFits, {}};
  const int64_t missing = used - leaving + needed - budget;
  if (missing <= 0) return {EvictionPlan::Kind::kWait, {}};
  std::vector<const ResidentModel*> victims;
  for (const ResidentModel* model : Evictable(residents)) {
    if (BytesOf(victims) < missing) victims.push_back(model);
  }
  if (BytesOf(victims) < missing) return {EvictionPlan::Kind::kImpossible, {}};
  // The most recently used of them first, as it is the one to keep.
  for (size_t i = victims.size(); i-- > 0;) {
    if (BytesOf(victims) - victims[i]->bytes >= missing) victims.erase(victims.begin() + static_cast<ptrdiff_t>(i));
  }
  EvictionPlan plan{EvictionPlan::Kind::kEvict, {}};
  for (const ResidentModel* model : victims) plan.victims.push_back(model->name);
  return plan;
}

std::string DescribeBudget(const std::vector<ResidentModel>& residents, int64_t budget) {
  int64_t used = 0;
  std::string list;
  for (const ResidentModel& model : residents) {
    used += model.bytes;
    absl::StrAppend(&list, list.empty() ? ": " : ", ", model.name, " ", FormatBytes(model.bytes), Why(model));
  }
  return absl::StrCat(FormatBytes(used), " of ", FormatBytes(budget), " are taken", list);
}

}  // namespace fresco
