// A read-only, shared file mapping. File-backed pages are reclaimable and shared by all processes
// that map the same file, so weights are never copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "engine/base/result.h"

namespace plimsoll {

class MappedFile {
 public:
  // Errors: not_found, invalid_argument (not a regular file), malformed (empty).
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  const std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  std::filesystem::path path_;
};

}  // namespace plimsoll
