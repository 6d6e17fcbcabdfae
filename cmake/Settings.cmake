get_filename_component(PLIMSOLL_ROOT ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
# Compiler settings that every target shares, and the helpers the folders' lists use.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O3") # assertions stay on: they guard invariants, not hot loops

find_package(Threads REQUIRED)

# g++ 12 reports -Wrestrict on `"literal" + std::to_string(i)`, which is false.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict> $<$<COMPILE_LANGUAGE:CXX>:-Wno-psabi>)
endif()
if(PLIMSOLL_SANITIZE)
  # CAF 0.17's own headers bind null references (init_fun_factory.hpp): null and vptr stay off.
  add_compile_options(-fsanitize=${PLIMSOLL_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${PLIMSOLL_SANITIZE})
  if(PLIMSOLL_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize=null,vptr -fno-sanitize-recover=undefined)
  endif()
endif()
if(PLIMSOLL_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link) # coverage of the libraries guides the fuzzer
endif()

# plimsoll_library(NAME SOURCES... DEPENDS...): a static library whose headers are included by their
# path from the repository's root.
function(plimsoll_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PLIMSOLL_ROOT}>)
  target_link_libraries(${name} PUBLIC ${arg_DEPENDS})
endfunction()

# plimsoll_test(NAME SOURCES... DEPENDS... [LABELS...]): one GoogleTest binary. Label `model` marks
# tests that need a model file; they skip, and say so, where it is absent.
function(plimsoll_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS} GTest::gtest_main GTest::gmock)
  target_compile_definitions(${name} PRIVATE PLIMSOLL_TEST_DATA="${PLIMSOLL_ROOT}/tests")
  set(properties TIMEOUT 600)
  if(arg_LABELS)
    list(APPEND properties LABELS "${arg_LABELS}")
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES ${properties})
endfunction()

# plimsoll_fuzz(NAME SOURCES... DEPENDS...): a libFuzzer target.
function(plimsoll_fuzz name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
endfunction()
