#include "cluster/event_log.h"

#include <gtest/gtest.h>

#include "cluster/event_feed.h"

namespace plimsoll::cluster {
namespace {

Event refusal(double at, const std::string& tenant) {
  Event event;
  event.unix_seconds = at;
  event.node = "a";
  event.kind = EventKind::refuse;
  event.tenant = tenant;
  event.bytes = 10;
  return event;
}

TEST(EventLog, RepetitionsWithinASecondAreOneLine) {
  EventLog log;
  log.add(refusal(1.0, "x"));
  log.add(refusal(1.2, "y"));
  log.add(refusal(1.9, "x"));
  log.add(refusal(2.5, "x"));  // over a second after its line began
  const auto events = log.after(0);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].count, 2U);
  EXPECT_EQ(events[0].bytes, 20U);
  EXPECT_EQ(events[1].tenant, "y");
  EXPECT_EQ(events[2].count, 1U);
}

TEST(EventLog, TotalsCountWhatIsGoneToo) {
  EventLog log(1);
  log.add(refusal(1.0, "x"));
  log.add(refusal(1.5, "x"));
  auto several = refusal(9.0, "y");
  several.count = 5;
  log.add(several);
  EXPECT_EQ(log.after(0).size(), 1U);
  EXPECT_EQ(log.total(EventKind::refuse), 7U);
  EXPECT_EQ(log.total(EventKind::cancel), 0U);
}

TEST(EventLog, EveryChangeOfLevelIsALine) {
  EventLog log;
  Event level;
  level.unix_seconds = 1;
  log.add(level);
  log.add(level);
  EXPECT_EQ(log.after(0).size(), 2U);
}

TEST(EventLog, GoesOnBehindAnIdAndForgetsTheOldest) {
  EventLog log(3);
  for (int i = 0; i < 5; ++i) log.add(refusal(i * 10.0, "x"));
  EXPECT_EQ(log.last_id(), 5U);
  auto events = log.after(0);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events.front().id, 3U);
  events = log.after(3, 1);
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events.front().id, 4U);
  EXPECT_TRUE(log.after(5).empty());
}

TEST(EventLog, FindsWhatIsWantedAndTheNewestOfTooMany) {
  EventLog log;
  for (int i = 0; i < 6; ++i) log.add(refusal(i * 10.0, i % 2 == 0 ? "x" : "y"));
  Event level;
  level.unix_seconds = 70;
  level.node = "b";
  log.add(level);
  const auto ids = [&](const EventLog::Query& query) {
    std::vector<std::uint64_t> out;
    for (const auto& event : log.find(query)) out.push_back(event.id);
    return out;
  };
  using Ids = std::vector<std::uint64_t>;
  EXPECT_EQ(ids({.limit = 2}), Ids({6, 7}));
  EXPECT_EQ(ids({.after = 5}), Ids({6, 7}));
  EXPECT_EQ(ids({.tenant = "x"}), Ids({1, 3, 5}));
  EXPECT_EQ(ids({.after = 1, .tenant = "x", .limit = 1}), Ids({5}));
  EXPECT_EQ(ids({.node = "b"}), Ids({7}));
  EXPECT_EQ(ids({.kind = EventKind::level}), Ids({7}));
}

// What the log of a neighbour holds after it was told, but for the ids.
TEST(EventFeed, TellsAnEntryAtOnceAndThenWhatItGrowsBy) {
  EventLog here;
  EventLog there;
  EventFeed feed;
  const auto tell = [&](double now, std::size_t most) {
    const auto events = feed.next(here, now, most);
    for (const auto& event : events) there.add(event);
    return events.size();
  };
  here.add(refusal(1.0, "x"));
  EXPECT_EQ(tell(1.0, 64), 1U);
  EXPECT_EQ(tell(1.1, 64), 0U) << "nothing is told twice";
  here.add(refusal(1.5, "x"));
  here.add(refusal(1.6, "y"));
  EXPECT_EQ(tell(1.6, 64), 2U);
  here.add(refusal(2.5, "x"));
  EXPECT_EQ(tell(9.0, 64), 1U);
  EXPECT_EQ(tell(99.0, 64), 0U);
  EXPECT_EQ(there.after(0), here.after(0));
}

TEST(EventFeed, WhatDoesNotFitComesLater) {
  EventLog here;
  EventLog there;
  EventFeed feed;
  for (int i = 0; i < 10; ++i) here.add(refusal(i * 10.0, "x"));
  for (const std::size_t count : {4U, 4U, 2U, 0U}) {
    const auto events = feed.next(here, 1000, 4);
    EXPECT_EQ(events.size(), count);
    for (const auto& event : events) there.add(event);
  }
  EXPECT_EQ(there.after(0), here.after(0));
}

}  // namespace
}  // namespace plimsoll::cluster
