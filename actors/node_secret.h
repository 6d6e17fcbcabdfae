// What a node comes back with, once a router has admitted it: in memory, and in a file that only
// its owner reads. Thread-safe.
#pragma once

#include <filesystem>
#include <mutex>
#include <string>

namespace plimsoll {

class NodeSecret {
 public:
  // An empty path: it does not outlive the process.
  explicit NodeSecret(std::filesystem::path file);
  std::string get() const;
  void set(const std::string& secret);  // a file that cannot be written is logged

 private:
  const std::filesystem::path file_;
  mutable std::mutex mutex_;
  std::string secret_;
};

}  // namespace plimsoll
