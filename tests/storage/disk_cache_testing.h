// What the tests of the cache on disk share.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "storage/disk_cache.h"
#include "tests/storage/testing.h"

namespace plimsoll::storage {

using namespace std::chrono_literals;

// In memory where that can be had: a test that writes much does not wait for a disk.
class CacheDirectory {
 public:
  CacheDirectory() {
    std::string name = std::filesystem::is_directory("/dev/shm")
                           ? "/dev/shm/plimsoll-cache-XXXXXX"
                           : std::filesystem::temp_directory_path() / "plimsoll-cache-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~CacheDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  CacheDirectory(const CacheDirectory&) = delete;
  CacheDirectory& operator=(const CacheDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Files come and go while one looks.
inline std::vector<std::filesystem::path> files_in(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    std::error_code ignored;
    if (at->is_regular_file(ignored)) files.push_back(at->path());
  }
  return files;
}
// A file that has two names is one.
inline std::uint64_t bytes_in(const std::filesystem::path& directory) {
  std::map<ino_t, std::uint64_t> bytes;
  for (const auto& file : files_in(directory)) {
    struct stat status {};
    if (stat(file.c_str(), &status) == 0) {
      bytes[status.st_ino] = static_cast<std::uint64_t>(status.st_size);
    }
  }
  std::uint64_t sum = 0;
  for (const auto& [file, its] : bytes) sum += its;
  return sum;
}
inline bool any_file_has(const std::filesystem::path& directory, std::string_view text) {
  for (const auto& file : files_in(directory)) {
    std::ifstream in(file, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    if (bytes.find(text) != std::string::npos) return true;
  }
  return false;
}

template <class Good>
bool eventually(const Good& good, std::chrono::milliseconds deadline = test_deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!good()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

// Random bytes that a seed gives back.
inline std::string random_bytes(std::uint64_t seed, std::size_t bytes) {
  std::mt19937_64 random(seed);
  std::string out(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) {
    out[i] = static_cast<char>(random());
  }
  return out;
}

class DiskCacheTest : public ::testing::Test {
 protected:
  DiskCacheTest() {
    options_.directory = directory_.path();
    options_.bytes = 16_MiB;
    options_.flush_after = 50ms;
    options_.retry_after = 50ms;
    options_.now = [this] {
      return std::chrono::system_clock::time_point(std::chrono::milliseconds(now_ms_.load()));
    };
    options_.on_trouble = [this](const std::string& trouble) {
      const std::lock_guard lock(mutex_);
      troubles_.push_back(trouble);
    };
  }

  void open() {
    cache_.reset();
    auto cache = open_disk_cache(options_, ledger_);
    if (!cache) throw std::runtime_error(to_string(cache.error()));
    cache_ = std::move(*cache);
  }
  // Until it is taken: the buffer may be full.
  void put(const CacheOwner& owner, CacheKind kind, const std::string& key,
           const std::string& value) {
    ASSERT_TRUE(eventually([&] {
      const auto put = cache_->put(owner, kind, key, value);
      EXPECT_NE(put, CachePut::refused);
      return put != CachePut::dropped;
    }));
  }
  void flush() {
    const auto done = cache_->flush(test_deadline);
    ASSERT_TRUE(done) << to_string(done.error());
  }
  CacheCounts counts(const std::string& tenant, CacheKind kind = CacheKind::prefix) {
    return cache_->stats().tenants[TenantId(tenant)][static_cast<std::size_t>(kind)];
  }
  void pass(std::chrono::milliseconds time) { now_ms_ += time.count(); }
  std::vector<std::string> troubles() {
    const std::lock_guard lock(mutex_);
    return troubles_;
  }
  std::uint64_t bytes_on_disk() { return bytes_in(directory_.path()); }
  std::vector<std::filesystem::path> segment_files() {
    std::vector<std::filesystem::path> found;
    for (const auto& file : files_in(directory_.path())) {
      if (file.extension() == ".sst") found.push_back(file);
    }
    return found;
  }

  static CacheOwner owner(const std::string& tenant) {
    return {TenantId(tenant), "tenant:" + tenant};
  }

  CacheDirectory directory_;
  Ledger ledger_;
  std::atomic<std::int64_t> now_ms_{1'700'000'000'000};
  std::mutex mutex_;
  std::vector<std::string> troubles_;
  DiskCacheOptions options_;
  std::unique_ptr<DiskCache> cache_;
};

}  // namespace plimsoll::storage
