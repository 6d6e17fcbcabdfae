// The state of a cluster with one router, in a RocksDB of its own. Every write is synchronous: what
// was acknowledged is on the disk. Built for a few thousand small records and little memory.
//
// Keys in RocksDB: "format" (version of this layout), "revision", "e" + key (entries), "l" + id
// (leases). Numbers are of 8 bytes, little-endian.
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/memory/ledger.h"
#include "storage/directory_lock.h"
#include "storage/local_store.h"

namespace plimsoll::storage {
namespace {

constexpr std::uint64_t oldest_version = 1;
constexpr std::uint64_t newest_version = 1;
constexpr std::size_t cache_bytes = 256 << 10;
constexpr std::size_t write_buffer_bytes = 512 << 10;

std::string bytes_of(std::uint64_t number) {
  std::string out(8, '\0');
  for (auto& byte : out) {
    byte = static_cast<char>(number & 0xff);
    number >>= 8;
  }
  return out;
}
// `bytes` has at least 8.
std::uint64_t number_of(const rocksdb::Slice& bytes) {
  std::uint64_t number = 0;
  for (int i = 7; i >= 0; --i) number = number << 8 | static_cast<unsigned char>(bytes[i]);
  return number;
}

Error error_of(const rocksdb::Status& status, const std::filesystem::path& directory) {
  const bool broken = status.IsCorruption() || status.IsNotFound() || status.IsPathNotFound() ||
                      status.IsInvalidArgument();
  return Error(broken ? ErrorCode::malformed : ErrorCode::internal,
               "state in " + directory.string() + ": " + status.ToString() +
                   (broken ? "; restore the directory from a backup" : ""));
}
Error broken(const std::filesystem::path& directory, const std::string& what) {
  return Error(ErrorCode::malformed, "state in " + directory.string() + ": " + what +
                                         "; restore the directory from a backup");
}

rocksdb::Options options_of(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.write_buffer_size = write_buffer_bytes;
  options.max_write_buffer_number = 2;
  options.max_total_wal_size = 4 * write_buffer_bytes;
  options.target_file_size_base = 1 << 20;
  options.max_manifest_file_size = 1 << 20;
  options.max_background_jobs = 1;
  options.max_open_files = 32;
  options.keep_log_file_num = 2;
  options.max_log_file_size = 1 << 20;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  // The end of the log may be torn, nothing else: the default would drop acknowledged writes that
  // come after a broken one, and not say so.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

class RocksTable final : public Table {
 public:
  explicit RocksTable(std::filesystem::path directory)
      : directory_(std::move(directory)),
        cache_(rocksdb::NewLRUCache(cache_bytes, 0)),
        charge_(process_ledger().account(Component::storage, "", shared_tenant), 0) {}

  Result<void> open() {
    auto lock = DirectoryLock::take(directory_, "state");
    if (!lock) return tl::unexpected(lock.error());
    lock_ = std::move(*lock);
    if (auto whole = check_current(); !whole) return whole;
    rocksdb::DB* db = nullptr;
    const auto status = rocksdb::DB::Open(options_of(cache_), directory_.string(), &db);
    if (!status.ok()) return fail(error_of(status, directory_));
    db_.reset(db);
    if (auto known = check_version(); !known) return known;
    const auto revision = number("revision");
    if (!revision) return tl::unexpected(revision.error());
    revision_ = *revision;
    charge();
    return {};
  }

  Result<std::optional<TableEntry>> get(const std::string& key) override {
    std::string value;
    const auto status = db_->Get({}, "e" + key, &value);
    if (status.IsNotFound()) return std::nullopt;
    if (!status.ok()) return fail(error_of(status, directory_));
    return entry_of(key, value);
  }

  Result<std::vector<TableEntry>> list(const std::string& prefix) override {
    std::vector<TableEntry> out;
    auto error =
        scan("e" + prefix, [&](std::string key, const rocksdb::Slice& value) -> Result<void> {
          auto entry = entry_of(std::move(key), value);
          if (!entry) return tl::unexpected(entry.error());
          out.push_back(std::move(*entry));
          return {};
        });
    if (!error) return tl::unexpected(error.error());
    return out;
  }

  Result<void> apply(const TableBatch& batch) override {
    rocksdb::WriteBatch writes;
    writes.Put("revision", bytes_of(batch.revision));
    for (const auto& [entry, lease] : batch.puts) {
      writes.Put("e" + entry.key, bytes_of(entry.revision) + bytes_of(lease) + entry.value);
    }
    for (const auto& key : batch.removals) writes.Delete("e" + key);
    for (const auto& [id, ttl] : batch.granted) {
      writes.Put("l" + bytes_of(id), bytes_of(static_cast<std::uint64_t>(ttl.count())));
    }
    for (const auto id : batch.ended) writes.Delete("l" + bytes_of(id));
    rocksdb::WriteOptions options;
    options.sync = true;
    const auto status = db_->Write(options, &writes);
    if (!status.ok()) return fail(error_of(status, directory_));
    charge();
    return {};
  }

  std::uint64_t revision() override { return revision_; }

  Result<std::map<LeaseId, std::chrono::milliseconds>> leases() override {
    std::map<LeaseId, std::chrono::milliseconds> out;
    auto error = scan("l", [&](const std::string& id, const rocksdb::Slice& ttl) -> Result<void> {
      if (id.size() != 8 || ttl.size() != 8) return fail(broken(directory_, "a lease is torn"));
      out[number_of(id)] = std::chrono::milliseconds(number_of(ttl));
      return {};
    });
    if (!error) return tl::unexpected(error.error());
    return out;
  }

 private:
  // Where CURRENT is missing RocksDB would start anew and forget what is there.
  Result<void> check_current() const {
    std::error_code error;
    if (std::filesystem::exists(directory_ / "CURRENT", error)) return {};
    for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
      const auto extension = file.path().extension();
      if ((extension == ".sst" || extension == ".log") && file.file_size(error) > 0) {
        return fail(broken(directory_, "the file CURRENT is missing"));
      }
    }
    return {};
  }

  Result<void> check_version() {
    std::string value;
    const auto status = db_->Get({}, "format", &value);
    if (status.IsNotFound()) {
      const std::unique_ptr<rocksdb::Iterator> any(db_->NewIterator({}));
      any->SeekToFirst();
      if (any->Valid()) return fail(broken(directory_, "no record of its format's version"));
      if (!any->status().ok()) return fail(error_of(any->status(), directory_));
      rocksdb::WriteOptions options;
      options.sync = true;
      const auto written = db_->Put(options, "format", bytes_of(newest_version));
      if (!written.ok()) return fail(error_of(written, directory_));
      return {};
    }
    const auto version = number("format");
    if (!version) return tl::unexpected(version.error());
    if (*version < oldest_version || *version > newest_version) {
      return fail(ErrorCode::unsupported,
                  "state in " + directory_.string() + " is of version " + std::to_string(*version) +
                      "; this build reads " + std::to_string(oldest_version) + " to " +
                      std::to_string(newest_version) + ": run the build that wrote it");
    }
    return {};
  }

  // 0 where there is none.
  Result<std::uint64_t> number(const std::string& key) {
    std::string value;
    const auto status = db_->Get({}, key, &value);
    if (status.IsNotFound()) return 0;
    if (!status.ok()) return fail(error_of(status, directory_));
    if (value.size() != 8) return fail(broken(directory_, "the record '" + key + "' is torn"));
    return number_of(value);
  }

  Result<TableEntry> entry_of(std::string key, const rocksdb::Slice& value) const {
    if (value.size() < 16) return fail(broken(directory_, "the entry '" + key + "' is torn"));
    TableEntry out;
    out.entry.revision = number_of(value);
    out.lease = number_of({value.data() + 8, 8});
    out.entry.value.assign(value.data() + 16, value.size() - 16);
    out.entry.key = std::move(key);
    return out;
  }

  // `take` gets the key without its first byte.
  template <class Take>
  Result<void> scan(const std::string& prefix, const Take& take) {
    const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator({}));
    for (at->Seek(prefix); at->Valid() && at->key().starts_with(prefix); at->Next()) {
      auto key = at->key();
      key.remove_prefix(1);
      if (auto taken = take(key.ToString(), at->value()); !taken) return taken;
    }
    if (!at->status().ok()) return fail(error_of(at->status(), directory_));
    return {};
  }

  void charge() {
    std::uint64_t memtables = 0;
    db_->GetIntProperty(rocksdb::DB::Properties::kSizeAllMemTables, &memtables);
    charge_.resize(memtables + cache_->GetUsage());
  }

  const std::filesystem::path directory_;
  std::unique_ptr<DirectoryLock> lock_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::unique_ptr<rocksdb::DB> db_;
  std::uint64_t revision_ = 0;
  Charge charge_;
};

}  // namespace

Result<std::unique_ptr<StateStore>> open_embedded_store(const std::filesystem::path& directory) {
  auto table = std::make_unique<RocksTable>(directory);
  if (auto opened = table->open(); !opened) return tl::unexpected(opened.error());
  return LocalStore::open(std::move(table));
}

}  // namespace plimsoll::storage
