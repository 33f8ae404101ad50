# Fresco::Torch: an imported target over the libtorch inside PyPI's `torch` wheel. find_package(Torch) would demand a CUDA
# toolkit and a GPU architecture list even for a program that computes on the CPU; this needs neither. CUDA comes at run
# time, by loading libtorch_cuda.so (pipeline/engine/cuda_runtime.cc).
include_guard(GLOBAL)

set(FRESCO_TORCH_ROOT "" CACHE PATH "The folder `torch` of an installed wheel (found in .deps, then by python3)")

if(NOT FRESCO_TORCH_ROOT)
  file(GLOB candidates "${CMAKE_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/torch")
  if(NOT candidates)
    execute_process(COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE candidates OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  list(GET candidates 0 FRESCO_TORCH_ROOT)
endif()
if(NOT EXISTS "${FRESCO_TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "libtorch is not at '${FRESCO_TORCH_ROOT}': run ./dev build, which installs it, or pass -DFRESCO_TORCH_ROOT=.../site-packages/torch")
endif()
message(STATUS "libtorch: ${FRESCO_TORCH_ROOT}")

# at::parallel_for is a template, and a plain loop where it is compiled without OpenMP. The runtime is libtorch's own: a
# second one in the process would have threads of its own. (clang, which only analyses here, has no omp.h.)
file(GLOB FRESCO_TORCH_OPENMP "${FRESCO_TORCH_ROOT}/lib/libgomp*.so*")
if(NOT FRESCO_TORCH_OPENMP)
  message(FATAL_ERROR "No libgomp in '${FRESCO_TORCH_ROOT}/lib': is this libtorch built with another OpenMP?")
endif()
list(GET FRESCO_TORCH_OPENMP 0 FRESCO_TORCH_OPENMP)

add_library(Fresco::Torch INTERFACE IMPORTED)
set_target_properties(Fresco::Torch PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${FRESCO_TORCH_ROOT}/include"
  INTERFACE_LINK_LIBRARIES "${FRESCO_TORCH_ROOT}/lib/libtorch_cpu.so;${FRESCO_TORCH_ROOT}/lib/libc10.so;${FRESCO_TORCH_OPENMP}"
  INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fopenmp>"
  # Its own RUNPATHs find the rest (OpenMP, CUDA's runtime) beside it.
  INTERFACE_LINK_OPTIONS "-Wl,-rpath,${FRESCO_TORCH_ROOT}/lib")
