// What the engine does with each model, beside what the machine at hand could do at most:
//
//   engine_bench [--threads=1,2] [--seconds=1] [--float32|--int8] [--kv=bf16,f16,int8,int4]
//                [--context=2000]
//
// Prefill of 512 tokens, decode of 1 and of 16 streams from 128 tokens on, embeddings of 16 tokens,
// for the models found in PLIMSOLL_MODELS, or for PLIMSOLL_BENCH_MODEL alone. A figure is the
// median of its steps. The limit of a step is the longer of two times: its weights, as the model
// file holds them, at the measured read bandwidth; its multiply-adds with weights at the measured
// rate of int8 dots. With --context prefill and decode both start behind so many tokens.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench/ceilings.h"
#include "bench/models_folder.h"
#include "engine/formats/gguf.h"
#include "engine/kernels/cpu/isa.h"
#include "engine/models/model.h"

namespace plimsoll {
namespace {

constexpr std::uint32_t prompt_tokens = 512;
constexpr std::uint32_t decoded_tokens = 128;  // of a stream, then it starts again
constexpr std::size_t most_streams = 16;
constexpr std::uint32_t sentence_tokens = 16;

struct Options {
  std::vector<int> threads;
  double seconds = 1;
  ComputeMode compute = ComputeMode::automatic;
  std::vector<KvType> kv_types = {KvType::bf16};
  std::uint32_t step = 256;          // tokens of a prompt that are computed together
  std::uint32_t before_prefill = 0;  // tokens of context
  std::uint32_t before_decode = 128;
};

// What every token, or every step, reads and multiplies with.
struct Work {
  double layer_weights = 0, output_weights = 0;  // multiply-adds of a token
  double bytes = 0;                              // of both, in the file
};

Work work_of(const std::filesystem::path& path) {
  const auto file = GgufFile::open(path);
  if (!file) throw std::runtime_error(to_string(file.error()));
  const auto is = [](const TensorView& t, std::string_view name) { return t.name == name; };
  const bool own_output = std::ranges::any_of(
      file->tensors(), [&](const TensorView& t) { return is(t, "output.weight"); });
  Work work;
  for (const TensorView& t : file->tensors()) {
    if (t.rank != 2) continue;
    const bool embedding = is(t, "token_embd.weight");
    if (embedding && own_output) continue;
    const bool output = embedding || is(t, "output.weight");
    (output ? work.output_weights : work.layer_weights) += static_cast<double>(t.elements());
    work.bytes += static_cast<double>(t.bytes);
  }
  return work;
}

// The median seconds of step(), after one for warming up.
double median_seconds(double for_seconds, const std::function<void()>& step) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  step();
  std::vector<double> times;
  for (const auto begin = Clock::now(); times.size() < 3 || seconds_since(begin) < for_seconds;) {
    const auto one = Clock::now();
    step();
    times.push_back(seconds_since(one));
  }
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  return times[times.size() / 2];
}

void print_row(const std::string& model, const std::string& what, int threads, double rate,
               double limit) {
  std::printf("%-24s %-20s %7d %10.1f", model.c_str(), what.c_str(), threads, rate);
  if (limit > 0) std::printf(" %10.0f %6.0f %%", limit, 100 * rate / limit);
  std::printf("\n");
  std::fflush(stdout);
}

LoadOptions load_options(const Options& options, Ledger& ledger, ThreadPool& pool) {
  return {.model_version = "bench",
          .compute = options.compute,
          .cache_directory = std::filesystem::temp_directory_path(),
          .limits = {.tokens = prompt_tokens,
                     .sequences = 32,
                     .logit_rows = most_streams,
                     .context_tokens = std::max(options.before_prefill + prompt_tokens,
                                                options.before_decode + decoded_tokens)},
          .ledger = &ledger,
          .pool = &pool,
          .progress = {}};
}

std::vector<TokenId> text(std::uint32_t tokens, std::uint32_t vocab) {
  std::vector<TokenId> ids;
  for (std::uint32_t i = 0; i < tokens; ++i) {
    ids.push_back(static_cast<TokenId>((i * 7919 + 13) % vocab));
  }
  return ids;
}

class Subject {
 public:
  Subject(const std::filesystem::path& path, const Options& options, KvType kv_type, int threads)
      : options_(options), pool_(threads) {
    auto loaded = load_causal_model(path, load_options(options, ledger_, pool_));
    if (!loaded) throw std::runtime_error(to_string(loaded.error()));
    model_ = std::move(*loaded);
    const KvLayout layout = kv_layout(model_->info(), 16, kv_type);
    const auto limits = load_options(options, ledger_, pool_).limits;
    const std::uint64_t blocks =
        (most_streams + 2) * layout.blocks_for(limits.context_tokens) * layout.layer_groups();
    auto made = BlockPool::make(layout, blocks * layout.block_bytes(),
                                ledger_.account(Component::kv, "bench", shared_tenant));
    if (!made) throw std::runtime_error(to_string(made.error()));
    kv_ = std::move(*made);
    logits_.resize(16 * std::size_t{model_->info().vocab});
    ids_ = text(prompt_tokens, model_->info().vocab);
  }

  double prefill_seconds(double seconds) {
    const auto blocks = take_blocks(options_.before_prefill + prompt_tokens);
    fill(blocks, options_.before_prefill);
    return median_seconds(seconds, [&] {
      for (std::uint32_t done = 0; done < prompt_tokens; done += options_.step) {
        const std::uint32_t tokens = std::min(options_.step, prompt_tokens - done);
        const SequenceChunk chunk{.tokens = std::span(ids_).subspan(done, tokens),
                                  .start_position = options_.before_prefill + done,
                                  .blocks = blocks,
                                  .logit_rows = done + tokens == prompt_tokens ? 1U : 0U};
        model_->forward({&chunk, 1}, *kv_, logits_.data());
      }
    });
  }

  double decode_seconds(double seconds, std::size_t streams) {
    std::vector<std::vector<BlockId>> blocks(streams);
    for (auto& b : blocks) b = take_blocks(options_.before_decode + decoded_tokens);
    fill(blocks[0], options_.before_decode);
    const std::size_t block_bytes = kv_->layout().block_bytes();
    for (std::size_t s = 1; s < streams; ++s) {
      for (std::size_t b = 0; b < blocks[s].size(); ++b) {
        std::memcpy(kv_->data() + blocks[s][b].get() * block_bytes,
                    kv_->data() + blocks[0][b].get() * block_bytes, block_bytes);
      }
    }
    std::vector<SequenceChunk> chunks(streams);
    std::uint32_t position = options_.before_decode;
    return median_seconds(seconds, [&] {
      for (std::size_t i = 0; i < streams; ++i) {
        chunks[i] = {.tokens = std::span(ids_).subspan(i, 1),
                     .start_position = position,
                     .blocks = blocks[i],
                     .logit_rows = 1};
      }
      model_->forward(chunks, *kv_, logits_.data());
      if (++position == options_.before_decode + decoded_tokens) position = options_.before_decode;
    });
  }

 private:
  // The first `tokens` of a sequence.
  void fill(const std::vector<BlockId>& blocks, std::uint32_t tokens) {
    for (std::uint32_t start = 0; start < tokens; start += prompt_tokens) {
      const SequenceChunk chunk{
          .tokens = std::span(ids_).first(std::min(prompt_tokens, tokens - start)),
          .start_position = start,
          .blocks = blocks,
          .logit_rows = 0};
      model_->forward({&chunk, 1}, *kv_, nullptr);
    }
  }
  std::vector<BlockId> take_blocks(std::uint32_t tokens) {
    std::vector<BlockId> blocks;
    const KvLayout& layout = kv_->layout();
    blocks.resize(std::size_t{layout.blocks_for(tokens)} * layout.layer_groups());
    for (BlockId& block : blocks) block = kv_->allocate().value();
    return blocks;
  }

  const Options& options_;
  Ledger ledger_;
  ThreadPool pool_;
  std::unique_ptr<CausalModel> model_;
  std::optional<BlockPool> kv_;
  std::vector<float> logits_;
  std::vector<TokenId> ids_;
};

void run_causal(const std::filesystem::path& path, const Options& options, KvType kv_type,
                int threads, const Ceilings& ceilings) {
  std::string name = path.parent_path().filename().string();
  if (options.kv_types.size() > 1)
    name = name.substr(0, 16) + " " + std::string(to_string(kv_type));
  const Work work = work_of(path);
  // Of `tokens` in one step, with logits of `rows`, in tokens a second.
  const auto limit = [&](double tokens, double rows) {
    const double macs = tokens * work.layer_weights + rows * work.output_weights;
    return tokens / std::max(macs / ceilings.int8_macs, work.bytes / ceilings.read_bytes);
  };
  Subject subject(path, options, kv_type, threads);
  print_row(name, "prefill 512", threads, prompt_tokens / subject.prefill_seconds(options.seconds),
            limit(prompt_tokens, 1));
  for (const std::size_t streams : {std::size_t{1}, most_streams}) {
    const auto n = static_cast<double>(streams);
    print_row(name, "decode, streams: " + std::to_string(streams), threads,
              n / subject.decode_seconds(options.seconds, streams), limit(n, n));
  }
}

void run_embedding(const std::filesystem::path& path, const Options& options, int threads) {
  Ledger ledger;
  ThreadPool pool(threads);
  auto model = load_embedding_model(path, load_options(options, ledger, pool));
  if (!model) throw std::runtime_error(to_string(model.error()));
  const auto ids = text(sentence_tokens, (*model)->info().vocab);
  for (const std::size_t batch : {1, 32}) {
    const std::vector<std::span<const TokenId>> inputs(batch, ids);
    std::vector<float> out(batch * (*model)->info().hidden);
    const double seconds =
        median_seconds(options.seconds, [&] { (*model)->embed(inputs, out.data()); });
    print_row(path.filename().string(), "embed, batch: " + std::to_string(batch), threads,
              static_cast<double>(batch) / seconds, 0);
  }
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::string value = argument.substr(std::min(argument.size(), argument.find('=') + 1));
    if (argument.starts_with("--threads=")) {
      for (const char* at = value.c_str(); *at != '\0';) {
        char* end = nullptr;
        const long n = std::strtol(at, &end, 10);
        if (end == at || n < 1) throw std::runtime_error(argument + ": give counts, as in 1,2");
        options.threads.push_back(static_cast<int>(n));
        at = *end == ',' ? end + 1 : end;
      }
    } else if (argument.starts_with("--seconds=")) {
      options.seconds = std::atof(value.c_str());
    } else if (argument.starts_with("--step=")) {
      options.step = static_cast<std::uint32_t>(std::strtoul(value.c_str(), nullptr, 10));
      if (options.step == 0 || options.step > prompt_tokens) {
        throw std::runtime_error(argument + ": 1 to " + std::to_string(prompt_tokens));
      }
    } else if (argument == "--float32") {
      options.compute = ComputeMode::float32;
    } else if (argument == "--int8") {
      options.compute = ComputeMode::int8;
    } else if (argument.starts_with("--context=")) {
      options.before_prefill = options.before_decode =
          static_cast<std::uint32_t>(std::strtoul(value.c_str(), nullptr, 10));
    } else if (argument.starts_with("--kv=")) {
      options.kv_types.clear();
      for (const KvType type : {KvType::bf16, KvType::f16, KvType::int8, KvType::int4}) {
        if (("," + value + ",").find("," + std::string(to_string(type)) + ",") !=
            std::string::npos) {
          options.kv_types.push_back(type);
        }
      }
      if (options.kv_types.empty())
        throw std::runtime_error(argument + ": bf16, f16, int8 or int4");
    } else {
      throw std::runtime_error("unknown option " + argument);
    }
  }
  if (options.threads.empty()) {
    options.threads = {1};
    const auto all = static_cast<int>(std::thread::hardware_concurrency());
    if (all > 1) options.threads.push_back(all);
  }
  return options;
}

void run(const Options& options) {
  std::vector<std::filesystem::path> paths;
  const char* const one = std::getenv("PLIMSOLL_BENCH_MODEL");
  if (one != nullptr) {
    paths = {one};
  } else {
    const auto folder = models_folder();
    paths = {folder / "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
             folder / "gemma-3-270m/gemma-3-270m-q4_k_m.gguf", folder / "all-minilm-l6-v2"};
  }
  std::printf("instruction set: %s\n", std::string(to_string(active_isa())).c_str());
  std::vector<Ceilings> ceilings;
  for (const int threads : options.threads) {
    ceilings.push_back(measure_ceilings(threads));
    std::printf("%d threads: read %.1f GB/s, int8 dots %.0f G multiply-adds/s\n", threads,
                ceilings.back().read_bytes * 1e-9, ceilings.back().int8_macs * 1e-9);
  }
  std::printf("\n%-24s %-20s %7s %10s %10s %8s\n", "model", "", "threads", "a second", "limit",
              "share");
  for (const auto& path : paths) {
    if (!std::filesystem::exists(path)) {
      std::printf("%s is absent: nothing measured\n", path.c_str());
      continue;
    }
    for (std::size_t i = 0; i < options.threads.size(); ++i) {
      if (std::filesystem::is_directory(path)) {
        run_embedding(path, options, options.threads[i]);
      } else {
        for (const KvType type : options.kv_types) {
          run_causal(path, options, type, options.threads[i], ceilings[i]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  try {
    plimsoll::run(plimsoll::parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine_bench: %s\n", error.what());
    return 1;
  }
}
