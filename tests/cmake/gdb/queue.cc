// What queue_test.py looks at: a scheduler whose only device is busy, and requests that wait for it. The dispatcher,
// which holds the queue, is compiled into this program for the debugger.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

GenerationRequest Request(const std::string& id, const std::string& tenant, RequestPriority priority, int images) {
  GenerationRequest request = SchedulerHarness::Request(id, /*steps=*/4, images);
  request.tenant = tenant;
  request.priority = priority;
  return request;
}

void Wait() {
  SchedulerOptions options;
  options.max_batch = 1;
  options.max_resident = 1;
  SchedulerHarness harness(options);
  FakeScript* const script = harness.AddModel("fake");
  script->step_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  readers.push_back(harness.Submit(Request("busy", "", RequestPriority::kStandard, 1)));
  script->step_gate()->AwaitBlocked();
  readers.push_back(harness.Submit(Request("first", "ada", RequestPriority::kStandard, 1)));
  harness.clock.Advance(absl::Seconds(2));
  readers.push_back(harness.Submit(Request("second", "bob", RequestPriority::kInteractive, 2)));
  readers.push_back(harness.Submit(Request("last", "ada", RequestPriority::kBatch, 1)));  // the test stops in this one
  harness.OpenGates();
  harness.Settle();
}

}  // namespace
}  // namespace fresco

int main() {
  fresco::Wait();
}
