// Tokens a second of one language model: prefill, and decode of 1 and of 16 streams.
//
//   model_bench [--threads=2] [--float32] [Google Benchmark's options]
//
// The model is PLIMSOLL_BENCH_MODEL, or SmolLM2 in PLIMSOLL_MODELS.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/models/model.h"

namespace plimsoll {
namespace {

constexpr std::uint32_t prompt_tokens = 512;
constexpr std::uint32_t context_before_decode = 128;

struct Subject {
  Subject(int threads, ComputeMode compute, const std::filesystem::path& path) : pool(threads) {
    auto loaded = load_causal_model(
        path, {.model_version = "bench",
               .compute = compute,
               .cache_directory = std::filesystem::temp_directory_path(),
               .limits = {.tokens = prompt_tokens, .sequences = 64, .logit_rows = 64},
               .ledger = &ledger,
               .pool = &pool,
               .progress = {}});
    if (!loaded) throw std::runtime_error(to_string(loaded.error()));
    model = std::move(*loaded);
    const KvLayout layout = model->kv_layout(16, KvType::f16);
    auto made = BlockPool::make(layout, layout.blocks_for(64 * 1024) * layout.block_bytes(),
                                ledger.account(Component::kv, "bench", shared_tenant));
    if (!made) throw std::runtime_error(to_string(made.error()));
    kv = std::move(*made);
    logits.resize(64 * std::size_t{model->info().vocab});
  }

  std::vector<BlockId> blocks_for(std::uint32_t tokens) {
    std::vector<BlockId> blocks;
    for (std::uint32_t i = 0; i < kv->layout().blocks_for(tokens); ++i) {
      blocks.push_back(kv->allocate().value());
    }
    return blocks;
  }
  void release(const std::vector<BlockId>& blocks) {
    for (const BlockId id : blocks) kv->release(id);
  }

  Ledger ledger;
  ThreadPool pool;
  std::unique_ptr<CausalModel> model;
  std::optional<BlockPool> kv;
  std::vector<float> logits;
};

std::vector<TokenId> text(std::uint32_t tokens, const Subject& subject) {
  std::vector<TokenId> ids;
  for (std::uint32_t i = 0; i < tokens; ++i) {
    ids.push_back(static_cast<TokenId>((i * 7919 + 13) % subject.model->info().vocab));
  }
  return ids;
}

void prefill(benchmark::State& state, Subject& subject) {
  const auto ids = text(prompt_tokens, subject);
  const auto blocks = subject.blocks_for(prompt_tokens);
  const SequenceChunk chunk{.tokens = ids, .start_position = 0, .blocks = blocks, .logit_rows = 1};
  for (auto _ : state) subject.model->forward({&chunk, 1}, *subject.kv, subject.logits.data());
  state.counters["tokens_per_second"] =
      benchmark::Counter(prompt_tokens, benchmark::Counter::kIsIterationInvariantRate);
  subject.release(blocks);
}

void decode(benchmark::State& state, Subject& subject) {
  const auto streams = static_cast<std::size_t>(state.range(0));
  constexpr std::uint32_t most_tokens = 1024;
  const auto ids = text(context_before_decode, subject);
  std::vector<std::vector<BlockId>> blocks(streams);
  for (auto& b : blocks) {
    b = subject.blocks_for(most_tokens);
    const SequenceChunk chunk{.tokens = ids, .start_position = 0, .blocks = b, .logit_rows = 0};
    subject.model->forward({&chunk, 1}, *subject.kv, nullptr);
  }
  std::vector<SequenceChunk> chunks(streams);
  std::uint32_t position = context_before_decode;
  for (auto _ : state) {
    for (std::size_t i = 0; i < streams; ++i) {
      chunks[i] = {.tokens = std::span(ids).subspan(i, 1),
                   .start_position = position,
                   .blocks = blocks[i],
                   .logit_rows = 1};
    }
    subject.model->forward(chunks, *subject.kv, subject.logits.data());
    if (++position == most_tokens) position = context_before_decode;
  }
  state.counters["tokens_per_second"] = benchmark::Counter(
      static_cast<double>(streams), benchmark::Counter::kIsIterationInvariantRate);
  for (const auto& b : blocks) subject.release(b);
}

std::filesystem::path model_path() {
  if (const char* path = std::getenv("PLIMSOLL_BENCH_MODEL")) return path;
  const char* models = std::getenv("PLIMSOLL_MODELS");
  const char* home = std::getenv("HOME");
  return (models != nullptr
              ? std::filesystem::path(models)
              : std::filesystem::path(home != nullptr ? home : ".") / ".cache/plimsoll/models") /
         "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
}

int run(int argc, char** argv) {
  int threads = 2;
  ComputeMode compute = ComputeMode::automatic;
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--threads=")) {
      threads = std::max(1, std::atoi(argument.c_str() + std::strlen("--threads=")));
    } else if (argument == "--float32") {
      compute = ComputeMode::float32;
    } else {
      rest.push_back(argv[i]);
    }
  }
  int left = static_cast<int>(rest.size());
  benchmark::Initialize(&left, rest.data());
  if (benchmark::ReportUnrecognizedArguments(left, rest.data())) return 2;
  const auto path = model_path();
  if (!std::filesystem::exists(path)) {
    std::cerr << path << " is absent: set PLIMSOLL_BENCH_MODEL; nothing measured\n";
    return 0;
  }
  Subject subject(threads, compute, path);
  const auto add = [](const char* name, auto function) {
    return benchmark::RegisterBenchmark(name, function)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  };
  add("prefill_512", [&](benchmark::State& s) { prefill(s, subject); });
  add("decode", [&](benchmark::State& s) { decode(s, subject); })->Arg(1)->Arg(16);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  try {
    return plimsoll::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
