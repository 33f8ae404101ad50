#include "server/scheduler/policy/stage_plan.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
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

// Of each image, by the length of its texts, how many it adds to those before it. Each image is asked about once,
// however many there are: whoever counts looks every text up, under the dispatcher's lock.
class NewTexts {
 public:
  NewTexts(const QueueIndex& index, absl::Span<const JobId> images, TextCount texts) {
    std::map<CurveId, std::vector<JobId>> by_length;
    for (JobId id : images) {
      if (const CurveId curve = index.job(id).spec.text_curve; curve >= 0) by_length[curve].push_back(id);
    }
    for (const auto& [curve, ids] : by_length) {
      const std::vector<int> added = texts(ids);
      for (size_t i = 0; i < ids.size(); ++i) {
        added_[ids[i]] = {curve, added[i]};
        totals_[curve] += added[i];
      }
    }
  }

  struct Added {
    CurveId curve = -1;  // none
    int texts = 0;
  };
  Added Of(JobId image) const {
    const auto found = added_.find(image);
    return found == added_.end() ? Added() : found->second;
  }
  int Total(CurveId curve) const { return totals_.at(curve); }

 private:
  std::unordered_map<JobId, Added> added_;
  std::map<CurveId, int> totals_;
};

// What is planned for one device at one boundary, item after item.
class StageCosts {
 public:
  // `fresh`: in the order in which they are planned.
  StageCosts(const QueueIndex& index, const CostModel& costs, absl::Span<const FinishedImage> finished,
             absl::Span<const JobId> fresh, TextCount texts)
      : costs_(costs), texts_(index, fresh, texts) {
    for (const FinishedImage& image : finished) decodes_.emplace(image.id, DecodeSecondsOf(costs, image.spec));
  }

  // Of the next one, on top of those before it.
  double More(const StageItem& item) {
    if (item.decode) return decodes_.at(item.id);
    const NewTexts::Added added = texts_.Of(item.id);
    if (added.texts == 0) return 0;
    int& planned = planned_[added.curve];
    const double before = TextSeconds(costs_, added.curve, planned);
    planned += added.texts;
    return TextSeconds(costs_, added.curve, planned) - before;
  }

 private:
  const CostModel& costs_;
  const NewTexts texts_;
  std::unordered_map<JobId, double> decodes_;
  std::map<CurveId, int> planned_;  // texts
};

StageItem ItemOf(JobId id, const JobSpec& spec, bool decode, double seconds_left, bool by_due) {
  const absl::Time latest = by_due ? spec.due - absl::Seconds(seconds_left) : absl::InfinitePast();
  return {id, decode, latest, spec.sequence, spec.image_index};
}

// Of a step of what is in the batch and has been prepared; of all of it where nothing has.
double StepSeconds(const QueueIndex& index, const CostModel& costs, const std::vector<JobId>& batch, bool running) {
  StepSize size;
  for (JobId id : batch) {
    const Job& job = index.job(id);
    if (!running || !IsNew(job)) index.AddRows(job, &size);
  }
  return costs.StepSeconds(size);
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

// By when each of these has to be prepared: as if its texts were encoded by themselves.
std::vector<StageItem> ToPrepare(const QueueIndex& index, const CostModel& costs, const std::vector<JobId>& fresh,
                                 TextCount texts, bool by_due) {
  std::vector<StageItem> items;
  for (JobId id : fresh) {
    const Job& job = index.job(id);
    const int own = job.spec.text_curve < 0 ? 0 : texts({id}).front();
    const double left =
        TextSeconds(costs, job.spec.text_curve, own) + job.seconds_left + DecodeSecondsOf(costs, job.spec);
    items.push_back(ItemOf(id, job.spec, false, left, by_due));
  }
  MostUrgentFirst(&items);
  return items;
}

}  // namespace

std::vector<std::pair<JobId, double>> TextShares(const QueueIndex& index, const CostModel& costs,
                                                 absl::Span<const JobId> images, TextCount texts) {
  const NewTexts all(index, images, texts);
  std::vector<std::pair<JobId, double>> shares;
  for (JobId id : images) {
    const auto [curve, added] = all.Of(id);
    if (added == 0) continue;
    const int total = all.Total(curve);
    shares.emplace_back(id, TextSeconds(costs, curve, total) * added / total);
  }
  return shares;
}

StagePlan PlanStages(std::vector<StageItem> items, double budget, absl::FunctionRef<double(const StageItem&)> more) {
  MostUrgentFirst(&items);
  StagePlan plan;
  double seconds = 0;
  for (const StageItem& item : items) {
    const bool first = plan.decode.empty() && plan.prepare.empty();
    seconds += more(item);
    if (!first && seconds > budget) break;
    (item.decode ? plan.decode : plan.prepare).push_back(item.id);
  }
  return plan;
}

void BoundStages(const QueueIndex& index, const CostModel& costs, absl::Span<const FinishedImage> finished,
                 TextCount texts, bool by_due, Decision* decision) {
  std::vector<JobId> fresh;
  for (JobId id : decision->batch) {
    if (IsNew(index.job(id))) fresh.push_back(id);
  }
  if (finished.empty() && fresh.empty()) return;
  const bool running = fresh.size() < decision->batch.size();
  std::vector<StageItem> items;
  if (running) items = ToPrepare(index, costs, fresh, texts, by_due);
  std::vector<JobId> planned;
  for (const StageItem& item : items) planned.push_back(item.id);
  StageCosts stages(index, costs, finished, planned, texts);
  for (const FinishedImage& image : finished) items.push_back(DecodeOf(costs, image, by_due));
  StagePlan plan = PlanStages(std::move(items), StepSeconds(index, costs, decision->batch, running),
                              [&](const StageItem& item) { return stages.More(item); });
  decision->decode = std::move(plan.decode);
  if (!running) return;
  std::unordered_set<JobId> later(fresh.begin(), fresh.end());
  for (JobId id : plan.prepare) later.erase(id);
  const auto starts_later = [&](JobId id) { return later.contains(id); };
  std::erase_if(decision->start, starts_later);
  std::erase_if(decision->batch, starts_later);
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
