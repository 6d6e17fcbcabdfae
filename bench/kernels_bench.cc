// The CPU kernels at the shapes of small models, beside what the machine can do at most:
//   kernels_bench --benchmark_filter='limit|matmul'
// GMAC/s counts multiply-adds, bytes_per_second the weights (or keys and values) that are read.
// Thread count: PLIMSOLL_BENCH_THREADS, default all processors. Instruction set: PLIMSOLL_ISA.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "bench/ceilings.h"
#include "engine/kernels/cpu/attention.h"
#include "engine/kernels/cpu/isa.h"
#include "engine/kernels/cpu/matmul.h"
#include "engine/kernels/cpu/ops.h"
#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

ThreadPool& pool() {
  static ThreadPool threads([] {
    const char* const wanted = std::getenv("PLIMSOLL_BENCH_THREADS");
    return wanted != nullptr ? std::atoi(wanted)
                             : static_cast<int>(std::thread::hardware_concurrency());
  }());
  return threads;
}

std::vector<float> random_floats(std::size_t n) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> values(n);
  for (float& v : values) v = normal(generator);
  return values;
}

void set_rates(benchmark::State& state, double macs, double bytes) {
  if (macs > 0) {
    state.counters["GMAC/s"] =
        benchmark::Counter(macs * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  }
  if (bytes > 0) {
    state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
  }
}

// --- what the machine can do at most ---

void limit_read(benchmark::State& state) {
  std::vector<float> data(64 << 20, 1.0F);
  std::vector<float> sums(pool().threads() * 16);
  for (auto _ : state) {
    pool().parallel_for(data.size(), 16, [&](std::size_t begin, std::size_t end, int rank) {
      sums[rank * 16] = dot(data.data() + begin, data.data() + begin, end - begin);
    });
    benchmark::DoNotOptimize(sums.data());
  }
  set_rates(state, 0, static_cast<double>(data.size()) * sizeof(float));
}
BENCHMARK(limit_read)->UseRealTime();

void limit_int8_vnni(benchmark::State& state) {
  if (supported_isas().back() < Isa::avx512vnni) {
    state.SkipWithError("no AVX-512 VNNI here");
    return;
  }
  double macs = 0;
  for (auto _ : state) macs = run_int8_dots(pool(), Isa::avx512vnni);
  set_rates(state, macs, 0);
}
BENCHMARK(limit_int8_vnni)->UseRealTime();

// --- matmul ---

// rows, cols, tokens
void shapes(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->ArgNames({"rows", "cols", "tokens"});
  for (const auto& [rows, cols] :
       {std::pair{576, 576}, {1536, 576}, {576, 1536}, {2048, 640}, {4096, 4096}, {49152, 576}}) {
    for (const int tokens : {1, 4, 16, 64, 512}) {
      if (rows > 10000 && tokens > 64) continue;
      b->Args({rows, cols, tokens});
    }
  }
}

// Copies of one matrix, more than the caches hold: a step reads every weight once.
struct Matrices {
  std::vector<std::byte> source, packed;
  std::vector<WeightMatrix> all;

  Matrices(TensorType type, std::size_t rows, std::size_t cols, bool pack, PackedForm floats) {
    const TensorTypeInfo t = info(type);
    TensorView view;
    view.type = type;
    view.shape = {rows, cols};
    view.rank = 2;
    view.bytes = rows * cols / t.block_elements * t.block_bytes;
    PackedMatrix matrix;
    if (pack) matrix.form = packed_form(view, floats);
    matrix.rows = static_cast<std::uint32_t>(rows);
    matrix.cols = static_cast<std::uint32_t>(cols);
    const std::size_t bytes = pack ? matrix.bytes() : view.bytes;
    const std::size_t copies = 1 + (std::size_t{1} << 30) / bytes;
    std::mt19937 generator(1);
    source.resize(view.bytes);
    for (std::byte& b : source) b = static_cast<std::byte>(generator());
    const std::uint16_t scale = float_to_half(0.01F);
    for (std::size_t at = 0; at < view.bytes; at += t.block_bytes) {
      std::memcpy(&source[at], &scale, 2);
      std::memcpy(&source[at + 2], &scale, 2);
    }
    view.data = source.data();
    packed.resize(copies * bytes + 64);
    std::byte* const first =
        packed.data() + (64 - reinterpret_cast<std::uintptr_t>(packed.data()) % 64) % 64;
    if (pack) {
      pack_matrix(view, matrix.form, first);
    } else {
      std::memcpy(first, source.data(), bytes);
    }
    for (std::size_t i = 0; i < copies; ++i) {
      std::byte* const copy = first + i * bytes;
      if (i > 0) std::memcpy(copy, first, bytes);
      WeightMatrix w{view, {}};
      if (pack) {
        w.packed = matrix;
        w.packed.data = copy;
      } else {
        w.source.data = copy;
      }
      all.push_back(w);
    }
  }
};

// The matrices of the last shape: a gigabyte is not made anew for every number of tokens.
const Matrices& matrices(TensorType type, std::size_t rows, std::size_t cols, bool pack,
                         PackedForm floats) {
  static std::tuple<TensorType, std::size_t, std::size_t, bool, PackedForm> key;
  static std::unique_ptr<Matrices> made;
  if (const auto wanted = std::tuple(type, rows, cols, pack, floats); !made || key != wanted) {
    made.reset();
    made = std::make_unique<Matrices>(type, rows, cols, pack, floats);
    key = wanted;
  }
  return *made;
}

void matmul_bench(benchmark::State& state, TensorType type, bool pack,
                  PackedForm floats = PackedForm::u8) {
  const std::size_t rows = state.range(0), cols = state.range(1), tokens = state.range(2);
  const auto& all = matrices(type, rows, cols, pack, floats).all;
  const auto x = random_floats(tokens * cols);
  std::vector<float> y(tokens * rows);
  std::vector<std::byte> buffer(QuantizedActivations::bytes(tokens, cols) + 64);
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.data());
  const auto q = QuantizedActivations::in(buffer.data() + (64 - address % 64) % 64, tokens, cols);
  quantize_activations(x.data(), cols, tokens, cols, q, pool());
  std::size_t i = 0;
  for (auto _ : state) {
    const Product product{&all[i++ % all.size()], y.data(), rows};
    matmul({&product, 1}, x.data(), cols, q, tokens, pool());
    benchmark::DoNotOptimize(y.data());
  }
  set_rates(state, static_cast<double>(rows) * cols * tokens,
            pack ? all[0].packed.bytes() : all[0].source.bytes);
}
void matmul_u4(benchmark::State& state) { matmul_bench(state, TensorType::q4_1, true); }
void matmul_c5(benchmark::State& state) { matmul_bench(state, TensorType::q5_0, true); }
void matmul_c8(benchmark::State& state) { matmul_bench(state, TensorType::q8_0, true); }
void matmul_bf16(benchmark::State& state) {
  matmul_bench(state, TensorType::f32, true, PackedForm::bf16);
}
void matmul_f32(benchmark::State& state) { matmul_bench(state, TensorType::f32, false); }
void matmul_q4_1_expanded(benchmark::State& state) { matmul_bench(state, TensorType::q4_1, false); }
BENCHMARK(matmul_u4)->Apply(shapes);
BENCHMARK(matmul_c5)->Apply(shapes);
BENCHMARK(matmul_c8)->Apply(shapes);
BENCHMARK(matmul_bf16)->Apply(shapes);
BENCHMARK(matmul_f32)
    ->UseRealTime()
    ->ArgNames({"rows", "cols", "tokens"})
    ->ArgsProduct({{1536}, {384}, {1, 16, 512}});
BENCHMARK(matmul_q4_1_expanded)
    ->UseRealTime()
    ->ArgNames({"rows", "cols", "tokens"})
    ->ArgsProduct({{1536}, {576}, {1, 16, 512}});

void quantize(benchmark::State& state) {
  const std::size_t tokens = state.range(0), cols = 1536;
  const auto x = random_floats(tokens * cols);
  std::vector<std::byte> buffer(QuantizedActivations::bytes(tokens, cols));
  const auto q = QuantizedActivations::in(buffer.data(), tokens, cols);
  for (auto _ : state) quantize_activations(x.data(), cols, tokens, cols, q, pool());
  set_rates(state, 0, static_cast<double>(tokens) * cols * sizeof(float));
}
BENCHMARK(quantize)->UseRealTime()->ArgName("tokens")->Arg(1)->Arg(512);

// --- attention ---

// `sequences` of the same context; each computes its last `tokens`.
void attention_bench(benchmark::State& state, KvType type, std::uint32_t heads,
                     std::uint32_t kv_heads, std::uint32_t head_dim) {
  const auto sequences = static_cast<std::uint32_t>(state.range(0));
  const auto tokens = static_cast<std::uint32_t>(state.range(1));
  const auto context = static_cast<std::uint32_t>(state.range(2));
  const AttentionShape shape{
      .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .scale = 0.1F};
  const KvLayout layout{
      .layers = 1, .kv_heads = kv_heads, .head_dim = head_dim, .block_tokens = 16, .type = type};
  const std::uint32_t blocks = layout.blocks_for(context);
  std::vector<std::byte> data(layout.block_bytes() * blocks * sequences);
  const std::size_t row = std::size_t{heads} * head_dim, kv_row = std::size_t{kv_heads} * head_dim;
  const auto kv = random_floats(context * kv_row);
  const auto q = random_floats(sequences * tokens * row);
  std::vector<float> out(q.size());
  std::vector<std::vector<BlockId>> tables(sequences);
  std::vector<AttentionSequence> step;
  for (std::uint32_t s = 0; s < sequences; ++s) {
    for (std::uint32_t b = 0; b < blocks; ++b) tables[s].push_back(BlockId(s * blocks + b));
    write_kv(layout, data.data(), 0, tables[s], 0, context, kv.data(), kv.data(), kv_row);
    step.push_back({q.data() + s * tokens * row, out.data() + s * tokens * row, tokens,
                    context - tokens, tables[s]});
  }
  std::vector<float> scratch(attention_scratch_floats(shape) * pool().threads());
  for (auto _ : state) {
    attention(shape, layout, data.data(), 0, step, row, scratch, pool());
    benchmark::DoNotOptimize(out.data());
  }
  const double pairs =
      sequences * (static_cast<double>(tokens) * (context - tokens) + tokens * (tokens + 1) / 2.0);
  set_rates(state, 2 * pairs * row,
            static_cast<double>(sequences) * context * static_cast<double>(layout.layer_bytes()) /
                layout.block_tokens);
}
void attention_shapes(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->ArgNames({"sequences", "tokens", "context"});
  b->Args({1, 1, 512})->Args({1, 1, 8192})->Args({16, 1, 2048});       // decode
  b->Args({1, 512, 512})->Args({1, 512, 2048})->Args({1, 512, 8192});  // prefill
}
BENCHMARK_CAPTURE(attention_bench, bf16_9x64, KvType::bf16, 9, 3, 64)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention_bench, f16_9x64, KvType::f16, 9, 3, 64)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention_bench, int8_9x64, KvType::int8, 9, 3, 64)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention_bench, int4_9x64, KvType::int4, 9, 3, 64)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention_bench, bf16_4x256, KvType::bf16, 4, 1, 256)->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention_bench, f16_4x256, KvType::f16, 4, 1, 256)->Apply(attention_shapes);

void write_kv_bench(benchmark::State& state, KvType type) {
  const auto tokens = static_cast<std::uint32_t>(state.range(0));
  const KvLayout layout{.layers = 1, .kv_heads = 3, .head_dim = 64, .type = type};
  std::vector<std::byte> data(layout.block_bytes() * layout.blocks_for(tokens));
  std::vector<BlockId> table;
  for (std::uint32_t b = 0; b < layout.blocks_for(tokens); ++b) table.emplace_back(b);
  const auto kv = random_floats(std::size_t{tokens} * 192);
  for (auto _ : state) {
    write_kv(layout, data.data(), 0, table, 0, tokens, kv.data(), kv.data(), 192);
  }
  set_rates(state, 0, 2.0 * tokens * 192 * sizeof(float));
}
BENCHMARK_CAPTURE(write_kv_bench, bf16, KvType::bf16)
    ->UseRealTime()
    ->ArgName("tokens")
    ->Arg(1)
    ->Arg(512);
BENCHMARK_CAPTURE(write_kv_bench, f16, KvType::f16)
    ->UseRealTime()
    ->ArgName("tokens")
    ->Arg(1)
    ->Arg(512);

void attention_bert(benchmark::State& state) {
  const auto tokens = static_cast<std::uint32_t>(state.range(0));
  const AttentionShape shape{.heads = 12, .kv_heads = 12, .head_dim = 32, .scale = 0.2F};
  const auto qkv = random_floats(std::size_t{tokens} * 3 * 384);
  std::vector<float> out(std::size_t{tokens} * 384),
      scratch(pool().threads() * attention_scratch_floats(shape));
  for (auto _ : state) {
    attention_bidirectional(shape, qkv.data(), qkv.data() + 384, qkv.data() + 768, out.data(),
                            tokens, 3 * 384, 384, scratch, pool());
  }
  set_rates(state, 2.0 * tokens * tokens * 384, 0);
}
BENCHMARK(attention_bert)->UseRealTime()->ArgName("tokens")->Arg(32)->Arg(512);

// --- the rest of a step ---

void rows_of_a_step(benchmark::State& state) {
  const std::size_t n = state.range(0);
  const auto x = random_floats(n), w = random_floats(n);
  std::vector<float> out(n);
  for (auto _ : state) {
    rms_norm(x.data(), w.data(), 1e-5F, n, out.data());
    silu_mul(x.data(), w.data(), n, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  set_rates(state, 0, 2.0 * static_cast<double>(n) * sizeof(float));
}
BENCHMARK(rows_of_a_step)->UseRealTime()->ArgName("n")->Arg(576)->Arg(1536);

void pool_round_trip(benchmark::State& state) {
  for (auto _ : state) pool().run([](int) {});
}
BENCHMARK(pool_round_trip)->UseRealTime();

}  // namespace
}  // namespace plimsoll
