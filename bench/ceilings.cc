#include "bench/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace plimsoll {
namespace {

// Reads n bytes, a multiple of 4096, and returns something that depends on them. Without the
// prefetching a core alone does not get all that the memory gives.
std::uint64_t read_all(const std::uint64_t* data, std::size_t bytes) {
  std::uint64_t sum[8] = {};
  for (const std::uint64_t* const end = data + bytes / 8; data < end; data += 8) {
    __builtin_prefetch(data + 512);
    for (std::size_t i = 0; i < 8; ++i) sum[i] ^= data[i];
  }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

// The most that `rounds` runs of work() gave, as `amount` a second.
template <class F>
double best_rate(int rounds, double amount, F work) {
  double best = 0;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    best = std::max(best, amount / time.count());
  }
  return best;
}

#if defined(__x86_64__)
// Sums enough to hide each product's latency.
constexpr int chains = 12;
constexpr int steps = 200000;

__attribute__((target("avx512f,avx512vnni"))) void dots_avx512() {
  __m512i sum[chains];
  __m512i u = _mm512_set1_epi8(3), q = _mm512_set1_epi8(5);
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (int i = 0; i < steps; ++i) {
    for (__m512i& s : sum) s = _mm512_dpbusd_epi32(s, u, q);
    asm volatile("" : "+v"(u), "+v"(q));
  }
  for (__m512i& s : sum) asm volatile("" : "+v"(s));
}

__attribute__((target("avx2"))) void dots_avx2() {
  __m256i sum[chains];
  __m256i u = _mm256_set1_epi8(3), q = _mm256_set1_epi8(5);
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (int i = 0; i < steps; ++i) {
    for (__m256i& s : sum) {
      s = _mm256_add_epi16(s, _mm256_maddubs_epi16(u, q));
      asm volatile("" : "+x"(u), "+x"(q));
    }
  }
  for (__m256i& s : sum) asm volatile("" : "+x"(s));
}
#endif

double int8_macs(ThreadPool& pool) {
  const Isa isa = active_isa();
  const double macs = run_int8_dots(pool, isa);
  if (macs == 0) return 1e9;  // the portable twin is no product
  return best_rate(20, macs, [&] { run_int8_dots(pool, isa); });
}

}  // namespace

double run_int8_dots(ThreadPool& pool, Isa isa) {
#if defined(__x86_64__)
  if (isa != Isa::portable) {
    pool.run([&](int) { isa >= Isa::avx512vnni ? dots_avx512() : dots_avx2(); });
    return (isa >= Isa::avx512vnni ? 64.0 : 32.0) * chains * steps * pool.threads();
  }
#endif
  (void)pool, (void)isa;
  return 0;
}

Ceilings measure_ceilings(int threads) {
  ThreadPool pool(threads);
  constexpr std::size_t page = 4096, pages = 64 * 1024;
  const std::vector<std::uint64_t> data(pages * page / 8 + 512, 1);
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads) * 8);
  Ceilings ceilings;
  ceilings.read_bytes = best_rate(8, static_cast<double>(pages * page), [&] {
    pool.parallel_for(pages, 1, [&](std::size_t begin, std::size_t end, int rank) {
      sums[static_cast<std::size_t>(rank) * 8] =
          read_all(data.data() + begin * page / 8, (end - begin) * page);
    });
  });
  ceilings.int8_macs = int8_macs(pool);
  return ceilings;
}

}  // namespace plimsoll
