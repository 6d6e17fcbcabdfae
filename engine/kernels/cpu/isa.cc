#include "engine/kernels/cpu/isa.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

#include "engine/kernels/cpu/dispatch.h"
#include "hwy/highway.h"

namespace plimsoll {
namespace {

constexpr Isa all[] = {Isa::portable, Isa::avx2, Isa::avx512vnni, Isa::avx512bf16};

std::int64_t targets_of(Isa isa) {
  switch (isa) {
    case Isa::portable: return HWY_SCALAR;
    case Isa::avx2: return HWY_AVX2 | HWY_SCALAR;
    case Isa::avx512vnni:
    case Isa::avx512bf16: return HWY_AVX3 | HWY_AVX2 | HWY_SCALAR;
  }
  return HWY_SCALAR;
}

std::vector<Isa> detect() {
  std::vector<Isa> found{Isa::portable};
#if HWY_ARCH_X86
  const std::int64_t targets = hwy::SupportedTargets();
  if ((targets & HWY_AVX2) != 0) found.push_back(Isa::avx2);
  if ((targets & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512vnni")) {
    found.push_back(Isa::avx512vnni);
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(Isa::avx512bf16);
  }
#endif
  return found;
}

const std::vector<Isa>& detected() {
  static const std::vector<Isa> isas = detect();  // before any target is masked below
  return isas;
}

std::optional<Isa> parse(std::string_view name) {
  for (const Isa isa : all) {
    if (to_string(isa) == name) return isa;
  }
  return std::nullopt;
}

void apply(Isa isa) {
  hwy::SetSupportedTargetsForTest(targets_of(isa));
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

Isa choose() {
  Isa best = detected().back();
  if (const char* name = std::getenv("PLIMSOLL_ISA"); name != nullptr && *name != '\0') {
    const std::optional<Isa> wanted = parse(name);
    if (!wanted) {
      throw std::runtime_error("PLIMSOLL_ISA is '" + std::string(name) +
                               "'; it must be portable, avx2, avx512vnni or avx512bf16");
    }
    if (*wanted <= best) {
      best = *wanted;
    } else {
      std::fprintf(stderr, "plimsoll: PLIMSOLL_ISA=%s is more than this processor has; using %s\n",
                   name, std::string(to_string(best)).c_str());
    }
  }
  apply(best);
  return best;
}

Isa& current() {
  static Isa isa = choose();
  return isa;
}

}  // namespace

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::portable: return "portable";
    case Isa::avx2: return "avx2";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::avx512bf16: return "avx512bf16";
  }
  return "portable";
}

Isa active_isa() { return current(); }

std::vector<Isa> supported_isas() { return detected(); }

void force_isa(Isa isa) {
  current() = isa;
  apply(isa);
}

}  // namespace plimsoll
