#include "pipeline/base/processor.h"

namespace fresco {

#if defined(__x86_64__)
bool ProcessorHasAvx512() {
  return __builtin_cpu_supports("avx512f") != 0;
}
bool ProcessorHasAvx512Vnni() {
  return __builtin_cpu_supports("avx512vnni") != 0;
}
bool ProcessorHasAvx512Bf16() {
  return __builtin_cpu_supports("avx512bf16") != 0;
}
#else
bool ProcessorHasAvx512() {
  return false;
}
bool ProcessorHasAvx512Vnni() {
  return false;
}
bool ProcessorHasAvx512Bf16() {
  return false;
}
#endif

}  // namespace fresco
