// The journal of a batch: whatever is in it, what is added is found, now and by the next run.
#include <string>
#include <string_view>
#include <vector>

#include "client/journal.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

BatchJob JobOf(std::string_view prompt) {
  BatchJob job;
  job.line = 1;
  job.request.prompt = std::string(prompt);
  job.request.guidance = 4.5F;
  job.request.seed = 7;
  job.output = "out/fox.png";
  return job;
}

void CheckFound(const Journal& journal, const BatchJob& job, const JournalImage& image) {
  const std::vector<JournalImage> found = journal.Find(job);
  Check(found.size() == 1 && found[0].file == image.file && found[0].seed == image.seed, "an entry that is not found");
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::string path = folder.Write("journal.jsonl", TextOf(data, size));
  const JournalImage image{"out/fox.png", UINT64_MAX};
  const BatchJob known = JobOf("a fox"), added = JobOf("a prompt that no input has: 9f3c");
  Journal journal(path);
  const std::vector<JournalImage> before = journal.Find(known);
  Check(journal.Add(added, {image}).ok(), "nothing can be added");
  CheckFound(journal, added, image);
  const Journal next(path);
  CheckFound(next, added, image);
  Check(next.Find(known).size() == before.size(), "what was known is known no more");
  return 0;
}
