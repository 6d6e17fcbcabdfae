#include "storage/segment_store.h"

#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>

#include <utility>

namespace plimsoll::storage {
namespace {

constexpr std::size_t block_bytes = 16 << 10;
constexpr int open_files = 64;
// A table's entry beside its record: key, lengths, and a key in the table's index where a record
// fills a block.
constexpr std::uint64_t entry_overhead_bytes = 80;
constexpr std::uint64_t file_overhead_bytes = 6 << 10;
constexpr std::uint64_t listed_entry_bytes = 32;

std::string key_of(std::uint64_t segment, const CacheHash* hash = nullptr) {
  std::string key;
  for (int shift = 56; shift >= 0; shift -= 8) key.push_back(static_cast<char>(segment >> shift));
  if (hash != nullptr) key.append(hash->view());
  return key;
}
std::uint64_t segment_of(const std::string& key) {
  std::uint64_t segment = 0;
  for (int i = 0; i < 8; ++i) segment = segment << 8 | static_cast<unsigned char>(key[i]);
  return segment;
}

Error error_of(const rocksdb::Status& status) {
  const auto text = status.ToString();
  if (status.IsNoSpace()) return Error(ErrorCode::resource_exhausted, text);
  if (status.IsNotFound()) return Error(ErrorCode::not_found, text);
  const bool broken =
      status.IsCorruption() || status.IsPathNotFound() || status.IsInvalidArgument();
  return Error(broken ? ErrorCode::malformed : ErrorCode::internal, text);
}

rocksdb::Options options_of(const std::shared_ptr<rocksdb::Cache>& cache, rocksdb::Env* env) {
  rocksdb::Options options;
  if (env != nullptr) options.env = env;
  options.create_if_missing = true;
  options.num_levels = 2;
  options.disable_auto_compactions = true;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = 64 << 10;  // never used
  options.arena_block_size = 4 << 10;
  options.max_open_files = open_files;
  options.max_background_jobs = 1;
  options.max_manifest_file_size = 128 << 10;
  options.keep_log_file_num = 1;
  options.max_log_file_size = 64 << 10;
  options.info_log_level = rocksdb::ERROR_LEVEL;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  // One missing or cut file must not keep the others from being used: what a file says is checked
  // when it is read.
  options.paranoid_checks = false;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;
  table.checksum = rocksdb::kXXH3;
  table.block_size = block_bytes;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// What RocksDB leaves in its directory for ever: a log of each time that it was opened, although
// nothing is ever in it, and what it was writing aside when the process was killed.
void remove_leftovers(const std::filesystem::path& directory) {
  std::error_code error;
  std::vector<std::filesystem::path> leftovers;
  for (std::filesystem::directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    const auto extension = at->path().extension();
    if (extension == ".log" || extension == ".dbtmp") leftovers.push_back(at->path());
  }
  for (const auto& leftover : leftovers) std::filesystem::remove(leftover, error);
}

}  // namespace

SegmentStore::SegmentStore(std::filesystem::path directory,
                           std::unique_ptr<rocksdb::Options> options,
                           std::shared_ptr<rocksdb::Cache> cache)
    : directory_(std::move(directory)), options_(std::move(options)), cache_(std::move(cache)) {}

SegmentStore::~SegmentStore() = default;

Result<std::shared_ptr<SegmentStore>> SegmentStore::open(const std::filesystem::path& directory,
                                                         std::uint64_t table_bytes,
                                                         rocksdb::Env* env) {
  remove_leftovers(directory);
  auto cache = rocksdb::NewLRUCache(table_bytes, 0, /*strict_capacity_limit=*/true);
  auto options = std::make_unique<rocksdb::Options>(options_of(cache, env));
  rocksdb::DB* db = nullptr;
  const auto status = rocksdb::DB::Open(*options, directory.string(), &db);
  if (!status.ok()) return fail(error_of(status));
  std::shared_ptr<SegmentStore> store(
      new SegmentStore(directory, std::move(options), std::move(cache)));
  store->db_.reset(db);
  return store;
}

std::vector<SegmentStore::Listed> SegmentStore::list() const {
  std::vector<rocksdb::LiveFileMetaData> files;
  db_->GetLiveFilesMetaData(&files);
  std::vector<Listed> listed;
  for (const auto& file : files) {
    // One that is not of a segment has no number: 0, which no segment has.
    listed.push_back({file.smallestkey.size() == 8 ? segment_of(file.smallestkey) : 0, file.size});
  }
  return listed;
}

Result<std::string> SegmentStore::read(std::uint64_t segment, const CacheHash* hash) const {
  // Records are too large to be worth the block cache: it is for the tables' indexes.
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  std::string value;
  const auto status = db_->Get(options, key_of(segment, hash), &value);
  if (status.ok()) return value;
  auto error = error_of(status);
  // A file that is missing is an error of the file system's.
  if (status.IsIOError() && status.subcode() != rocksdb::Status::kNoSpace) {
    error.code = ErrorCode::malformed;
  }
  return fail(std::move(error));
}

std::uint64_t SegmentStore::file_bytes(std::size_t entries, std::uint64_t record_bytes,
                                       std::size_t owner_bytes) {
  return record_bytes + entries * (entry_overhead_bytes + listed_entry_bytes) + owner_bytes +
         file_overhead_bytes;
}

struct SegmentStore::Writer::State {
  State(rocksdb::DB* d, const rocksdb::Options& options, std::uint64_t s, std::string p)
      : db(d),
        env(options.env),
        segment(s),
        path(std::move(p)),
        file(rocksdb::EnvOptions(), options) {}
  rocksdb::DB* db;
  rocksdb::Env* env;
  const std::uint64_t segment;
  const std::string path;
  rocksdb::SstFileWriter file;
  bool taken = false;
};

SegmentStore::Writer::Writer(std::unique_ptr<State> state) : state_(std::move(state)) {}
SegmentStore::Writer::Writer(Writer&&) noexcept = default;
SegmentStore::Writer::~Writer() {
  if (state_ != nullptr && !state_->taken) state_->env->DeleteFile(state_->path);
}

Result<SegmentStore::Writer> SegmentStore::write(const Segment& description) {
  // After a failure RocksDB takes nothing in until it is told to go on.
  if (auto status = db_->Resume(); !status.ok()) return fail(error_of(status));
  // RocksDB ignores files of no name that it knows; in its own directory, so that it can be taken
  // in without a copy.
  Writer writer(std::make_unique<Writer::State>(db_.get(), *options_, description.id,
                                                (directory_ / "incoming").string()));
  auto& file = writer.state_->file;
  auto status = file.Open(writer.state_->path);
  if (status.ok()) status = file.Put(key_of(description.id), encode_segment(description));
  if (!status.ok()) return fail(error_of(status));
  return writer;
}

Result<void> SegmentStore::Writer::add(const CacheHash& hash, std::string_view record) {
  const auto status = state_->file.Put(key_of(state_->segment, &hash),
                                       rocksdb::Slice(record.data(), record.size()));
  if (!status.ok()) return fail(error_of(status));
  return {};
}

Result<std::uint64_t> SegmentStore::Writer::finish() {
  rocksdb::ExternalSstFileInfo info;
  auto status = state_->file.Finish(&info);
  if (status.ok()) {
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    options.write_global_seqno = false;
    status = state_->db->IngestExternalFile({state_->path}, options);
  }
  if (!status.ok()) return fail(error_of(status));
  state_->taken = true;
  return info.file_size;
}

Result<void> SegmentStore::drop(std::span<const std::uint64_t> segments) {
  std::vector<std::string> keys;
  for (const auto segment : segments) {
    keys.push_back(key_of(segment));
    keys.push_back(key_of(segment + 1));
  }
  std::vector<rocksdb::Slice> slices(keys.begin(), keys.end());
  std::vector<rocksdb::RangePtr> ranges;
  for (std::size_t i = 0; i < slices.size(); i += 2) {
    ranges.emplace_back(&slices[i], &slices[i + 1]);
  }
  const auto status = rocksdb::DeleteFilesInRanges(db_.get(), db_->DefaultColumnFamily(),
                                                   ranges.data(), ranges.size(),
                                                   /*include_end=*/false);
  if (!status.ok()) return fail(Error(ErrorCode::internal, status.ToString()));
  return {};
}

void SegmentStore::clean() {
  // Allowing files to be deleted looks for all that can be.
  if (db_->DisableFileDeletions().ok()) db_->EnableFileDeletions(/*force=*/false);
}

std::uint64_t SegmentStore::memory_bytes() const {
  std::uint64_t readers = 0, memtables = 0;
  db_->GetIntProperty(rocksdb::DB::Properties::kEstimateTableReadersMem, &readers);
  db_->GetIntProperty(rocksdb::DB::Properties::kSizeAllMemTables, &memtables);
  return readers + memtables + cache_->GetUsage();
}

}  // namespace plimsoll::storage
