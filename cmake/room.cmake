# A room is one folder of src/ (docs/architecture.md). It becomes the object library qnext_<room>, part of
# libqnext, and its *_test.cc files become one test program, qnext_<room>_test.
#
#   qnext_room(tokenizer DEPENDS base LIBRARIES fmt::fmt SOURCES a.cc b.cc TESTS a_test.cc)
#
# DEPENDS names the rooms this one may include (tools/check_layers.py holds the sources to it).
function(qnext_room room)
  cmake_parse_arguments(ROOM "" "" "DEPENDS;LIBRARIES;SOURCES;TESTS" ${ARGN})
  set(target qnext_${room})
  add_library(${target} OBJECT ${ROOM_SOURCES})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>)
  target_link_libraries(${target} PUBLIC ${ROOM_LIBRARIES} Threads::Threads)
  set_property(GLOBAL APPEND PROPERTY QNEXT_ROOMS ${room})
  set_property(GLOBAL APPEND PROPERTY QNEXT_LIBRARIES ${ROOM_LIBRARIES})
  if(QNEXT_TESTS AND ROOM_TESTS)
    add_executable(${target}_test ${ROOM_TESTS})
    target_link_libraries(${target}_test PRIVATE qnext GTest::gtest GTest::gmock GTest::gtest_main)
    target_compile_definitions(${target}_test PRIVATE
      QNEXT_SOURCE_DIR="${PROJECT_SOURCE_DIR}" QNEXT_BINARY_DIR="${PROJECT_BINARY_DIR}")
    add_test(NAME ${room} COMMAND ${target}_test --gtest_brief=1)
  endif()
endfunction()
