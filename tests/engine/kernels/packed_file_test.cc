#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/engine/kernels/weights.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// A model file that holds two matrices and one vector that is not packed, in a folder of its own.
class PackedFileTest : public ::testing::Test {
 protected:
  PackedFileTest() {
    std::string pattern = (fs::temp_directory_path() / "plimsoll-packed-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    cache_ = folder_ / "cache";
    write_model(1);
  }
  ~PackedFileTest() override {
    std::error_code ignored;
    fs::permissions(folder_, fs::perms::owner_all, ignored);
    fs::remove_all(folder_, ignored);
  }

  void write_model(std::uint32_t seed) {
    const Weights a(TensorType::q4_1, 37, 64, seed), b(TensorType::q8_0, 16, 96, seed + 1);
    const auto odd = random_floats(7, seed);
    std::ofstream out(folder_ / "tiny.gguf", std::ios::binary);
    const auto put = [&](const void* p, std::size_t n) {
      out.write(static_cast<const char*>(p), n);
    };
    put(a.storage.data(), a.storage.size());
    put(b.storage.data(), b.storage.size());
    put(odd.data(), odd.size() * 4);
    out.close();
    model_ = *MappedFile::open(folder_ / "tiny.gguf");
    views_ = {a.view, b.view, {}};
    views_[0].name = "a";
    views_[0].data = model_.bytes().data();
    views_[1].name = "b";
    views_[1].data = views_[0].data + a.view.bytes;
    views_[2] = {"odd", TensorType::f32, {7}, 1, views_[1].data + b.view.bytes, 28};
  }

  Result<PackedFile> open(const Progress& progress = {}, PackedForm floats = PackedForm::u8) {
    return PackedFile::open_or_make(model_, views_, floats, cache_, progress);
  }
  // Whether both matrices are there, with the right bytes.
  void expect_right(const Result<PackedFile>& file) {
    ASSERT_TRUE(file) << to_string(file.error());
    for (const std::size_t i : {0, 1}) {
      const Packed want(views_[i]);
      const PackedMatrix got = file->find(views_[i].name);
      ASSERT_EQ(got.form, want.matrix.form);
      ASSERT_EQ(got.rows, want.matrix.rows);
      ASSERT_EQ(got.cols, want.matrix.cols);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(got.data) % 64, 0U);
      EXPECT_EQ(std::memcmp(got.data, want.storage.data(), want.storage.size()), 0);
    }
    EXPECT_TRUE(file->find("odd").empty());
    EXPECT_TRUE(file->find("no such").empty());
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    if (fs::exists(cache_)) {
      for (const auto& entry : fs::directory_iterator(cache_)) found.push_back(entry.path());
    }
    return found;
  }
  // Makes the file, lets `harm` at it, and expects it to be made again.
  template <class F>
  void expect_remade_after(F harm) {
    expect_right(open());
    ASSERT_EQ(files().size(), 1U);
    harm(files()[0]);
    std::uint64_t packed = 0;
    expect_right(open([&](std::uint64_t done, std::uint64_t) { packed = done; }));
    EXPECT_GT(packed, 0U) << "the harmed file was used as it was";
    EXPECT_EQ(files().size(), 1U);
  }

  fs::path folder_, cache_;
  MappedFile model_;
  std::vector<TensorView> views_;
};

TEST_F(PackedFileTest, EachFormOfFloatsHasAFileOfItsOwn) {
  expect_right(open({}, PackedForm::u8));
  expect_right(open({}, PackedForm::bf16));
  EXPECT_EQ(files().size(), 2U);
}

TEST_F(PackedFileTest, IsMadeOnceAndThenOpened) {
  std::uint64_t calls = 0, last = 0, all = 0;
  expect_right(open([&](std::uint64_t done, std::uint64_t total) {
    EXPECT_GT(done, last);
    ++calls, last = done, all = total;
  }));
  EXPECT_GT(calls, 0U);
  EXPECT_EQ(all, fs::file_size(files().at(0)));
  EXPECT_LE(last, all);
  EXPECT_TRUE(files()[0].filename().string().starts_with("tiny-"));
  const auto stamp = fs::last_write_time(files()[0]);
  expect_right(open([&](std::uint64_t, std::uint64_t) { FAIL() << "packed again"; }));
  EXPECT_EQ(fs::last_write_time(files()[0]), stamp);
}

TEST_F(PackedFileTest, AnotherModelOfTheSameNameGetsAFileOfItsOwn) {
  expect_right(open());
  write_model(50);
  expect_right(open());
  EXPECT_EQ(files().size(), 2U);
}

TEST_F(PackedFileTest, TruncatedIsMadeAgain) {
  expect_remade_after([](const fs::path& p) { fs::resize_file(p, fs::file_size(p) - 1); });
  expect_remade_after([](const fs::path& p) { fs::resize_file(p, 20); });
  expect_remade_after([](const fs::path& p) { fs::resize_file(p, 0); });
}

TEST_F(PackedFileTest, ACorruptHeaderOrTableIsMadeAgain) {
  for (const std::size_t offset : {0, 8, 12, 20, 36, 44, 48, 52}) {
    expect_remade_after([&](const fs::path& p) {
      std::fstream file(p, std::ios::binary | std::ios::in | std::ios::out);
      file.seekg(offset);
      const char byte = static_cast<char>(file.get());
      file.seekp(offset);
      file.put(static_cast<char>(byte ^ 0x40));
    });
  }
}

TEST_F(PackedFileTest, AnotherSetOfMatricesIsMadeAgain) {
  expect_right(open());
  const TensorView b = views_[1];
  views_.erase(views_.begin() + 1);
  const auto fewer = open();
  ASSERT_TRUE(fewer);
  EXPECT_TRUE(fewer->find("b").empty());
  views_.insert(views_.begin() + 1, b);
  expect_right(open());
}

TEST_F(PackedFileTest, ALeftOverTemporaryIsTakenOver) {
  expect_right(open());
  const fs::path path = files()[0];
  fs::path temporary = path;
  temporary += ".tmp";
  fs::rename(path, temporary);
  fs::resize_file(temporary, 100);  // as a crash leaves it
  expect_right(open());
  EXPECT_EQ(files(), std::vector<fs::path>{path});
}

TEST_F(PackedFileTest, ManyMakersAgree) {
  std::vector<std::thread> makers;
  for (int i = 0; i < 6; ++i) makers.emplace_back([&] { expect_right(open()); });
  for (std::thread& maker : makers) maker.join();
  EXPECT_EQ(files().size(), 1U);
}

TEST_F(PackedFileTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_ / "file") << "x";
  const auto below_a_file = PackedFile::open_or_make(model_, views_, PackedForm::u8,
                                                     folder_ / "file" / "cache", Progress());
  ASSERT_FALSE(below_a_file);
  EXPECT_NE(below_a_file.error().message.find("cache"), std::string::npos);

  if (::geteuid() == 0) GTEST_SKIP() << "root may write anywhere: permissions are not tested";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  const auto denied = open();
  ASSERT_FALSE(denied);
  EXPECT_EQ(denied.error().code, ErrorCode::permission_denied);
}

TEST_F(PackedFileTest, AFullDiskIsAnError) {
  // A limit on the file's size stands in for a full disk; it needs a process of its own.
  const auto fails_without_a_trace = [&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100, 100};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto made = open();
    std::_Exit(!made && files().empty() ? 0 : 1);
  };
  EXPECT_EXIT(fails_without_a_trace(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace plimsoll
