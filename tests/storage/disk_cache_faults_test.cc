// Damage, a full disk, a slow disk: the cache loses what it held and says so; it serves nothing
// wrong and stops nobody.
#include <gmock/gmock.h>
#include <rocksdb/env.h>

#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Optional;

class DiskCacheFaults : public DiskCacheTest {
 protected:
  DiskCacheFaults() { options_.flush_after = 1h; }

  // A segment for each ten.
  void fill(int entries) {
    for (int i = 0; i < entries; ++i) {
      put(owner("a"), CacheKind::prefix, std::to_string(i), value(i));
      if (i % 10 == 9) flush();
    }
  }
  static std::string value(int i) { return random_bytes(i, 5000); }
  // Everything that is found is right. Returns how many were found.
  int check(int entries) {
    int found = 0;
    for (int i = 0; i < entries; ++i) {
      const auto got = cache_->get(owner("a"), CacheKind::prefix, std::to_string(i));
      if (!got) continue;
      ++found;
      EXPECT_EQ(*got, value(i));
    }
    return found;
  }
  void works() {
    put(owner("a"), CacheKind::prefix, "new", "as ever");
    flush();
    EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "new"),
                Optional(std::string("as ever")));
  }
  static void overwrite(const std::filesystem::path& file, std::uint64_t at,
                        const std::string& bytes) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(at));
    out << bytes;
    ASSERT_TRUE(out.good());
  }
  std::filesystem::path file_like(const std::string& start) {
    for (const auto& file : files_in(directory_.path())) {
      if (file.filename().string().starts_with(start)) return file;
    }
    throw std::runtime_error("no file " + start);
  }
};

TEST_F(DiskCacheFaults, ABrokenBlockIsFoundAndItsSegmentGoes) {
  open();
  fill(50);
  cache_.reset();
  const auto files = segment_files();
  ASSERT_EQ(files.size(), 5u);
  overwrite(files[0], std::filesystem::file_size(files[0]) / 2, "broken");
  overwrite(files[1], 10'000, std::string(3000, '\0'));
  open();
  EXPECT_EQ(check(50) / 10, 3);
  EXPECT_EQ(check(50), 30) << "the rest of a broken segment is not to be trusted";
  EXPECT_GT(counts("a").damaged_total, 0u);
  EXPECT_THAT(troubles(), Contains(HasSubstr("damaged")));
  EXPECT_TRUE(eventually([&] { return segment_files().size() == 3; }));
  works();
}

TEST_F(DiskCacheFaults, AMissingAndACutFileCostOnlyWhatWasInThem) {
  open();
  fill(50);
  cache_.reset();
  const auto files = segment_files();
  std::filesystem::remove(files[0]);
  std::filesystem::resize_file(files[1], 7000);
  std::filesystem::resize_file(files[2], 0);
  open();
  EXPECT_EQ(check(50), 20);
  EXPECT_EQ(troubles().size(), 3u);
  EXPECT_TRUE(eventually([&] { return segment_files().size() == 2; }));
  works();
  open();
  EXPECT_EQ(check(50), 20);
}

TEST_F(DiskCacheFaults, AFileThatGoesMissingWhileItIsServed) {
  options_.table_bytes = 64 << 10;
  open();
  // More files than are kept open.
  fill(1000);
  for (const auto& file : segment_files()) std::filesystem::remove(file);
  check(1000);
  EXPECT_THAT(troubles(), Not(IsEmpty()));
  works();
}

TEST_F(DiskCacheFaults, AnotherVersionIsMovedAsideAndDeleted) {
  open();
  fill(20);
  cache_.reset();
  const auto format = file_like("format");
  std::ofstream(format, std::ios::binary) << "plimsoll cache 2\n";
  open();
  EXPECT_THAT(troubles(), Contains(HasSubstr("of another version ('plimsoll cache 2')")));
  EXPECT_EQ(check(20), 0);
  EXPECT_TRUE(eventually([&] { return !std::filesystem::exists(format); }));
  EXPECT_FALSE(any_file_has(directory_.path(), value(1).substr(0, 64)));
  fill(20);
  open();
  EXPECT_EQ(check(20), 20);
}

// As a kill leaves it: the store has its name only once it has its format.
TEST_F(DiskCacheFaults, AStoreThatWasBegunIsBegunAgain) {
  std::filesystem::create_directories(directory_.path() / "new");
  std::ofstream(directory_.path() / "new" / "format", std::ios::binary) << "plims";
  open();
  EXPECT_THAT(troubles(), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(directory_.path() / "new"));
  works();
}

TEST_F(DiskCacheFaults, RestartsLeaveNoFilesBehind) {
  open();
  fill(20);
  open();
  const auto store = file_like("CURRENT").parent_path();
  // What measures the disk at the start comes and goes.
  const auto lasting_files = [&] {
    auto files = files_in(directory_.path());
    std::erase(files, directory_.path() / "probe");
    return files.size();
  };
  const auto files = lasting_files();
  for (int i = 0; i < 10; ++i) {
    // As a kill leaves it.
    std::ofstream(store / ("OPTIONS-00000" + std::to_string(i) + ".dbtmp"))
        << std::string(7000, 'x');
    open();
  }
  EXPECT_EQ(check(20), 20);
  EXPECT_EQ(lasting_files(), files);
  EXPECT_THAT(troubles(), IsEmpty());
}

TEST_F(DiskCacheFaults, ABrokenStoreIsReplacedByAFreshOne) {
  for (const std::string file : {"MANIFEST", "CURRENT", "format"}) {
    open();
    fill(20);
    cache_.reset();
    troubles_.clear();
    const auto path = file_like(file);
    std::ofstream(path, std::ios::binary) << std::string(200, 'x');
    open();
    EXPECT_FALSE(troubles().empty()) << file;
    EXPECT_EQ(check(20), 0) << file;
    works();
    EXPECT_TRUE(eventually([&] { return segment_files().size() == 1; })) << file;
  }
}

// What random damage to any byte of any file can do.
TEST_F(DiskCacheFaults, AnyByteMayBeWrong) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 30; ++round) {
    open();
    fill(40);
    cache_.reset();
    auto files = files_in(directory_.path());
    std::erase_if(files, [](const auto& file) {
      return file.filename() == "LOCK" || std::filesystem::file_size(file) == 0;
    });
    std::ranges::sort(files);
    for (int i = 0; i < 3; ++i) {
      const auto& file = files[random() % files.size()];
      overwrite(file, random() % std::filesystem::file_size(file),
                std::string(1 + random() % 8, static_cast<char>(random())));
    }
    open();
    check(40);
    works();
    EXPECT_LE(bytes_on_disk(), options_.bytes);
  }
}

// --- A disk that is full, slow or broken ---

// Fails writes, or makes everything wait.
class BadEnv final : public rocksdb::EnvWrapper {
 public:
  BadEnv() : rocksdb::EnvWrapper(rocksdb::Env::Default()) {}
  const char* Name() const override { return "BadEnv"; }

  std::atomic<bool> full{false};
  std::atomic<bool> broken{false};
  std::atomic<bool> stuck{false};

  void wait() const {
    while (stuck) std::this_thread::sleep_for(1ms);
  }
  rocksdb::Status status() const {
    wait();
    if (full) return rocksdb::Status::NoSpace("the disk is full");
    if (broken) return rocksdb::Status::IOError("the disk is broken");
    return rocksdb::Status::OK();
  }

  class File final : public rocksdb::WritableFileWrapper {
   public:
    File(std::unique_ptr<rocksdb::WritableFile> file, const BadEnv& env)
        : rocksdb::WritableFileWrapper(file.get()), owned_(std::move(file)), env_(env) {}
    rocksdb::Status Append(const rocksdb::Slice& data) override {
      if (auto bad = env_.status(); !bad.ok()) return bad;
      return WritableFileWrapper::Append(data);
    }
    rocksdb::Status Append(const rocksdb::Slice& data,
                           const rocksdb::DataVerificationInfo& info) override {
      if (auto bad = env_.status(); !bad.ok()) return bad;
      return WritableFileWrapper::Append(data, info);
    }
    rocksdb::Status Sync() override {
      if (auto bad = env_.status(); !bad.ok()) return bad;
      return WritableFileWrapper::Sync();
    }

   private:
    std::unique_ptr<rocksdb::WritableFile> owned_;
    const BadEnv& env_;
  };
  class Reader final : public rocksdb::RandomAccessFile {
   public:
    Reader(std::unique_ptr<rocksdb::RandomAccessFile> file, const BadEnv& env)
        : file_(std::move(file)), env_(env) {}
    rocksdb::Status Read(std::uint64_t offset, std::size_t n, rocksdb::Slice* result,
                         char* scratch) const override {
      env_.wait();
      return file_->Read(offset, n, result, scratch);
    }

   private:
    std::unique_ptr<rocksdb::RandomAccessFile> file_;
    const BadEnv& env_;
  };

  rocksdb::Status NewWritableFile(const std::string& name,
                                  std::unique_ptr<rocksdb::WritableFile>* file,
                                  const rocksdb::EnvOptions& options) override {
    if (auto bad = status(); !bad.ok()) return bad;
    const auto made = EnvWrapper::NewWritableFile(name, file, options);
    if (made.ok()) *file = std::make_unique<File>(std::move(*file), *this);
    return made;
  }
  rocksdb::Status NewRandomAccessFile(const std::string& name,
                                      std::unique_ptr<rocksdb::RandomAccessFile>* file,
                                      const rocksdb::EnvOptions& options) override {
    const auto made = EnvWrapper::NewRandomAccessFile(name, file, options);
    if (made.ok()) *file = std::make_unique<Reader>(std::move(*file), *this);
    return made;
  }
};

class DiskCacheBadDisk : public DiskCacheFaults {
 protected:
  DiskCacheBadDisk() { options_.env = &env_; }
  ~DiskCacheBadDisk() override {
    env_.stuck = false;
    cache_.reset();
  }
  BadEnv env_;
};

TEST_F(DiskCacheBadDisk, AFullDiskCostsWhatIsNewAndIsTriedAgain) {
  open();
  fill(20);
  env_.full = true;
  put(owner("a"), CacheKind::prefix, "20", value(20));
  flush();
  EXPECT_THAT(cache_->stats().trouble, HasSubstr("full"));
  EXPECT_THAT(troubles(), Contains(HasSubstr("nothing can be written")));
  EXPECT_EQ(check(20), 20) << "what is there is served";
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "21", value(21)), CachePut::dropped);
  EXPECT_EQ(counts("a").dropped_total, 2u);
  env_.full = false;
  works();
  EXPECT_EQ(cache_->stats().trouble, "");
  open();
  EXPECT_EQ(check(20), 20);
}

TEST_F(DiskCacheBadDisk, APurgeWorksOnAFullDisk) {
  open();
  fill(20);
  env_.full = true;
  EXPECT_TRUE(cache_->purge({TenantId("a"), {}, 0ms}, test_deadline));
  EXPECT_FALSE(any_file_has(directory_.path(), value(1).substr(0, 64)));
  EXPECT_EQ(check(20), 0);
  env_.full = false;
  EXPECT_TRUE(eventually([&] { return cache_->stats().trouble.empty(); }));
  works();
}

TEST_F(DiskCacheBadDisk, ABrokenDiskCostsTheCacheAndNothingElse) {
  open();
  fill(20);
  env_.broken = true;
  for (int i = 100; i < 110; ++i) {
    cache_->put(owner("a"), CacheKind::prefix, std::to_string(i), value(i));
    flush();
  }
  check(20);
  EXPECT_FALSE(cache_->stats().trouble.empty());
  env_.broken = false;
  works();
  EXPECT_EQ(cache_->stats().trouble, "");
}

TEST_F(DiskCacheBadDisk, ADiskThatCannotBeWrittenAtTheStartIsTriedAgain) {
  env_.full = true;
  open();
  EXPECT_FALSE(cache_->stats().trouble.empty());
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "1", "x"), CachePut::dropped);
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "1"));
  env_.full = false;
  EXPECT_TRUE(eventually([&] { return cache_->stats().trouble.empty(); }));
  works();
}

TEST_F(DiskCacheBadDisk, ADiskThatDoesNotAnswerHoldsNoWriterUp) {
  options_.buffer_bytes = 1_MiB;
  options_.flush_after = 10ms;
  open();
  fill(10);
  env_.stuck = true;
  const auto start = std::chrono::steady_clock::now();
  int dropped = 0;
  for (int i = 10; i < 1010; ++i) {
    dropped += cache_->put(owner("a"), CacheKind::prefix, std::to_string(i), value(i)) ==
               CachePut::dropped;
    cache_->chain_length(owner("a"), CacheKind::prefix, std::vector<std::string>{"1", "2"});
    EXPECT_LE(cache_->stats().buffered_bytes, options_.buffer_bytes);
  }
  EXPECT_GT(dropped, 0);
  // What is buffered is served without the disk.
  EXPECT_TRUE(cache_->get(owner("a"), CacheKind::prefix, "10"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
  const auto purged = cache_->purge({{}, {}, 0ms}, 50ms);
  ASSERT_FALSE(purged);
  EXPECT_EQ(purged.error().code, ErrorCode::deadline_exceeded);
  env_.stuck = false;
  flush();
  EXPECT_TRUE(eventually([&] { return segment_files().empty(); })) << "it is done all the same";
  works();
}

}  // namespace
}  // namespace plimsoll::storage
