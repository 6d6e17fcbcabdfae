include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(CapnProto CONFIG)
include(${CMAKE_CURRENT_LIST_DIR}/PlimsollClientTargets.cmake)
