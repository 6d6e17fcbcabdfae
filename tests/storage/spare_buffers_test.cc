#include "storage/spare_buffers.h"

#include <gtest/gtest.h>

namespace plimsoll::storage {
namespace {

class SpareBuffersTest : public ::testing::Test {
 protected:
  static std::string filled(std::size_t bytes) { return std::string(bytes, 'x'); }

  Ledger ledger_;
  Account& account_ = ledger_.account(Component::storage, "", shared_tenant);
  SpareBuffers spare_{300'000, account_};
};

TEST_F(SpareBuffersTest, WhatIsGivenIsTakenAgain) {
  auto value = filled(100'000);
  const auto* place = value.data();
  spare_.give(std::move(value));
  EXPECT_EQ(spare_.bytes(), 100'000U);
  EXPECT_EQ(account_.bytes(), 100'000);
  EXPECT_NE(spare_.take(99'999).data(), place) << "its capacity is more than what is asked for";
  const auto taken = spare_.take(100'000);
  EXPECT_EQ(taken.data(), place);
  EXPECT_TRUE(taken.empty());
  EXPECT_EQ(taken.capacity(), 100'000U);
  EXPECT_EQ(account_.bytes(), 0);
  EXPECT_EQ(spare_.take(100'000).capacity(), 100'000U) << "there is none any more";
}

TEST_F(SpareBuffersTest, NothingIsKeptOverTheLimitNorWhatIsSmall) {
  for (int i = 0; i < 5; ++i) spare_.give(filled(100'000));
  EXPECT_EQ(spare_.bytes(), 300'000U);
  spare_.clear_idle(std::chrono::hours(1));
  EXPECT_EQ(account_.bytes(), 300'000) << "they came just now";
  spare_.clear_idle({});
  EXPECT_EQ(account_.bytes(), 0);
  spare_.give(filled(SpareBuffers::least_bytes - 1));
  EXPECT_EQ(spare_.bytes(), 0U);
}

}  // namespace
}  // namespace plimsoll::storage
