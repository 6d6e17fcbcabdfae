#include "actors/node_secret.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <fstream>
#include <utility>

namespace plimsoll {
namespace {

// Whole or not at all, and never readable by others.
bool write_private(const std::filesystem::path& file, const std::string& text) {
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  const std::filesystem::path fresh = file.string() + ".new";
  const int out = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (out < 0) return false;
  const bool written =
      write(out, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(out) == 0;
  if (close(out) != 0 || !written) return false;
  std::filesystem::rename(fresh, file, error);
  return !error;
}

}  // namespace

NodeSecret::NodeSecret(std::filesystem::path file) : file_(std::move(file)) {
  if (!file_.empty()) std::ifstream(file_) >> secret_;
}

std::string NodeSecret::get() const {
  const std::lock_guard lock(mutex_);
  return secret_;
}

void NodeSecret::set(const std::string& secret) {
  const std::lock_guard lock(mutex_);
  secret_ = secret;
  if (!file_.empty() && !write_private(file_, secret + "\n")) {
    spdlog::error("event=secret_not_kept file=\"{}\"", file_.string());
  }
}

}  // namespace plimsoll
