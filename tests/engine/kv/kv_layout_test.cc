#include "engine/kv/kv_layout.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

constexpr KvType types[] = {KvType::f16, KvType::int8, KvType::int4};

// SmolLM2-135M.
constexpr KvLayout layout_of(KvType type) {
  return {.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 16, .type = type};
}

TEST(KvLayout, BytesOfAToken) {
  EXPECT_EQ(layout_of(KvType::f16).block_bytes(), 16U * 30 * 3 * 2 * (64 * 2));
  EXPECT_EQ(layout_of(KvType::int8).block_bytes(), 16U * 30 * 3 * 2 * (64 + 2));
  EXPECT_EQ(layout_of(KvType::int4).block_bytes(), 16U * 30 * 3 * 2 * (64 / 2 + 2 * (2 + 2)));
}

TEST(KvLayout, PartsFollowEachOtherWithoutAGap) {
  for (const KvType type : types) {
    for (const std::uint32_t head_dim : {2U, 20U, 32U, 64U, 80U, 256U}) {
      for (const std::uint32_t block_tokens : {16U, 48U}) {
        const KvLayout layout{3, 2, head_dim, block_tokens, type};
        SCOPED_TRACE(std::string(to_string(type)) + " " + std::to_string(head_dim));
        std::size_t at = 0;
        for (std::uint32_t layer = 0; layer < layout.layers; ++layer) {
          EXPECT_EQ(layout.k_offset(layer), at);
          at += layout.kv_heads * layout.head_bytes();
          EXPECT_EQ(layout.v_offset(layer), at);
          at += layout.kv_heads * layout.head_bytes();
          EXPECT_EQ(layout.k_scales_offset(layer), at);
          at += layout.kv_heads * layout.head_scales_bytes();
          EXPECT_EQ(layout.v_scales_offset(layer), at);
          at += layout.kv_heads * layout.head_scales_bytes();
          EXPECT_EQ(layout.k_scales_offset(layer) % sizeof(float), 0U);
          EXPECT_EQ(layout.v_scales_offset(layer) % sizeof(float), 0U);
        }
        EXPECT_EQ(layout.block_bytes(), (at + 63) / 64 * 64);
      }
    }
  }
}

TEST(KvLayout, Int4PadsAHeadToWholeGroups) {
  KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 80, .type = KvType::int4};
  EXPECT_EQ(layout.groups(), 3U);
  EXPECT_EQ(layout.row_bytes(), 48U);
  EXPECT_EQ(layout.row_scales_bytes(), 12U);
  layout.head_dim = 20;
  EXPECT_EQ(layout.row_bytes(), 16U);
  EXPECT_EQ(layout.row_scales_bytes(), 4U);
}

}  // namespace
}  // namespace plimsoll
