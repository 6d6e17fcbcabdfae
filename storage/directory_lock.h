// One process at a time has a directory. RocksDB has a lock too, but tells of it only in prose.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine/base/result.h"

namespace plimsoll::storage {

class DirectoryLock {
 public:
  // Makes the directory where it is missing. `what` is for the messages: "state".
  // Errors: unavailable (in use), internal (cannot be written).
  static Result<std::unique_ptr<DirectoryLock>> take(const std::filesystem::path& directory,
                                                     const std::string& what);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  explicit DirectoryLock(int file) : file_(file) {}
  const int file_;
};

}  // namespace plimsoll::storage
