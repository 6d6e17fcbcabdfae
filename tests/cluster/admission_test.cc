#include "cluster/admission.h"

#include <gtest/gtest.h>

#include <random>

namespace plimsoll::cluster {
namespace {

using Verdict = AdmissionDecision::Verdict;
using Time = Admission::Time;

TEST(Admission, CapsConcurrentSequences) {
  Admission a({{"t", {.sequences = 4}}});
  EXPECT_EQ(a.admit("t", 3, Time(0)).verdict, Verdict::admitted);
  EXPECT_EQ(a.admit("t", 2, Time(0)).verdict, Verdict::sequences);
  EXPECT_EQ(a.sequences("t"), 3U) << "all or nothing";
  EXPECT_EQ(a.admit("t", 1, Time(0)).verdict, Verdict::admitted);
  a.release("t", 2);
  EXPECT_EQ(a.admit("t", 2, Time(0)).verdict, Verdict::admitted);
  EXPECT_EQ(a.admit("t", ~0U, Time(0)).verdict, Verdict::sequences) << "no wrap-around";
  EXPECT_EQ(a.admit("u", 1, Time(0)).verdict, Verdict::unknown_tenant);
}

TEST(Admission, BucketGivesABurstThenTheRate) {
  Admission a({{"t", {.sequences = 100, .requests_per_second = 2, .burst = 3}}});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(a.admit("t", 1, Time(10)).verdict, Verdict::admitted);
  const auto refused = a.admit("t", 1, Time(10));
  EXPECT_EQ(refused.verdict, Verdict::rate);
  EXPECT_EQ(refused.retry_after.count(), 500);
  EXPECT_EQ(a.admit("t", 1, Time(10.4)).verdict, Verdict::rate);
  EXPECT_EQ(a.admit("t", 1, Time(10.51)).verdict, Verdict::admitted);
}

// Over any time, no more than burst + rate * time gets through, and who comes back after
// retry_after is let in.
TEST(Admission, NeverBeyondTheRate) {
  std::mt19937 random(3);
  Admission a({{"t", {.sequences = 1'000'000, .requests_per_second = 5, .burst = 2}}});
  double now = 0;
  int admitted = 0;
  for (int i = 0; i < 5000; ++i) {
    now += static_cast<double>(random() % 100) / 1000;
    const auto decision = a.admit("t", 1, Time(now));
    if (decision.verdict == Verdict::admitted) {
      ++admitted;
    } else if (random() % 10 == 0) {
      now += static_cast<double>(decision.retry_after.count()) / 1000 + 1e-9;
      ASSERT_EQ(a.admit("t", 1, Time(now)).verdict, Verdict::admitted);
      ++admitted;
    }
    ASSERT_LE(admitted, 2 + 5 * now + 1e-6);
  }
  EXPECT_GT(admitted, 4.5 * now) << "and hardly less";
}

}  // namespace
}  // namespace plimsoll::cluster
