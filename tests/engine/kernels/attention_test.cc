#include "engine/kernels/cpu/attention.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/engine/kernels/testing.h"

namespace plimsoll {
namespace {

class Attention : public EveryIsa {};
PLIMSOLL_FOR_EVERY_ISA(Attention);

// A pool filled with NaN: what is read without having been written shows.
struct Pool {
  KvLayout layout;
  std::vector<float> storage;

  Pool(const KvLayout& l, std::uint32_t blocks)
      : layout(l),
        storage(l.block_bytes() * blocks / sizeof(float), std::numeric_limits<float>::quiet_NaN()) {
  }
  std::byte* data() { return reinterpret_cast<std::byte*>(storage.data()); }
};

// One sequence: q [tokens, heads, head_dim]; k and v [tokens, kv_heads, head_dim].
struct Sequence {
  std::uint32_t tokens;
  std::vector<float> q, k, v;
  std::vector<BlockId> blocks;

  Sequence(const AttentionShape& shape, std::uint32_t n, std::uint32_t seed, float deviation = 1)
      : tokens(n),
        q(random_floats(std::size_t{n} * shape.heads * shape.head_dim, seed, deviation)),
        k(random_floats(std::size_t{n} * shape.kv_heads * shape.head_dim, seed + 1, deviation)),
        v(random_floats(std::size_t{n} * shape.kv_heads * shape.head_dim, seed + 2, deviation)) {}
};

// Every second block, backwards: the table must be followed.
void give_blocks(Sequence& s, const KvLayout& layout, std::uint32_t& last) {
  for (std::uint32_t i = 0; i < layout.blocks_for(s.tokens); ++i) {
    last -= 2;
    s.blocks.push_back(BlockId(last));
  }
}

constexpr std::uint32_t layer = 1;

// Writes and attends to the sequence in chunks of `chunk` tokens; returns [tokens, heads,
// head_dim].
std::vector<float> run(const AttentionShape& shape, Pool& pool, const Sequence& s,
                       std::uint32_t chunk, ThreadPool& threads) {
  std::vector<float> out(s.q.size());
  std::vector<float> scratch(attention_scratch_floats(shape) * threads.threads());
  const std::size_t row = shape.heads * shape.head_dim;
  const std::size_t kv_row = shape.kv_heads * shape.head_dim;
  for (std::uint32_t start = 0; start < s.tokens; start += chunk) {
    const std::uint32_t n = std::min(chunk, s.tokens - start);
    write_kv(pool.layout, pool.data(), layer, s.blocks, start, n, s.k.data() + start * kv_row,
             s.v.data() + start * kv_row, kv_row);
    const AttentionSequence sequence{s.q.data() + start * row, out.data() + start * row, n, start,
                                     s.blocks};
    attention(shape, pool.layout, pool.data(), layer, {&sequence, 1}, row, scratch, threads);
  }
  return out;
}

// The definition, in double. `causal` false: every query sees every key.
std::vector<double> reference(const AttentionShape& shape, const Sequence& s, bool causal) {
  const std::uint32_t d = shape.head_dim;
  std::vector<double> out(s.q.size());
  for (std::uint32_t t = 0; t < s.tokens; ++t) {
    for (std::uint32_t h = 0; h < shape.heads; ++h) {
      const std::uint32_t kv = h / (shape.heads / shape.kv_heads);
      const float* const q = &s.q[(t * shape.heads + h) * d];
      const std::uint32_t end = causal ? t + 1 : s.tokens;
      const std::uint32_t begin =
          causal && shape.window > 0 && end > shape.window ? end - shape.window : 0;
      std::vector<double> w(s.tokens);
      double largest = -1e300, sum = 0;
      for (std::uint32_t j = begin; j < end; ++j) {
        double score = 0;
        for (std::uint32_t i = 0; i < d; ++i) {
          score += static_cast<double>(q[i]) * s.k[(j * shape.kv_heads + kv) * d + i];
        }
        score *= shape.scale;
        if (shape.softcap > 0) score = shape.softcap * std::tanh(score / shape.softcap);
        w[j] = score;
        largest = std::max(largest, score);
      }
      for (std::uint32_t j = begin; j < end; ++j) sum += w[j] = std::exp(w[j] - largest);
      for (std::uint32_t j = begin; j < end; ++j) {
        for (std::uint32_t i = 0; i < d; ++i) {
          out[(t * shape.heads + h) * d + i] += w[j] / sum * s.v[(j * shape.kv_heads + kv) * d + i];
        }
      }
    }
  }
  return out;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << i;
}

constexpr KvType types[] = {KvType::f16, KvType::bf16, KvType::int8, KvType::int4};

std::vector<AttentionShape> shapes() {
  return {
      {.heads = 9, .kv_heads = 3, .head_dim = 64, .scale = 0.125F},
      {.heads = 4, .kv_heads = 1, .head_dim = 256, .scale = 0.0625F, .window = 21},
      {.heads = 2, .kv_heads = 2, .head_dim = 20, .scale = 0.2F, .softcap = 5.0F},
      {.heads = 40, .kv_heads = 1, .head_dim = 32, .scale = 0.2F, .window = 64},
      {.heads = 1, .kv_heads = 1, .head_dim = 80, .scale = 0.1F, .window = 1},
  };
}

KvLayout layout_of(const AttentionShape& shape, KvType type, std::uint32_t block_tokens) {
  return {.layers = 3,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .block_tokens = block_tokens,
          .type = type};
}

TEST_P(Attention, MatchesTheDefinition) {
  ThreadPool threads(2);
  for (const AttentionShape& shape : shapes()) {
    for (const std::uint32_t tokens : {1, 15, 16, 17, 65, 150}) {
      for (const KvType type : types) {
        const KvLayout layout = layout_of(shape, type, tokens % 2 == 0 ? 16 : 32);
        std::uint32_t last = 2 * layout.blocks_for(tokens) + 1;
        Pool pool(layout, last);
        Sequence s(shape, tokens, tokens);
        give_blocks(s, layout, last);
        // f16 rounds keys and values to 11 bits, bf16 (queries and weights, too) to 8, int8 to
        // about 7 of the largest of a head, int4 to half a fifteenth of a group's range.
        const double tolerance = type == KvType::f16    ? 4e-3
                                 : type == KvType::bf16 ? 4e-2
                                 : type == KvType::int8 ? 6e-2
                                                        : 0.6;
        expect_near(run(shape, pool, s, 1000, threads), reference(shape, s, true), tolerance);
      }
    }
  }
}

TEST_P(Attention, DoesNotDependOnChunksThreadsOrBlockSize) {
  for (const KvType type : types) {
    for (const AttentionShape& shape : shapes()) {
      const std::uint32_t tokens = 83;
      Sequence s(shape, tokens, 5);
      std::vector<float> first;
      for (const std::uint32_t block_tokens : {16, 32, 128}) {
        const KvLayout layout = layout_of(shape, type, block_tokens);
        for (const int n : {1, 3}) {
          ThreadPool threads(n);
          for (const std::uint32_t chunk : {83, 64, 7, 1}) {
            if (block_tokens != 16 && chunk != 7) continue;
            std::uint32_t last = 2 * layout.blocks_for(tokens) + 1;
            Pool pool(layout, last);
            s.blocks.clear();
            give_blocks(s, layout, last);
            const auto out = run(shape, pool, s, chunk, threads);
            if (first.empty()) first = out;
            ASSERT_EQ(std::memcmp(out.data(), first.data(), out.size() * sizeof(float)), 0)
                << "head_dim " << shape.head_dim << " chunk " << chunk << " threads " << n
                << " block " << block_tokens;
          }
        }
      }
    }
  }
}

// Long contexts, of which threads share out the keys: what `tokens` tokens behind them get, alone
// and in pairs, with so many threads.
void expect_the_same_behind_a_long_context(const AttentionShape& shape, KvType type,
                                           std::uint32_t context, std::uint32_t tokens) {
  const KvLayout layout = layout_of(shape, type, 16);
  const std::size_t row = shape.heads * shape.head_dim;
  ThreadPool one(1);
  std::uint32_t last = 2 * layout.blocks_for(context) + 1;
  Pool pool(layout, last);
  Sequence s(shape, context, context);
  give_blocks(s, layout, last);
  const auto whole = run(shape, pool, s, 100, one);
  const std::uint32_t start = context - tokens;
  auto blocks = s.blocks;
  if (shape.window > 0 && start + 1 > shape.window) {  // what is below the window is given back
    std::fill_n(blocks.begin(), (start + 1 - shape.window) / 16, BlockId(0xFFFFFFFF));
  }
  for (const int n : {1, 2, 3}) {
    ThreadPool threads(n);
    std::vector<float> scratch(n * attention_scratch_floats(shape));
    std::vector<float> out(tokens * row), shorter(row);
    // Beside it, the same sequence when it was shorter.
    const AttentionSequence step[] = {{s.q.data() + start * row, out.data(), tokens, start, blocks},
                                      {s.q.data() + 299 * row, shorter.data(), 1, 299, s.blocks}};
    for (const std::size_t sequences : {1, 2}) {
      std::fill(out.begin(), out.end(), -1.0F);
      attention(shape, layout, pool.data(), layer, std::span(step).first(sequences), row, scratch,
                threads);
      EXPECT_EQ(std::memcmp(out.data(), &whole[start * row], out.size() * sizeof(float)), 0)
          << "threads " << n << " context " << context << " tokens " << tokens;
    }
    EXPECT_EQ(std::memcmp(shorter.data(), &whole[299 * row], row * sizeof(float)), 0);
  }
}

TEST_P(Attention, DoesNotDependOnThreadsBehindALongContext) {
  const AttentionShape wide{.heads = 3, .kv_heads = 1, .head_dim = 16, .scale = 0.2F};
  AttentionShape windowed = wide;
  windowed.window = 600;
  for (const KvType type : types) {
    SCOPED_TRACE(to_string(type));
    for (const std::uint32_t context : {514U, 1030U}) {
      for (const std::uint32_t tokens : {1U, 2U}) {
        expect_the_same_behind_a_long_context(wide, type, context, tokens);
        expect_the_same_behind_a_long_context(windowed, type, context, tokens);
      }
    }
  }
  // More pieces than there is room for at a time.
  const AttentionShape narrow{.heads = 4, .kv_heads = 4, .head_dim = 4, .scale = 0.2F};
  expect_the_same_behind_a_long_context(narrow, KvType::int8, 256 * 12 + 3, 2);
}

// Of a context of several segments, the definition.
TEST_P(Attention, MatchesTheDefinitionBehindALongContext) {
  ThreadPool threads(2);
  AttentionShape shape{.heads = 2, .kv_heads = 1, .head_dim = 16, .scale = 0.3F};
  for (const std::uint32_t window : {0U, 300U}) {
    shape.window = window;
    const KvLayout layout = layout_of(shape, KvType::f16, 16);
    std::uint32_t last = 2 * layout.blocks_for(800) + 1;
    Pool pool(layout, last);
    Sequence s(shape, 800, 6);
    give_blocks(s, layout, last);
    expect_near(run(shape, pool, s, 400, threads), reference(shape, s, true), 4e-3);
    expect_near(run(shape, pool, s, 1, threads), reference(shape, s, true), 4e-3);
  }
}

void expect_the_same_beside_others(KvType type) {
  const AttentionShape shape = shapes()[0];
  const KvLayout layout = layout_of(shape, type, 16);
  ThreadPool threads(2);
  const std::size_t row = shape.heads * shape.head_dim, kv_row = shape.kv_heads * shape.head_dim;
  std::vector<Sequence> sequences;
  std::uint32_t last = 120;
  Pool pool(layout, last);
  for (const std::uint32_t tokens : {70, 1, 33, 200}) {
    Sequence s(shape, tokens, tokens);
    give_blocks(s, layout, last);
    write_kv(layout, pool.data(), layer, s.blocks, 0, tokens, s.k.data(), s.v.data(), kv_row);
    sequences.push_back(std::move(s));
  }
  std::vector<float> scratch(attention_scratch_floats(shape) * 2);
  // All together, each with its last tokens (a decode, a whole prefill, and chunks between).
  const std::uint32_t starts[] = {69, 0, 0, 150};
  std::vector<std::vector<float>> together, alone;
  std::vector<AttentionSequence> step;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::uint32_t n = sequences[i].tokens - starts[i];
    together.emplace_back(n * row);
    alone.emplace_back(n * row);
    step.push_back({sequences[i].q.data() + starts[i] * row, together[i].data(), n, starts[i],
                    sequences[i].blocks});
  }
  attention(shape, layout, pool.data(), layer, step, row, scratch, threads);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    step[i].out = alone[i].data();
    attention(shape, layout, pool.data(), layer, {&step[i], 1}, row, scratch, threads);
    EXPECT_EQ(alone[i], together[i]) << "sequence " << i;
  }
  attention(shape, layout, pool.data(), layer, {}, row, scratch, threads);  // no work is fine
}

TEST_P(Attention, DoesNotDependOnTheOtherSequences) {
  for (const KvType type : types) {
    SCOPED_TRACE(to_string(type));
    expect_the_same_beside_others(type);
  }
}

// Computes the last tokens of a sequence, from `start` on, with a table whose blocks below the
// window of token `start` have been given back.
void expect_blocks_below_the_window_untouched(AttentionShape shape, KvType type,
                                              std::uint32_t block_tokens, std::uint32_t start) {
  constexpr std::uint32_t tokens = 300;
  shape.window = 20;
  const KvLayout layout = layout_of(shape, type, block_tokens);
  ThreadPool threads(2);
  std::uint32_t last = 2 * layout.blocks_for(tokens) + 1;
  Pool pool(layout, last);
  Sequence s(shape, tokens, 3);
  give_blocks(s, layout, last);
  const auto whole = run(shape, pool, s, 1000, threads);
  const std::uint32_t first_key = start + 1 - shape.window;
  std::fill_n(s.blocks.begin(), first_key / block_tokens, BlockId(0xFFFFFFFF));
  const std::size_t row = shape.heads * shape.head_dim;
  const std::uint32_t n = tokens - start;
  std::vector<float> out(n * row), scratch(2 * attention_scratch_floats(shape));
  const AttentionSequence sequence{s.q.data() + start * row, out.data(), n, start, s.blocks};
  attention(shape, layout, pool.data(), layer, {&sequence, 1}, row, scratch, threads);
  EXPECT_EQ(std::memcmp(out.data(), whole.data() + start * row, out.size() * sizeof(float)), 0)
      << "block " << block_tokens << " start " << start;
}

TEST_P(Attention, BlocksBelowTheWindowAreNotTouched) {
  for (const KvType type : types) {
    SCOPED_TRACE(to_string(type));
    for (const std::uint32_t block_tokens : {16, 32, 128}) {
      // One token; a chunk of many rows; windows that begin on a tile, on a block and beside them.
      for (const std::uint32_t start : {299, 211, 160, 83}) {
        expect_blocks_below_the_window_untouched(shapes()[0], type, block_tokens, start);
      }
    }
    expect_blocks_below_the_window_untouched(shapes()[1], type, 16, 200);
  }
}

TEST(AttentionBf16, IsTheSameWithAndWithoutTheInstruction) {
  if (supported_isas().back() != Isa::avx512bf16) GTEST_SKIP() << "no VDPBF16PS";
  ThreadPool threads(1);
  for (const AttentionShape& shape : shapes()) {
    const KvLayout layout = layout_of(shape, KvType::bf16, 16);
    std::vector<std::vector<float>> outs;
    for (const Isa isa : {Isa::avx512vnni, Isa::avx512bf16}) {
      force_isa(isa);
      std::uint32_t last = 2 * layout.blocks_for(150) + 1;
      Pool pool(layout, last);
      Sequence s(shape, 150, 4);
      give_blocks(s, layout, last);
      outs.push_back(run(shape, pool, s, 37, threads));
    }
    EXPECT_EQ(outs[0], outs[1]) << "head_dim " << shape.head_dim;
  }
}

TEST_P(Attention, ExtremesStayFinite) {
  const AttentionShape shape{.heads = 2, .kv_heads = 1, .head_dim = 32, .scale = 1.0F};
  ThreadPool threads(1);
  for (const KvType type : types) {
    for (const float deviation : {0.0F, 1e-40F, 1e-7F, 1e5F, 1e12F}) {  // 1e5 is beyond f16
      const KvLayout layout = layout_of(shape, type, 16);
      std::uint32_t last = 2 * layout.blocks_for(40) + 1;
      Pool pool(layout, last);
      Sequence s(shape, 40, 11, deviation);
      give_blocks(s, layout, last);
      for (const float v : run(shape, pool, s, 9, threads)) ASSERT_TRUE(std::isfinite(v));
    }
  }
}

// A scale is an f16, of which the least is 2^-24: rows above and below it, and of all sizes
// between.
TEST_P(Attention, Int8RowsAreWithinHalfAStep) {
  const AttentionShape shape{.heads = 1, .kv_heads = 1, .head_dim = 48, .scale = 1.0F};
  const KvLayout layout = layout_of(shape, KvType::int8, 16);
  ThreadPool threads(1);
  for (const float deviation : {1e-9F, 1e-7F, 1e-5F, 0.37F, 1e4F, 2e6F}) {
    std::uint32_t last = 2 * layout.blocks_for(1) + 1;
    Pool pool(layout, last);
    Sequence s(shape, 1, 11, deviation);
    give_blocks(s, layout, last);
    float most = 0;
    for (const float v : s.v) most = std::max(most, std::abs(v));
    const float step = most / 127 * (1 + 0x1p-10F) + 0x1p-24F;
    const auto out = run(shape, pool, s, 1, threads);  // of one token, its value
    for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], s.v[i], 0.501F * step) << most;
  }
}

TEST_P(Attention, BidirectionalMatchesTheDefinition) {
  ThreadPool threads(2);
  for (AttentionShape shape : shapes()) {
    shape.window = 0;
    shape.kv_heads = shape.heads;
    for (const std::uint32_t tokens : {1, 5, 64, 67}) {
      const Sequence s(shape, tokens, tokens);
      // q, k and v side by side in one row, as one product makes them.
      const std::size_t row = shape.heads * shape.head_dim;
      std::vector<float> qkv(tokens * 3 * row), out(s.q.size());
      std::vector<float> scratch(2 * attention_scratch_floats(shape));
      for (std::uint32_t t = 0; t < tokens; ++t) {
        std::copy_n(&s.q[t * row], row, &qkv[t * 3 * row]);
        std::copy_n(&s.k[t * row], row, &qkv[t * 3 * row + row]);
        std::copy_n(&s.v[t * row], row, &qkv[t * 3 * row + 2 * row]);
      }
      attention_bidirectional(shape, qkv.data(), qkv.data() + row, qkv.data() + 2 * row, out.data(),
                              tokens, 3 * row, row, scratch, threads);
      expect_near(out, reference(shape, s, false), 1e-5);
    }
  }
}

}  // namespace
}  // namespace plimsoll
