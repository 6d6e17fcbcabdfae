#include "engine/kv/kv_layout.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

constexpr KvType types[] = {KvType::f16, KvType::bf16, KvType::int8, KvType::int4};

// SmolLM2-135M.
constexpr KvLayout layout_of(KvType type) {
  return {.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 16, .type = type};
}

TEST(KvLayout, BytesOfAToken) {
  EXPECT_EQ(layout_of(KvType::f16).block_bytes(), 16U * 30 * 3 * 2 * (64 * 2));
  EXPECT_EQ(layout_of(KvType::bf16).block_bytes(), layout_of(KvType::f16).block_bytes());
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

// Gemma 3 270M: of 18 layers each sixth sees all tokens, the others 512.
const KvLayout windowed =
    KvLayout{.layers = 18, .kv_heads = 1, .head_dim = 256}.with_window(512, 6);

TEST(KvLayout, GroupsAreOfAsManyLayersAsDivideBothKinds) {
  EXPECT_EQ(windowed.layers, 3U);
  EXPECT_EQ(windowed.full_groups, 1U);
  EXPECT_EQ(windowed.windowed_groups, 5U);
  EXPECT_EQ(windowed.token_bytes(), 18U * 1024);
  const KvLayout odd = KvLayout{.layers = 34, .kv_heads = 1, .head_dim = 64}.with_window(1024, 6);
  EXPECT_EQ(odd.layers, 1U);  // 5 and 29
  EXPECT_EQ(odd.layer_groups(), 34U);
  for (const auto& [tokens, pattern] : {std::pair{0U, 0U}, {512U, 1U}, {512U, 20U}}) {
    const KvLayout one =
        KvLayout{.layers = 18, .kv_heads = 1, .head_dim = 256}.with_window(tokens, pattern);
    EXPECT_EQ(one.layers, 18U) << "no windows, or nothing that sees all";
    EXPECT_EQ(one.layer_groups(), 1U);
    EXPECT_EQ(one.window_rows(), 0U);
  }
}

TEST(KvLayout, AWindowsFirstRow) {
  EXPECT_EQ(windowed.window_rows(), 32U);
  EXPECT_EQ(windowed.first_kept_row(527), 0U);
  EXPECT_EQ(windowed.first_kept_row(528), 1U);
  for (std::uint32_t computed = 0; computed < 3000; ++computed) {
    const std::uint32_t first = windowed.first_kept_row(computed) * 16;
    const std::uint32_t whole = computed / 16 * 16;
    EXPECT_LE(first + 511, std::max(whole, 511U)) << "the window of the token behind the last row";
    EXPECT_GT(first + 16 + 511, whole) << "and no row more";
  }
}

TEST(KvDemand, IsWhatASequenceHoldsAtMost) {
  const auto demand = KvDemand::of(windowed, 256);
  std::uint32_t most = 0;
  for (std::uint32_t computed = 0; computed < 5000; ++computed) {
    const std::uint32_t rows = demand.rows(computed + 256);
    const std::uint32_t kept = rows - windowed.first_kept_row(computed);
    most = std::max(most, kept);
    EXPECT_LE(rows + 5 * kept, demand.blocks(rows));
  }
  EXPECT_EQ(most, demand.window_rows);
  EXPECT_EQ(demand.blocks(10), 60U);
  EXPECT_EQ(demand.blocks(1000), 1000 + 5 * demand.window_rows);
}

TEST(KvDemand, TheLongestSequenceFits) {
  for (const auto& demand : {KvDemand::of(windowed, 256), KvDemand{16, 1, 0, 0}}) {
    for (std::uint32_t blocks = 1; blocks < 2000; blocks += 7) {
      const auto rows = static_cast<std::uint32_t>(demand.tokens_within(blocks) / 16);
      EXPECT_LE(demand.blocks(rows), blocks);
      EXPECT_GT(demand.blocks(rows + 1), blocks);
    }
  }
}

}  // namespace
}  // namespace plimsoll
