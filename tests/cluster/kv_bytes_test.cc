#include "cluster/kv_bytes.h"

#include <gtest/gtest.h>

namespace plimsoll::cluster {
namespace {

TEST(KvBytes, WindowedLayersKeepAWindow) {
  const KvBytes kv{.token = 60, .windowed = 50, .window = 512};
  EXPECT_EQ(kv.of(0), 0);
  EXPECT_EQ(kv.of(512), 512 * 60);
  EXPECT_EQ(kv.of(2048), 2048 * 10 + 512 * 50);
  EXPECT_EQ((KvBytes{.token = 60}.of(2048)), 2048 * 60) << "no windows";
  EXPECT_EQ(KvBytes{}.of(2048), 0) << "not known";
}

}  // namespace
}  // namespace plimsoll::cluster
