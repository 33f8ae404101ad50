// How libtorch's caching allocator takes a GPU's memory.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace fresco {

// From now on the allocator grows its segments where it would else take new ones of other sizes: pictures of many
// sizes, and models that come and go, would leave behind pieces that fit nothing. Not where the operator has said how
// the allocator is to work (PYTORCH_ALLOC_CONF or PYTORCH_CUDA_ALLOC_CONF, whatever is in it), nor on a GPU whose
// driver has no virtual memory management. Before the first tensor on a GPU, once CUDA is loaded.
void GrowGpuSegments(const at::Device& device);

// Whether the environment's settings (null: not set) leave that to us.
bool LeavesAllocatorToUs(const char* alloc_conf, const char* cuda_alloc_conf);

// Adds one setting ("KEY:VALUE") to those that there are: libtorch by itself sets some of the others back. May throw
// libtorch's exceptions.
void AddAllocatorSetting(const std::string& setting);

}  // namespace fresco
