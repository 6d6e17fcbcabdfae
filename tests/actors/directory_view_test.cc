// The orders in which a router's own changes and the watch's word of them may come.
#include "actors/directory_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/records.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

using storage::StateChange;
using storage::StateEntry;

const std::string key = DirectoryView::tenants_prefix + "acme";

StateEntry record(std::uint64_t revision, const std::string& name = "acme") {
  cluster::Tenant tenant;
  tenant.name = name;
  tenant.quota.sequences = static_cast<std::uint32_t>(revision);
  tenant.keys = {{sha256_hex(name + "-" + std::to_string(revision)), 1, 0}};
  return {DirectoryView::tenants_prefix + name, encode(tenant), revision};
}
StateChange put(std::uint64_t revision, const std::string& name = "acme") {
  return {record(revision, name), false};
}
StateChange removal(std::uint64_t revision) { return {{key, {}, revision}, true}; }

// The revision whose record is held; 0: none. Its key counts, and no other's.
std::uint64_t held(const DirectoryView& view) {
  const auto tenant = view.tenant("acme");
  const std::uint64_t revision = tenant ? tenant->quota.sequences : 0;
  for (std::uint64_t other = 1; other < 20; ++other) {
    EXPECT_EQ(view.find_key("acme-" + std::to_string(other), 0).has_value(), other == revision);
  }
  return revision;
}

TEST(DirectoryView, WaitsForTheFirstWordEvenIfNothingIsThere) {
  DirectoryView view;
  EXPECT_FALSE(view.wait_until_told(std::chrono::milliseconds(0)));
  view.told({});
  EXPECT_TRUE(view.wait_until_told(std::chrono::milliseconds(0)));
}

TEST(DirectoryView, OwnChangesAreAheadOfTheWatch) {
  DirectoryView view;
  view.told({put(1)});
  view.put(record(5));
  EXPECT_EQ(held(view), 5u);
  view.told({put(3)});
  EXPECT_EQ(held(view), 5u);
  view.told({put(5), put(6)});
  EXPECT_EQ(held(view), 6u);
  view.removed(key, 6);
  EXPECT_EQ(held(view), 0u);
  view.put(record(8));
  view.told({removal(7)});
  EXPECT_EQ(held(view), 8u);
  view.told({put(8), removal(9)});
  EXPECT_EQ(held(view), 0u);
}

TEST(DirectoryView, WhatWasRemovedDoesNotComeBackWithOlderWord) {
  DirectoryView view;
  view.put(record(5));
  view.removed(key, 5);
  view.told({put(4)});
  view.told({put(5)});
  EXPECT_EQ(held(view), 0u);
  view.told({removal(6), put(7)});
  EXPECT_EQ(held(view), 7u);
}

TEST(DirectoryView, TheWatchMayBeFasterThanTheWriter) {
  DirectoryView view;
  view.told({put(5), removal(6)});
  view.put(record(5));
  EXPECT_EQ(held(view), 0u) << "another removed it meanwhile";
  view.told({put(7)});
  view.removed(key, 5);
  EXPECT_EQ(held(view), 7u) << "another made it anew";
  view.told({put(9)});
  view.put(record(8));
  EXPECT_EQ(held(view), 9u);
  view.put(record(12));
  view.put(record(11));
  EXPECT_EQ(held(view), 12u);
}

TEST(DirectoryView, WhatTheWatchPassesOverIsGone) {
  DirectoryView view;
  view.told({put(1, "other")});
  view.put(record(5));
  view.told({put(4, "other")});
  EXPECT_EQ(held(view), 5u);
  view.told({put(9, "other")});  // a list after lost changes: without what was at 5
  EXPECT_EQ(held(view), 0u);
  view.told({put(10)});
  EXPECT_EQ(held(view), 10u);
}

TEST(DirectoryView, FollowsAStoreThatWasRestored) {
  DirectoryView view;
  view.told({put(10)});
  view.told({put(3)});
  EXPECT_EQ(held(view), 3u);
}

}  // namespace
}  // namespace plimsoll
