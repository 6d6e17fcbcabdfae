// The cache on disk as a configuration wants it: encrypted, where it names a key.
#include "actors/cache_on_disk.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "actors/cache_keys.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using storage::CacheKind;

const std::string hex_key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const std::string base64_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

class CacheOnDiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("plimsoll-cache-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path key_file(const std::string& text, fs::perms mode = fs::perms::owner_read) {
    const auto file = folder_ / "key";
    fs::remove(file);
    std::ofstream(file) << text;
    fs::permissions(file, mode);
    return file;
  }
  CacheOnDisk open(const fs::path& key) {
    CacheSettings settings;
    settings.directory = folder_ / "cache";
    settings.bytes = 32_MiB;
    settings.key_file = key;
    auto opened = open_cache_on_disk(settings, ledger_);
    EXPECT_TRUE(opened) << to_string(opened.error());
    return std::move(*opened);
  }
  bool on_disk(const std::string& text) const {
    for (const auto& file : fs::recursive_directory_iterator(folder_ / "cache")) {
      if (!file.is_regular_file()) continue;
      std::ifstream in(file.path(), std::ios::binary);
      const std::string all{std::istreambuf_iterator<char>(in), {}};
      if (all.find(text) != all.npos) return true;
    }
    return false;
  }

  fs::path folder_;
  Ledger ledger_;
};

TEST_F(CacheOnDiskTest, ATenantsKeyIsDerivedFromTheNodes) {
  for (const auto& text : {hex_key, base64_key + "\n"}) {
    const auto keys = CacheKeys::read(key_file(text));
    ASSERT_TRUE(keys) << to_string(keys.error());
    std::string hex;
    for (const unsigned char c : keys->of(TenantId("acme"))) {
      hex += "0123456789abcdef"[c >> 4];
      hex += "0123456789abcdef"[c & 15];
    }
    // Of an implementation of RFC 5869 in Python.
    EXPECT_EQ(hex, "681937988ca694763b9ffa40b755a4b11234b64940579908eb8b201efac4cc47");
    EXPECT_NE(keys->of(TenantId("acme")), keys->of(TenantId("globex")));
  }
}

TEST_F(CacheOnDiskTest, WhatIsNoKeyIsRefused) {
  const auto code = [](const fs::path& file) { return CacheKeys::read(file).error().code; };
  EXPECT_EQ(code(folder_ / "none"), ErrorCode::not_found);
  EXPECT_EQ(code(folder_), ErrorCode::not_found);
  for (const auto& text :
       {std::string(), hex_key.substr(2), hex_key + "00", "x" + hex_key.substr(1),
        base64_key.substr(4), "*" + base64_key.substr(1)}) {
    EXPECT_EQ(code(key_file(text)), ErrorCode::invalid_argument) << text;
  }
  using enum fs::perms;
  for (const auto mode : {group_read, others_read, others_write}) {
    EXPECT_EQ(code(key_file(hex_key, owner_read | mode)), ErrorCode::permission_denied);
  }
  CacheSettings settings;
  settings.directory = folder_ / "cache";
  settings.key_file = folder_ / "none";
  const auto opened = open_cache_on_disk(settings, ledger_);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find("cache.key_file"), std::string::npos);
  EXPECT_FALSE(fs::exists(settings.directory)) << "nothing is begun without its key";
}

TEST_F(CacheOnDiskTest, WhatIsEncryptedIsInNoFileAndIsFoundWithItsKeyOnly) {
  const storage::CacheOwner acme{TenantId("acme"), "tenant:acme"};
  const std::string secret = "an answer that nobody else shall read";
  const auto put = [&](storage::DiskCache& cache) {
    EXPECT_EQ(cache.put(acme, CacheKind::tokens, "k", secret), storage::CachePut::accepted);
    EXPECT_TRUE(cache.flush(std::chrono::seconds(20)));
  };
  put(*open({}).cache);
  EXPECT_TRUE(on_disk(secret)) << "or the scan finds nothing";
  const auto key = key_file(hex_key);
  {
    const auto encrypted = open(key);
    EXPECT_FALSE(encrypted.cache->get(acme, CacheKind::tokens, "k")) << "it was plain";
    put(*encrypted.cache);
    EXPECT_EQ(encrypted.cache->get(acme, CacheKind::tokens, "k"), secret);
  }
  EXPECT_FALSE(on_disk(secret));
  EXPECT_EQ(open(key).cache->get(acme, CacheKind::tokens, "k"), secret) << "after a restart";
  EXPECT_FALSE(open(key_file(std::string(64, '1'))).cache->get(acme, CacheKind::tokens, "k"));
}

}  // namespace
}  // namespace plimsoll
