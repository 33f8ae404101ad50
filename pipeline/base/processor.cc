#include "pipeline/base/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
// Asked of the processor itself: compilers know the name of this feature from different versions on.
bool ProcessorHasAmxBf16() {
  constexpr unsigned kFeatures = 7, kAmxBf16 = 1u << 22;  // leaf; of its EDX (Intel SDM, CPUID)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(kFeatures, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0;
}
#else
bool ProcessorHasAmxBf16() {
  return false;
}
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
