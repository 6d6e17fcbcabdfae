#include "tests/engine/models/model_runner.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>

namespace plimsoll {

std::filesystem::path models_folder() {
  if (const char* folder = std::getenv("PLIMSOLL_MODELS")) return folder;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : ".") / ".cache/plimsoll/models";
}

ModelRunner::ModelRunner(const std::filesystem::path& path, Options options)
    : options_(std::move(options)), pool_(options_.threads) {
  auto model = load_causal_model(path, LoadOptions{.model_version = "test",
                                                   .compute = options_.compute,
                                                   .cache_directory = options_.cache_directory,
                                                   .limits = options_.limits,
                                                   .ledger = &ledger_,
                                                   .pool = &pool_,
                                                   .progress = {}});
  if (!model) {
    error_ = model.error();
    return;
  }
  const KvLayout layout = kv_layout((*model)->info(), 16, options_.kv_type);
  const std::uint64_t blocks =
      std::uint64_t{layout.blocks_for(options_.kv_tokens)} * layout.layer_groups();
  auto kv = BlockPool::make(layout, blocks * layout.block_bytes(),
                            ledger_.account(Component::kv, "test", shared_tenant));
  if (!kv) {
    error_ = kv.error();
    return;
  }
  model_ = std::move(*model);
  kv_ = std::move(*kv);
}

SequenceChunk ModelRunner::chunk(Sequence& sequence, std::span<const TokenId> tokens,
                                 std::uint32_t logit_rows) {
  const std::uint32_t start = sequence.length;
  sequence.length += static_cast<std::uint32_t>(tokens.size());
  sequence.blocks.pass(*kv_, start);
  while (sequence.blocks.rows() < kv_->layout().blocks_for(sequence.length)) {
    if (!sequence.blocks.add_row(*kv_, nullptr)) throw std::runtime_error("the pool is too small");
  }
  return {.tokens = tokens,
          .start_position = start,
          .blocks = sequence.blocks.ids(),
          .logit_rows = logit_rows};
}

std::vector<float> ModelRunner::step(std::span<const SequenceChunk> chunks) {
  std::size_t rows = 0;
  for (const SequenceChunk& c : chunks) rows += c.logit_rows;
  std::vector<float> logits(rows * model_->info().vocab, NAN);
  model_->forward(chunks, *kv_, logits.data());
  return logits;
}

std::vector<float> ModelRunner::all_logits(std::span<const TokenId> tokens,
                                           std::uint32_t chunk_tokens) {
  Sequence sequence;
  std::vector<float> all;
  for (std::size_t i = 0; i < tokens.size(); i += chunk_tokens) {
    const auto part = tokens.subspan(i, std::min<std::size_t>(chunk_tokens, tokens.size() - i));
    const SequenceChunk c = chunk(sequence, part, static_cast<std::uint32_t>(part.size()));
    const std::vector<float> logits = step({&c, 1});
    all.insert(all.end(), logits.begin(), logits.end());
  }
  release(sequence);
  return all;
}

std::vector<float> ModelRunner::prefill(Sequence& sequence, std::span<const TokenId> tokens,
                                        std::uint32_t chunk_tokens) {
  std::vector<float> logits;
  for (std::size_t i = 0; i < tokens.size(); i += chunk_tokens) {
    const auto part = tokens.subspan(i, std::min<std::size_t>(chunk_tokens, tokens.size() - i));
    const bool last = i + part.size() == tokens.size();
    const SequenceChunk c = chunk(sequence, part, last ? 1 : 0);
    logits = step({&c, 1});
  }
  return logits;
}

std::vector<std::vector<TokenId>> ModelRunner::greedy(std::span<const std::vector<TokenId>> prompts,
                                                      std::size_t count) {
  const auto best = [](std::span<const float> row) {
    return static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
  };
  const std::size_t vocab = model_->info().vocab;
  std::vector<Sequence> sequences(prompts.size());
  std::vector<std::vector<TokenId>> out(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    out[i].push_back(best(prefill(sequences[i], prompts[i], options_.limits.tokens)));
  }
  while (!out.empty() && out[0].size() < count) {
    std::vector<SequenceChunk> chunks;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      chunks.push_back(chunk(sequences[i], {&out[i].back(), 1}, 1));
    }
    const std::vector<float> logits = step(chunks);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      out[i].push_back(best(std::span(logits).subspan(i * vocab, vocab)));
    }
  }
  for (Sequence& sequence : sequences) release(sequence);
  return out;
}

void ModelRunner::release(Sequence& sequence) {
  sequence.blocks.clear(*kv_);
  sequence = {};
}

double relative_error(std::span<const float> a, std::span<const float> b) {
  assert(a.size() == b.size());
  double difference = 0;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= difference)) difference = d;  // NaN is kept
    largest = std::max<double>(largest, std::abs(b[i]));
  }
  return difference / largest;
}

}  // namespace plimsoll
