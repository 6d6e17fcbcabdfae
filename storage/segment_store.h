// Segments as files of RocksDB. Each is written as a table of its own (SstFileWriter), in the order
// of its keys, and taken in as it is: keys begin with the segment's number, so no two tables
// overlap and none is ever compacted. There is no write-ahead log and nothing in RocksDB's write
// buffer: a byte is written once. Dropping a segment deletes its file.
//
// Keys in RocksDB: number of the segment (8 bytes, big-endian), alone: the segment's description;
// with an entry's hash behind it: its record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "storage/cache_record.h"
#include "storage/segment_index.h"

namespace rocksdb {
class Cache;
class DB;
class Env;
struct Options;
}  // namespace rocksdb

namespace plimsoll::storage {

// Reading is thread-safe; everything else is one thread's.
class SegmentStore {
 public:
  // Of the files beside the segments', at most.
  static constexpr std::uint64_t overhead_bytes = 512 << 10;

  // `table_bytes`: of the block cache. Errors: malformed (damage), resource_exhausted (disk full),
  // internal.
  static Result<std::shared_ptr<SegmentStore>> open(const std::filesystem::path& directory,
                                                    std::uint64_t table_bytes, rocksdb::Env* env);
  ~SegmentStore();

  struct Listed {
    std::uint64_t id;
    std::uint64_t file_bytes;
  };
  std::vector<Listed> list() const;

  // Of the segment's own description, if `hash` is null, else of an entry. Errors: not_found,
  // malformed (damage, also of a file that is missing), internal.
  Result<std::string> read(std::uint64_t segment, const CacheHash* hash) const;

  // What the file of a segment with these many entries and bytes of records comes to, at most.
  static std::uint64_t file_bytes(std::size_t entries, std::uint64_t record_bytes,
                                  std::size_t owner_bytes);

  // Writes one segment: its description, then its records in the order of their hashes.
  class Writer {
   public:
    Writer(Writer&&) noexcept;
    ~Writer();  // deletes what was not finished
    Result<void> add(const CacheHash& hash, std::string_view record);
    Result<std::uint64_t> finish();  // returns the file's size

   private:
    friend class SegmentStore;
    struct State;
    explicit Writer(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
  };
  // Errors, also of the writer: resource_exhausted (the disk is full), internal.
  Result<Writer> write(const Segment& description);

  // All or none. When it returns, the files are gone, if no read() was under way. Errors: internal;
  // then the store is good for nothing any more.
  Result<void> drop(std::span<const std::uint64_t> segments);
  // Deletes what was dropped while it was read: RocksDB leaves it until something else is done.
  void clean();

  std::uint64_t memory_bytes() const;  // of RocksDB's

 private:
  SegmentStore(std::filesystem::path directory, std::unique_ptr<rocksdb::Options> options,
               std::shared_ptr<rocksdb::Cache> cache);

  const std::filesystem::path directory_;
  std::unique_ptr<rocksdb::Options> options_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace plimsoll::storage
