// What each tokenizer costs: to load, to hold, and a second of encoding and decoding.
//
//   tokenizer_bench [Google Benchmark's options]
//
// The text is PLIMSOLL_BENCH_TEXT, or the repository's own English; the models are those in
// PLIMSOLL_MODELS.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include "bench/models_folder.h"
#include "engine/tokenizer/tokenizer.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string english() {
  if (const char* set = std::getenv("PLIMSOLL_BENCH_TEXT")) return read(set);
  std::string all;
  for (const auto& entry : fs::directory_iterator(PLIMSOLL_DOCS)) all += read(entry.path());
  return all;
}

std::unique_ptr<Tokenizer> load(const fs::path& file) {
  if (file.extension() == ".json") return std::move(make_tokenizer(file).value());
  return std::move(make_tokenizer(GgufFile::open(file).value()).value());
}

void load_file(benchmark::State& state, const fs::path& file) {
  std::unique_ptr<Tokenizer> tokenizer;
  for (auto _ : state) tokenizer = load(file);
  state.counters["memory_bytes"] =
      benchmark::Counter(static_cast<double>(tokenizer->memory_bytes()));
}

// Of a mapped file, the tokenizer's share alone.
void make(benchmark::State& state, const fs::path& file) {
  const GgufFile gguf = GgufFile::open(file).value();
  for (auto _ : state) benchmark::DoNotOptimize(make_tokenizer(gguf).value());
}

void encode(benchmark::State& state, const fs::path& file, const std::string& text) {
  const auto tokenizer = load(file);
  std::size_t tokens = 0;
  for (auto _ : state) tokens = tokenizer->encode(text, {}).value().size();
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] =
      static_cast<double>(text.size()) / static_cast<double>(tokens);
}

void decode(benchmark::State& state, const fs::path& file, const std::string& text) {
  const auto tokenizer = load(file);
  const auto ids = tokenizer->encode(text, {}).value();
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids, true));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  static const std::string text = english();
  for (const auto& [name, path] :
       {std::pair{"smollm2", "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"},
        {"gemma3", "gemma-3-270m/gemma-3-270m-q4_k_m.gguf"},
        {"minilm", "all-minilm-l6-v2/tokenizer.json"}}) {
    const fs::path file = models_folder() / path;
    if (!fs::exists(file)) {
      std::cerr << file << " is not there; run `plimsoll pull --all`\n";
      continue;
    }
    const auto add = [&](const char* what, auto run) {
      benchmark::RegisterBenchmark((std::string(what) + "/" + name).c_str(), run)
          ->Unit(benchmark::kMillisecond);
    };
    add("load", [file](benchmark::State& s) { load_file(s, file); });
    if (file.extension() == ".gguf") add("make", [file](benchmark::State& s) { make(s, file); });
    add("encode", [file](benchmark::State& s) { encode(s, file, text); });
    add("decode", [file](benchmark::State& s) { decode(s, file, text); });
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
