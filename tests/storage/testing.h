// Helpers of the stores' tests.
#pragma once

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "storage/state_store.h"

namespace plimsoll::storage {

inline constexpr std::chrono::seconds test_deadline{60};

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = std::filesystem::temp_directory_path() / "plimsoll-storage-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Remembers what a watch said.
class WatchLog {
 public:
  StateStore::WatchCallback callback() {
    return [this](const std::vector<StateChange>& changes) {
      const std::lock_guard lock(mutex_);
      ++calls_;
      for (const auto& change : changes) {
        changes_.push_back(change);
        if (change.removed) {
          view_.erase(change.entry.key);
        } else {
          view_[change.entry.key] = change.entry.value;
        }
      }
      more_.notify_all();
    };
  }

  bool wait(const std::function<bool()>& good) {
    std::unique_lock lock(mutex_);
    return more_.wait_for(lock, test_deadline, good);
  }
  bool wait_for_calls(int n) {
    return wait([this, n] { return calls_ >= n; });
  }
  bool wait_for_view(const std::map<std::string, std::string>& view) {
    return wait([&] { return view_ == view; });
  }
  bool wait_for_value(const std::string& key, const std::string& value) {
    return wait([&] {
      const auto found = view_.find(key);
      return found != view_.end() && found->second == value;
    });
  }
  std::vector<StateChange> changes() {
    const std::lock_guard lock(mutex_);
    return changes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable more_;
  int calls_ = 0;
  std::vector<StateChange> changes_;
  std::map<std::string, std::string> view_;
};

}  // namespace plimsoll::storage
