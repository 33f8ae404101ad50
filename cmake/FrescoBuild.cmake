# How every target of Fresco is built: the language, the warnings, the sanitizers, and the ladder (see fresco_library).
include_guard(GLOBAL)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
# Line tables are enough for a useful backtrace and keep a build's size and link time small.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")
if(FRESCO_SANITIZER)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")  # compiles in two thirds of the time, and keeps more frames
endif()

find_program(FRESCO_CCACHE ccache)
if(FRESCO_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${FRESCO_CCACHE}")
endif()

add_library(fresco_options INTERFACE)
target_compile_features(fresco_options INTERFACE cxx_std_20)
target_compile_options(fresco_options INTERFACE
  -Wall -Wextra -Werror -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers)
# gcc 12 reports these in code of libtorch and the standard library that it has inlined, where they are not true.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(fresco_options INTERFACE -Wno-maybe-uninitialized -Wno-dangling-pointer -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds)
endif()
# The layouts of classes that others' libraries are expected to describe, and do not: libtorch's, which gdb's printers read
# (cmake/gdb). For a file with ATen an eighth more debug information and a twelfth more time.
target_compile_options(fresco_options INTERFACE
  $<$<AND:$<CONFIG:Debug>,$<CXX_COMPILER_ID:GNU>>:-femit-class-debug-always>
  $<$<AND:$<CONFIG:Debug>,$<CXX_COMPILER_ID:Clang>>:-fstandalone-debug>)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(fresco_options INTERFACE -Wthread-safety -Wthread-safety-beta)
endif()
find_program(FRESCO_MOLD mold)
if(FRESCO_MOLD)
  target_link_options(fresco_options INTERFACE -fuse-ld=mold)
endif()
if(FRESCO_SANITIZER STREQUAL "address")
  target_compile_options(fresco_options INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(fresco_options INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(fresco_options INTERFACE _GLIBCXX_ASSERTIONS)  # front() of what is empty is a finding too
  # libFuzzer, by which tests/fuzz is built, is clang's; it looks at what an input has reached.
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    set(FRESCO_FUZZERS ON)
    target_compile_options(fresco_options INTERFACE -fsanitize=fuzzer-no-link)
  endif()
elseif(FRESCO_SANITIZER STREQUAL "thread")
  target_compile_options(fresco_options INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(fresco_options INTERFACE -fsanitize=thread)
elseif(FRESCO_SANITIZER)
  message(FATAL_ERROR "FRESCO_SANITIZER is '${FRESCO_SANITIZER}': it takes address, thread, or nothing")
endif()

# The ladder (docs/ARCHITECTURE.md). A library's headers are reached through an include root of its own. Only those targets
# get it that name the library in DEPS, or a library that has it in its own DEPS: including a header of a rung that is no
# dependency does not compile, and a dependency on a higher rung does not configure, so nothing from above is passed on.
set(FRESCO_RUNGS base kernels precision checkpoint models diffusion engine scheduling rpc apps)

function(_fresco_rung_index rung out)
  list(FIND FRESCO_RUNGS "${rung}" index)
  if(index EQUAL -1)
    message(FATAL_ERROR "unknown rung '${rung}': one of ${FRESCO_RUNGS}")
  endif()
  set(${out} ${index} PARENT_SCOPE)
endfunction()

# Where <include root>/<dir> is a link to the source folder <dir>.
function(_fresco_include_root target dir out)
  set(root "${CMAKE_BINARY_DIR}/ladder/${target}")
  get_filename_component(parent "${root}/${dir}" DIRECTORY)
  file(MAKE_DIRECTORY "${parent}")
  file(CREATE_LINK "${CMAKE_SOURCE_DIR}/${dir}" "${root}/${dir}" SYMBOLIC)
  set(${out} "${root}" PARENT_SCOPE)
endfunction()

# Once all targets are known: no fresco_* dependency that does not exist, none on a higher rung.
function(_fresco_check_ladder)
  get_property(libraries GLOBAL PROPERTY FRESCO_LIBRARIES)
  foreach(library IN LISTS libraries)
    get_target_property(rung ${library} FRESCO_RUNG)
    _fresco_rung_index("${rung}" own)
    get_property(deps GLOBAL PROPERTY FRESCO_DEPS_${library})
    foreach(dep IN LISTS deps)
      if(dep MATCHES "^fresco_" AND NOT TARGET ${dep})
        message(FATAL_ERROR "${library} depends on ${dep}, which is no target")
      endif()
      set(below "")
      if(TARGET ${dep})
        get_target_property(below ${dep} FRESCO_RUNG)
      endif()
      if(below)
        _fresco_rung_index("${below}" index)
        if(index GREATER own)
          message(FATAL_ERROR "${library} (rung ${rung}) may not depend on ${dep} (rung ${below}): it is above")
        endif()
      endif()
    endforeach()
  endforeach()
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL _fresco_check_ladder)

# fresco_library(NAME RUNG rung SOURCES files... [DEPS targets...] [PRIVATE_DEPS targets...] [TORCH])
#   A static library of the files of the current folder (header-only where no SOURCES are given). DEPS are those that its
#   public headers include; PRIVATE_DEPS only its .cc files. TORCH: its files see ATen, privately.
function(fresco_library name)
  cmake_parse_arguments(ARG "TORCH" "RUNG" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "fresco_library(${name}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  file(RELATIVE_PATH dir "${CMAKE_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  _fresco_include_root(${name} "${dir}" root)
  set_property(GLOBAL APPEND PROPERTY FRESCO_LIBRARIES ${name})
  set_property(GLOBAL PROPERTY FRESCO_DEPS_${name} ${ARG_DEPS} ${ARG_PRIVATE_DEPS})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_include_directories(${name} PUBLIC "${root}")
    target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE fresco_options ${ARG_PRIVATE_DEPS})
    if(ARG_TORCH)
      target_link_libraries(${name} PRIVATE Fresco::Torch)
    endif()
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE "${root}")
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
  set_target_properties(${name} PROPERTIES FRESCO_RUNG "${ARG_RUNG}")
endfunction()

# What gdb loads of itself with a program (cmake/gdb/README.md), beside it: where `condition` (0 or 1) holds.
set(FRESCO_GDB_LOADER "${CMAKE_CURRENT_LIST_DIR}/gdb/load.py")
function(fresco_gdb_script target condition)
  file(GENERATE OUTPUT "$<TARGET_FILE:${target}>-gdb.py"
    CONTENT "import runpy\n\nrunpy.run_path(\"${FRESCO_GDB_LOADER}\")\n" CONDITION ${condition})
endfunction()

# fresco_binary(NAME SOURCES files... DEPS targets... [TORCH] [DEBUGGEE]): a program in build/bin. DEBUGGEE: its own files
# are compiled for the debugger whatever the build type is, as gcc does it.
function(fresco_binary name)
  cmake_parse_arguments(ARG "TORCH;DEBUGGEE" "" "SOURCES;DEPS" ${ARGN})
  file(RELATIVE_PATH dir "${CMAKE_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}")
  _fresco_include_root(${name} "${dir}" root)
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE "${root}")
  target_link_libraries(${name} PRIVATE fresco_options ${ARG_DEPS})
  if(ARG_TORCH)
    target_link_libraries(${name} PRIVATE Fresco::Torch)
  endif()
  if(ARG_DEBUGGEE)
    target_compile_options(${name} PRIVATE -O0 -g2 -femit-class-debug-always)
    fresco_gdb_script(${name} 1)
  else()
    fresco_gdb_script(${name} $<CONFIG:Debug>)
  endif()
endfunction()

# fresco_test(NAME SOURCES files... DEPS targets... [LABELS label] [FILTER filter] [TORCH] [ALONE] [TOGETHER]): a GoogleTest
# program; each of its tests is one of ctest's. Runs in the source folder, so that paths to test data are relative to it.
# LABELS: ctest's; "service" marks what runs a server. FILTER: which of the tests, as GoogleTest has it. ALONE: it starts
# programs that compute on all cores. TOGETHER: the program is one of ctest's: for many short tests, where loading
# libtorch (0.3 s) for each would take longer than they do, and for those that are all skipped where there is no GPU: then
# the program is, and a run's last lines name it once.
function(fresco_test name)
  cmake_parse_arguments(ARG "TORCH;ALONE;TOGETHER" "TIMEOUT;FILTER" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  target_link_libraries(${name} PRIVATE fresco_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  fresco_gdb_script(${name} $<CONFIG:Debug>)
  if(ARG_TORCH)
    target_link_libraries(${name} PRIVATE Fresco::Torch)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  # libtorch computes on all cores: two such programs at once would spend their time waiting for each other's threads.
  set(processors 1)
  if(ARG_TORCH OR ARG_ALONE OR "fresco_engine" IN_LIST ARG_DEPS)
    cmake_host_system_information(RESULT processors QUERY NUMBER_OF_LOGICAL_CORES)
  endif()
  set(labels "")
  if(ARG_LABELS)
    set(labels LABELS "${ARG_LABELS}")
  endif()
  if(ARG_TOGETHER)
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
    # ctest takes what is skipped for no failure: here nothing has passed, and the list of what was skipped is the end.
    set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${processors} ${labels}
      SKIP_REGULAR_EXPRESSION "\\[  PASSED  \\] 0 tests\\.\n(\\[  SKIPPED \\][^\n]*\n)+$")
    return()
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} TEST_PREFIX "${name}." WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}"
    DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 TEST_FILTER "${ARG_FILTER}"
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${processors} ${labels})
endfunction()
