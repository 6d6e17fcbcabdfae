# What actors/, client/, storage/ and cli/ need beyond engine/.
find_package(OpenSSL REQUIRED)
find_package(CapnProto CONFIG REQUIRED)
find_package(Boost 1.74 REQUIRED CONFIG)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(RocksDB CONFIG REQUIRED)

# Debian's CAF 0.17 ships no CMake package.
foreach(component core io openssl)
  find_library(CAF_${component}_LIB caf_${component} REQUIRED)
  add_library(CAF::${component} SHARED IMPORTED)
  set_target_properties(CAF::${component} PROPERTIES IMPORTED_LOCATION ${CAF_${component}_LIB})
endforeach()
target_link_libraries(CAF::core INTERFACE Threads::Threads)
target_link_libraries(CAF::io INTERFACE CAF::core)
target_link_libraries(CAF::openssl INTERFACE CAF::io OpenSSL::SSL)
