#include "cluster/event_log.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace plimsoll::cluster
