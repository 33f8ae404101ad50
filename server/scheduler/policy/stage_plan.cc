#include "server/scheduler/policy/stage_plan.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

bool IsNew(const Job& job) {
  return job.state == JobState::kWaiting && job.steps_left == job.spec.steps;
}

double DecodeSecondsOf(const CostModel& costs, const JobSpec& spec) {
  return StageSeconds(costs, -1, spec.decode_curve);
}

// Of one device at one boundary.
class StageCosts {
 public:
  StageCosts(const QueueIndex& index, const CostModel& costs, absl::Span<const FinishedImage> finished, TextCount texts)
      : index_(index), costs_(costs), texts_(texts) {
    for (const FinishedImage& image : finished) decodes_.emplace(image.id, DecodeSecondsOf(costs, image.spec));
  }

  double Of(const StagePlan& plan) const {
    double seconds = 0;
    for (JobId id : plan.decode) seconds += decodes_.at(id);
    return seconds + OfTexts(plan.prepare);
  }

  double OfTexts(const std::vector<JobId>& images) const {
    std::map<CurveId, std::vector<JobId>> by_length;
    for (JobId id : images) {
      const CurveId curve = index_.job(id).spec.text_curve;
      if (curve >= 0) by_length[curve].push_back(id);
    }
    double seconds = 0;
    for (const auto& [curve, ids] : by_length) seconds += TextSeconds(costs_, curve, texts_(ids));
    return seconds;
  }

 private:
  const QueueIndex& index_;
  const CostModel& costs_;
  const TextCount texts_;
  std::unordered_map<JobId, double> decodes_;
};

StageItem ItemOf(JobId id, const JobSpec& spec, bool decode, double seconds_left, bool by_due) {
  const absl::Time latest = by_due ? spec.due - absl::Seconds(seconds_left) : absl::InfinitePast();
  return {id, decode, latest, spec.sequence, spec.image_index};
}

// Of a step of what is in the batch and has been prepared; of all of it where nothing has.
double StepSeconds(const QueueIndex& index, const CostModel& costs, const std::vector<JobId>& batch, bool running) {
  int rows = 0;
  CurveId curve = 0;
  for (JobId id : batch) {
    const Job& job = index.job(id);
    if (running && IsNew(job)) continue;
    rows += job.spec.rows;
    curve = index.group(job.spec.group).curve;
  }
  return rows == 0 ? 0 : costs.StepSeconds(curve, rows);
}

StageItem DecodeOf(const CostModel& costs, const FinishedImage& image, bool by_due) {
  return ItemOf(image.id, image.spec, true, DecodeSecondsOf(costs, image.spec), by_due);
}

void MostUrgentFirst(std::vector<StageItem>* items) {
  const auto order = [](const StageItem& item) {
    return std::tie(item.latest, item.sequence, item.image_index, item.id);
  };
  std::sort(items->begin(), items->end(), [&](const auto& a, const auto& b) { return order(a) < order(b); });
}

}  // namespace

StagePlan PlanStages(std::vector<StageItem> items, double budget, absl::FunctionRef<double(const StagePlan&)> seconds) {
  MostUrgentFirst(&items);
  StagePlan plan;
  for (const StageItem& item : items) {
    StagePlan larger = plan;
    (item.decode ? larger.decode : larger.prepare).push_back(item.id);
    const bool first = plan.decode.empty() && plan.prepare.empty();
    if (!first && seconds(larger) > budget) break;
    plan = std::move(larger);
  }
  return plan;
}

void WithholdNew(const QueueIndex& index, Decision* decision) {
  const auto is_new = [&](JobId id) { return IsNew(index.job(id)); };
  std::erase_if(decision->start, is_new);
  std::erase_if(decision->batch, is_new);
}

void BoundStages(const QueueIndex& index, const CostModel& costs, absl::Span<const FinishedImage> finished,
                 TextCount texts, bool by_due, Decision* decision) {
  std::vector<JobId> fresh;
  for (JobId id : decision->batch) {
    if (IsNew(index.job(id))) fresh.push_back(id);
  }
  if (finished.empty() && fresh.empty()) return;
  const bool running = fresh.size() < decision->batch.size();
  const StageCosts stages(index, costs, finished, texts);
  std::vector<StageItem> items;
  for (const FinishedImage& image : finished) items.push_back(DecodeOf(costs, image, by_due));
  if (running) {
    for (JobId id : fresh) {
      const Job& job = index.job(id);
      const double left = stages.OfTexts({id}) + job.seconds_left + DecodeSecondsOf(costs, job.spec);
      items.push_back(ItemOf(id, job.spec, false, left, by_due));
    }
  }
  StagePlan plan = PlanStages(std::move(items), StepSeconds(index, costs, decision->batch, running),
                              [&](const StagePlan& larger) { return stages.Of(larger); });
  decision->decode = std::move(plan.decode);
  if (!running) return;
  const auto later = [&](JobId id) {
    return std::count(fresh.begin(), fresh.end(), id) > 0 &&
           std::count(plan.prepare.begin(), plan.prepare.end(), id) == 0;
  };
  std::erase_if(decision->start, later);
  std::erase_if(decision->batch, later);
}

std::vector<JobId> NextDecodes(const CostModel& costs, absl::Span<const FinishedImage> finished, bool by_due,
                               size_t room) {
  std::vector<StageItem> items;
  for (const FinishedImage& image : finished) items.push_back(DecodeOf(costs, image, by_due));
  MostUrgentFirst(&items);
  std::vector<JobId> next;
  for (size_t i = 0; i < std::min(room, items.size()); ++i) next.push_back(items[i].id);
  return next;
}

}  // namespace fresco
