#include "storage/directory_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace plimsoll::storage {

Result<std::unique_ptr<DirectoryLock>> DirectoryLock::take(const std::filesystem::path& directory,
                                                           const std::string& what) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  const auto path = directory / "in-use";
  std::unique_ptr<DirectoryLock> lock(
      new DirectoryLock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)));
  if (lock->file_ < 0) {
    return fail(ErrorCode::internal, "cannot write " + path.string() + ": " + strerror(errno));
  }
  if (flock(lock->file_, LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorCode::unavailable, what + " in " + directory.string() +
                                            " is in use by another process; stop it, or give "
                                            "this one a directory of its own");
  }
  return lock;
}

DirectoryLock::~DirectoryLock() {
  if (file_ >= 0) close(file_);
}

}  // namespace plimsoll::storage
