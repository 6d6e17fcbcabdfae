// int4 keys and values against what kv_layout.h says of them, and attention against its definition
// over what is then in the blocks.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "engine/kernels/cpu/attention.h"
#include "engine/quantize/dequantize.h"
#include "tests/engine/kernels/testing.h"

namespace plimsoll {
namespace {

class Int4Kv : public EveryIsa {};
PLIMSOLL_FOR_EVERY_ISA(Int4Kv);

constexpr std::uint32_t layer = 1;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

struct Subject {
  KvLayout layout;
  std::uint32_t tokens;
  std::vector<float> k, v;  // [tokens, kv_heads, head_dim]
  std::vector<std::byte> pool;
  std::vector<BlockId> blocks;

  Subject(std::uint32_t head_dim, std::uint32_t n, const std::function<float(std::size_t)>& value)
      : layout{.layers = 2, .kv_heads = 2, .head_dim = head_dim, .type = KvType::int4}, tokens(n) {
    for (std::size_t i = 0; i < std::size_t{n} * 2 * head_dim; ++i) {
      k.push_back(value(i));
      v.push_back(value(i + 7));
    }
    pool.resize(layout.blocks_for(n) * layout.block_bytes());
    for (std::uint32_t b = layout.blocks_for(n); b > 0; --b) blocks.emplace_back(b - 1);
    write_kv(layout, pool.data(), layer, blocks, 0, tokens, k.data(), v.data(), 2 * head_dim);
  }

  const std::byte* block(std::uint32_t token) const {
    return pool.data() + blocks[token / layout.block_tokens].get() * layout.block_bytes();
  }
  // A group's scale, or its minimum.
  float scale(bool keys, std::uint32_t token, std::uint32_t head, std::size_t group,
              bool minimum) const {
    const auto* const at = reinterpret_cast<const std::uint16_t*>(
        block(token) + (keys ? layout.k_scales_offset(layer) : layout.v_scales_offset(layer)) +
        head * layout.head_scales_bytes());
    const std::size_t row = group + (minimum ? layout.groups() : 0);
    return half_to_float(at[row * layout.block_tokens + token % layout.block_tokens]);
  }
  // A token's head as the block has it: keys rotated.
  std::vector<double> stored(bool keys, std::uint32_t token, std::uint32_t head) const {
    const std::uint32_t slot = token % layout.block_tokens;
    const auto* const at = reinterpret_cast<const std::uint8_t*>(
        block(token) + (keys ? layout.k_offset(layer) : layout.v_offset(layer)) +
        head * layout.head_bytes());
    std::vector<double> out;
    for (std::size_t i = 0; i < layout.head_dim; ++i) {
      const std::size_t group = i / 32, column = i % 32;
      const int byte = keys ? at[i / 2 * layout.block_tokens + slot]
                            : at[slot * layout.row_bytes() + group * 16 + column % 16];
      const int u = (keys ? i % 2 : column / 16) != 0 ? byte >> 4 : byte & 15;
      out.push_back(u * static_cast<double>(scale(keys, token, head, group, false)) +
                    scale(keys, token, head, group, true));
    }
    return out;
  }
};

// H x by definition; H is its own inverse.
std::vector<double> rotated(const std::vector<double>& x) {
  std::size_t piece = 1;
  while (piece < 32 && x.size() % (2 * piece) == 0) piece *= 2;
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t first = i / piece * piece;
    for (std::size_t j = 0; j < piece; ++j) {
      const bool minus = __builtin_parityll((i - first) & j) != 0;
      out[i] += (minus ? -x[first + j] : x[first + j]) / std::sqrt(static_cast<double>(piece));
    }
  }
  return out;
}

std::vector<double> head_of(const Subject& s, bool keys, std::uint32_t token, std::uint32_t head) {
  const auto& all = keys ? s.k : s.v;
  const auto from =
      all.begin() + static_cast<std::ptrdiff_t>((token * 2 + head) * s.layout.head_dim);
  return {from, from + s.layout.head_dim};
}

// Every value is half a step from what was written, beside what f16 rounds of minimum and scale.
void expect_within_half_a_step(const Subject& s) {
  for (std::uint32_t token = 0; token < s.tokens; ++token) {
    for (std::uint32_t head = 0; head < 2; ++head) {
      for (const bool keys : {true, false}) {
        auto want = head_of(s, keys, token, head);
        if (keys) want = rotated(want);
        const auto got = s.stored(keys, token, head);
        for (std::size_t i = 0; i < want.size(); ++i) {
          const double step = s.scale(keys, token, head, i / 32, false);
          const double minimum = s.scale(keys, token, head, i / 32, true);
          const double rounding = (std::abs(minimum) + 15 * step) * 0x1p-10 + 1e-6;
          ASSERT_NEAR(got[i], want[i], 0.5 * step + rounding)
              << (keys ? "key " : "value ") << token << ", head " << head << ", column " << i;
          if (keys) continue;
          // And a step is no larger than it must be.
          const std::size_t first = i / 32 * 32, end = std::min(first + 32, want.size());
          const auto [low, high] = std::minmax_element(want.begin() + static_cast<long>(first),
                                                       want.begin() + static_cast<long>(end));
          ASSERT_NEAR(step, (*high - *low) / 15, (*high - *low) * 0x1p-10 + 1e-7);
        }
      }
    }
  }
}

std::vector<float> attend(const Subject& s, const AttentionShape& shape,
                          const std::vector<float>& q) {
  ThreadPool threads(1);
  std::vector<float> out(q.size()), scratch(attention_scratch_floats(shape));
  const AttentionSequence sequence{q.data(), out.data(), s.tokens, 0, s.blocks};
  attention(shape, s.layout, s.pool.data(), layer, {&sequence, 1}, shape.heads * shape.head_dim,
            scratch, threads);
  return out;
}

void expect_attention_over_what_is_stored(const Subject& s) {
  const std::uint32_t d = s.layout.head_dim, heads = 6;
  const AttentionShape shape{.heads = heads, .kv_heads = 2, .head_dim = d, .scale = 0.2F};
  const auto q = random_floats(std::size_t{s.tokens} * heads * d, 9);
  const auto got = attend(s, shape, q);
  for (std::uint32_t token = 0; token < s.tokens; ++token) {
    for (std::uint32_t head = 0; head < heads; ++head) {
      const auto from = q.begin() + static_cast<std::ptrdiff_t>((token * heads + head) * d);
      std::vector<double> weights, out(d);
      double largest = -1e300, sum = 0, values = 0;
      for (std::uint32_t key = 0; key <= token; ++key) {
        const auto k = rotated(s.stored(true, key, head / 3));
        double score = 0;
        for (std::size_t i = 0; i < d; ++i)
          score += k[i] * from[static_cast<long>(i)] * shape.scale;
        weights.push_back(score);
        largest = std::max(largest, score);
      }
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (std::uint32_t key = 0; key <= token; ++key) {
        const auto v = s.stored(false, key, head / 3);
        for (std::size_t i = 0; i < d; ++i) {
          out[i] += weights[key] / sum * v[i];
          values = std::max(values, std::abs(v[i]));
        }
      }
      for (std::size_t i = 0; i < d; ++i) {
        ASSERT_NEAR(got[(token * heads + head) * d + i], out[i], 1e-4 * values + 1e-12);
      }
    }
  }
}

TEST_P(Int4Kv, BlocksHoldWhatTheLayoutSays) {
  for (const std::uint32_t head_dim : {2U, 20U, 64U, 80U, 256U}) {
    const auto random = random_floats(100 * 2 * head_dim + 7, head_dim);
    const Subject s(head_dim, 37, [&](std::size_t i) { return random[i]; });
    expect_within_half_a_step(s);
    expect_attention_over_what_is_stored(s);
  }
}

TEST_P(Int4Kv, HardValuesLoseNoMoreThanHalfAStep) {
  const std::function<float(std::size_t)> hard[] = {
      [](std::size_t) { return 0.0F; },
      [](std::size_t) { return 3.14159F; },
      [](std::size_t) { return -1e4F; },  // the first of a rotated group is 57e3, which f16 holds
      [](std::size_t i) { return i % 2 == 0 ? 1e-40F : -1e-40F; },           // denormal floats
      [](std::size_t i) { return 1e-6F * static_cast<float>(i % 13); },      // and halves
      [](std::size_t i) { return i % 64 == 5 ? 100.0F : 0.01F * (i % 7); },  // an outlier
      [](std::size_t i) { return i % 32 == 31 ? -50.0F : 50.0F; },
      [](std::size_t i) { return 1000.0F + static_cast<float>(i % 32) / 31; },  // far from 0
  };
  for (const auto& value : hard) {
    const Subject s(64, 20, value);
    expect_within_half_a_step(s);
    expect_attention_over_what_is_stored(s);
  }
  const Subject zeros(64, 20, hard[0]);
  for (const double v : zeros.stored(false, 3, 1)) EXPECT_EQ(v, 0.0);
}

// What f16 cannot hold, NaN too, counts as the most that it can: a weight of 0 makes 0 of it.
TEST_P(Int4Kv, NothingThatIsNotFiniteGetsIntoABlock) {
  const AttentionShape shape{.heads = 2, .kv_heads = 2, .head_dim = 64};
  const auto q = random_floats(std::size_t{20} * 2 * 64, 3, 1e-3F);
  for (const float most : {1e5F, 3e38F, infinity, not_a_number}) {
    const Subject s(64, 20, [&](std::size_t i) { return i % 2 == 0 ? most : -most; });
    for (const double v : s.stored(false, 3, 1)) EXPECT_NEAR(std::abs(v), 65504, 70);
    for (const double k : s.stored(true, 3, 1)) EXPECT_LE(std::abs(k), 65504 + 70);
    for (const float v : attend(s, shape, q)) ASSERT_TRUE(std::isfinite(v));
  }
}

TEST_P(Int4Kv, EveryInstructionSetWritesTheSameBits) {
  for (const std::uint32_t head_dim : {2U, 20U, 64U, 80U, 256U}) {
    const auto random = random_floats(100 * 2 * head_dim + 7, head_dim, 3.0F);
    const auto value = [&](std::size_t i) { return random[i]; };
    const Subject s(head_dim, 37, value);
    force_isa(Isa::portable);
    const Subject portable(head_dim, 37, value);
    force_isa(GetParam());
    EXPECT_TRUE(s.pool == portable.pool) << head_dim;
  }
}

}  // namespace
}  // namespace plimsoll
