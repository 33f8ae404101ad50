// One safetensors file: what opens is sound, and is the same when it is written again.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/checkpoint/dtype.h"
#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/checkpoint/safetensors_writer.h"
#include "pipeline/checkpoint/weights.h"
#include "tests/fuzz/checkpoint_checks.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

// Each byte of the data section is one tensor's.
void CheckCoverage(const SafetensorsFile& file, size_t file_bytes) {
  uint64_t bytes = 0;
  for (const auto& [name, entry] : file.entries()) {
    Check(entry.begin <= entry.end, "a tensor ends before it begins:", name);
    Touch(file.Data(entry));
    bytes += entry.bytes();
  }
  Check(bytes + 8 <= file_bytes, "more data than the file has");
}

// Those of known types, to another file.
std::string Rewrite(const SafetensorsFile& file, const std::string& path) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const auto& [name, entry] : file.entries()) {
    if (const auto dtype = ParseDType(entry.dtype_name)) tensors.push_back({name, *dtype, entry.shape});
  }
  auto writer = SafetensorsWriter::Create(path, tensors, {.metadata = file.metadata(), .replace = true});
  Check(writer.ok(), "what was read cannot be written:", writer.status().ToString());
  for (const SafetensorsWriter::Tensor& tensor : writer->tensors()) {
    const auto view = file.Find(tensor.name);
    Check(view.ok() && writer->Write({view->data, view->bytes}).ok(), "a tensor cannot be written:", tensor.name);
  }
  Check(writer->Finish().ok(), "the file cannot be finished");
  return path;
}

void CheckSame(const SafetensorsFile& file, const SafetensorsFile& copy) {
  Check(file.metadata() == copy.metadata(), "metadata differ after writing");
  size_t known = 0;
  for (const auto& [name, entry] : file.entries()) {
    const auto before = file.Find(name), after = copy.Find(name);
    if (!before.ok()) continue;
    ++known;
    Check(after.ok() && before->dtype == after->dtype && before->shape == after->shape && before->bytes == after->bytes,
          "a tensor differs after writing:", name);
    Check(std::equal(before->data, before->data + before->bytes, after->data), "data differ after writing:", name);
    Check(after->AlignedToElement(), "a tensor that was written is not aligned:", name);
  }
  Check(copy.entries().size() == known, "writing has made tensors up");
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::string bytes = fuzz::SafetensorsBytes(TextOf(data, size));
  const std::string path = folder.Write("model.safetensors", bytes);
  const auto file = SafetensorsFile::Open(path);
  if (!file.ok()) {
    CheckError(file.status(), path);
    return 0;
  }
  CheckCoverage(**file, bytes.size());
  CheckStore(WeightStore::OpenFile(path).value(), path);
  const auto copy = SafetensorsFile::Open(Rewrite(**file, folder.PathOf("copy.safetensors")));
  Check(copy.ok(), "what was written cannot be read:", copy.status().ToString());
  CheckSame(**file, **copy);
  return 0;
}
