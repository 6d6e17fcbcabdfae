// kill -9 at any moment: the cache opens again, holds its bounds, and serves nothing wrong.
// PLIMSOLL_CACHE_KILLS says how often (20), PLIMSOLL_CACHE_SEED where the dice begin.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdlib>
#include <iostream>

#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

constexpr const char* directory_variable = "PLIMSOLL_TEST_CACHE_DIRECTORY";
constexpr const char* seed_variable = "PLIMSOLL_TEST_CACHE_SEED";
constexpr int keys = 3000;
constexpr int tenants = 3;  // the last one encrypted

std::uint64_t number_in(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

DiskCacheOptions options_in(const std::filesystem::path& directory) {
  DiskCacheOptions options;
  options.directory = directory;
  options.bytes = 8_MiB;
  options.flush_after = std::chrono::milliseconds(5);
  options.reclaim_within = std::chrono::milliseconds(80);
  options.ttl[static_cast<std::size_t>(CacheKind::tokens)] = std::chrono::milliseconds(700);
  options.keys[TenantId("t2")] = random_bytes(1, encryption_key_bytes);
  return options;
}
CacheOwner owner_of(int tenant) {
  const auto name = "t" + std::to_string(tenant);
  return {TenantId(name), "tenant:" + name};
}
std::string value_of(int tenant, CacheKind kind, int key) {
  const auto seed =
      static_cast<std::uint64_t>((key * tenants + tenant) * 3 + static_cast<int>(kind));
  return random_bytes(seed, 1 + (seed * 2654435761U) % 12'000);
}

// Not a test: what the other one kills.
TEST(DiskCacheChild, DISABLED_WorksUntilItIsKilled) {
  const char* directory = std::getenv(directory_variable);
  ASSERT_NE(directory, nullptr);
  std::mt19937_64 random(number_in(seed_variable, 0));
  Ledger ledger;
  const auto give_up = [](const std::string& why) {
    std::cerr << why << std::endl;
    _exit(3);
  };
  auto options = options_in(directory);
  options.on_trouble = [](const std::string& trouble) { std::cerr << trouble << std::endl; };
  auto cache = open_disk_cache(options, ledger);
  if (!cache) give_up(to_string(cache.error()));
  for (;;) {
    const int tenant = static_cast<int>(random() % tenants);
    const auto kind = static_cast<CacheKind>(random() % cache_kind_count);
    const int key = static_cast<int>(random() % keys);
    const auto name = std::to_string(key);
    const auto roll = random() % 2000;
    if (roll < 4) {
      (void)(*cache)->purge({owner_of(tenant).tenant, {}, 50ms}, 1min);
    } else if (roll < 6) {
      (*cache)->set_quota(owner_of(tenant).tenant, 1_MiB + random() % 4_MiB);
    } else if (roll < 1200) {
      (*cache)->put(owner_of(tenant), kind, name, value_of(tenant, kind, key));
    } else {
      const auto got = (*cache)->get(owner_of(tenant), kind, name);
      if (got && *got != value_of(tenant, kind, key)) give_up("what was served is wrong");
    }
  }
}

struct Killed {
  std::chrono::microseconds after{0};
  int status = 0;
};
// Runs what is not a test until it is killed.
Killed kill_child(std::chrono::microseconds after, const std::filesystem::path& output) {
  std::string program = "/proc/self/exe", filter = "--gtest_filter=DiskCacheChild.*",
              disabled = "--gtest_also_run_disabled_tests";
  char* arguments[] = {program.data(), filter.data(), disabled.data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, program.c_str(), &actions, nullptr, arguments, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  std::this_thread::sleep_for(after);
  kill(child, SIGKILL);
  Killed killed{after, 0};
  waitpid(child, &killed.status, 0);
  return killed;
}

std::string list_of(const std::filesystem::path& directory) {
  std::string list;
  for (const auto& file : files_in(directory)) {
    std::error_code gone;
    const auto bytes = std::filesystem::file_size(file, gone);
    list += "\n  " + std::to_string(gone ? 0 : bytes) + " " +
            file.lexically_relative(directory).string() + (gone ? " (gone)" : "");
  }
  return list;
}
std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(DiskCacheCrash, NothingWrongIsServedAfterAnyKill) {
  const auto kills = number_in("PLIMSOLL_CACHE_KILLS", 20);
  const auto seed = number_in("PLIMSOLL_CACHE_SEED", 1);
  std::mt19937_64 random(seed);
  const CacheDirectory directory, outputs;
  const auto output = outputs.path() / "child";
  setenv(directory_variable, directory.path().c_str(), 1);
  std::uint64_t found = 0;
  for (std::uint64_t round = 0; round < kills; ++round) {
    setenv(seed_variable, std::to_string(random()).c_str(), 1);
    // From before it has opened to long after it has filled its bound.
    const auto killed = kill_child(
        std::chrono::microseconds(random() % (round % 4 == 0 ? 60'000 : 500'000)), output);
    const auto left = list_of(directory.path());
    std::mutex mutex;
    std::vector<std::string> troubles;
    const auto told = [&] {
      const std::lock_guard lock(mutex);
      return troubles;
    };
    const auto all = [&] {
      auto text = "kill " + std::to_string(round) +
                  " of PLIMSOLL_CACHE_SEED=" + std::to_string(seed) + ", after " +
                  std::to_string(killed.after.count()) + " us; status " +
                  std::to_string(killed.status) + "\nit left:" + left +
                  "\nnow:" + list_of(directory.path()) + "\ntroubles:";
      for (const auto& trouble : told()) text += "\n  " + trouble;
      return text + "\nits output:\n" + text_of(output);
    };
    ASSERT_TRUE(WIFSIGNALED(killed.status) && WTERMSIG(killed.status) == SIGKILL)
        << "it ended by itself\n"
        << all();

    auto options = options_in(directory.path());
    options.on_trouble = [&](const std::string& trouble) {
      const std::lock_guard lock(mutex);
      troubles.push_back(trouble);
    };
    EXPECT_LE(bytes_in(directory.path()), options.bytes) << all();
    Ledger ledger;
    auto cache = open_disk_cache(options, ledger);
    ASSERT_TRUE(cache) << to_string(cache.error()) << "\n" << all();
    // What is on disk is known; the writer may be making one segment of several at the moment.
    std::uint64_t files = 0;
    EXPECT_TRUE(eventually([&] {
      files = 0;
      for (const auto& file : files_in(directory.path())) {
        std::error_code gone;
        const auto bytes = std::filesystem::file_size(file, gone);
        if (file.extension() == ".sst" && !gone) files += bytes;
      }
      return (*cache)->stats().bytes >= files;
    })) << (*cache)->stats().bytes
        << " bytes are known of " << files << "\n"
        << all();
    EXPECT_LE((*cache)->stats().bytes, options.bytes) << all();
    EXPECT_TRUE(eventually([&] {
      return files_in(directory.path()).size() <= (*cache)->stats().segments + 20;
    })) << all();
    for (int i = 0; i < 300; ++i) {
      const int tenant = static_cast<int>(random() % tenants);
      const auto kind = static_cast<CacheKind>(random() % cache_kind_count);
      const int key = static_cast<int>(random() % keys);
      const auto got = (*cache)->get(owner_of(tenant), kind, std::to_string(key));
      if (!got) continue;
      ++found;
      ASSERT_TRUE(*got == value_of(tenant, kind, key))
          << "of tenant " << tenant << ", kind " << to_string(kind) << ", key " << key << "\n"
          << all();
    }
    cache->reset();
    EXPECT_THAT(told(), testing::IsEmpty()) << "a kill is no damage\n" << all();
    if (HasFailure()) break;  // what comes behind says no more
  }
  if (!HasFailure()) {
    std::cout << found << " entries were found after " << kills << " kills\n";
    EXPECT_GT(found, kills) << "or nothing was tested";
  }
}

}  // namespace
}  // namespace plimsoll::storage
