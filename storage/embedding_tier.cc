#include "storage/embedding_tier.h"

#include <cstring>
#include <utility>

#include "storage/cache_reader.h"
#include "storage/digest.h"

namespace plimsoll::storage {
namespace {

class Fetch final : public EmbeddingFetch {
 public:
  Fetch(std::unique_ptr<CacheFetch> vectors, std::vector<std::uint32_t> inputs)
      : vectors_(std::move(vectors)), inputs_(std::move(inputs)) {}

  std::span<const std::uint32_t> inputs() const override { return inputs_; }
  double read_seconds() const override { return vectors_->read_seconds(); }
  void start(std::function<void()> on_done) override { vectors_->start(std::move(on_done)); }
  bool done() const override { return vectors_->done(); }
  std::vector<std::vector<float>> take() override {
    std::vector<std::vector<float>> vectors;
    for (const auto& bytes : vectors_->take()) {
      auto& vector = vectors.emplace_back(bytes.size() / sizeof(float));
      std::memcpy(vector.data(), bytes.data(), vector.size() * sizeof(float));
    }
    return vectors;
  }

 private:
  const std::unique_ptr<CacheFetch> vectors_;
  const std::vector<std::uint32_t> inputs_;
};

class DiskEmbeddingTier final : public EmbeddingTier {
 public:
  DiskEmbeddingTier(std::shared_ptr<DiskCache> cache, const EmbeddingTierOptions& options,
                    std::shared_ptr<TierBudget> budget, Ledger& ledger)
      : cache_(std::move(cache)),
        model_(options.model),
        ledger_(ledger),
        root_(digest_of(options.model + "/" + options.variant + "/" +
                        std::to_string(options.hidden))),
        reader_(cache_,
                {CacheKind::embedding, options.hidden * sizeof(float), false, "embedding read"},
                std::move(budget)) {}

  void offer(const TenantId& tenant, std::span<const TokenId> input,
             std::span<const float> vector) override {
    std::string value(reinterpret_cast<const char*>(vector.data()), vector.size_bytes());
    cache_->put(owner_of(tenant), CacheKind::embedding, key_of(input), std::move(value));
  }

  std::unique_ptr<EmbeddingFetch> look_up(const TenantId& tenant,
                                          std::span<const std::vector<TokenId>> inputs) override {
    auto owner = owner_of(tenant);
    std::vector<std::uint32_t> known;
    std::vector<std::string> keys;
    for (std::uint32_t i = 0; i < inputs.size(); ++i) {
      auto key = key_of(inputs[i]);
      if (cache_->chain_length(owner, CacheKind::embedding, {&key, 1}) == 0) continue;
      known.push_back(i);
      keys.push_back(std::move(key));
    }
    auto vectors = reader_.fetch(std::move(owner), std::move(keys),
                                 ledger_.account(Component::embedding_cache, model_, tenant));
    if (vectors == nullptr) return nullptr;
    known.resize(vectors->size());
    return std::make_unique<Fetch>(std::move(vectors), std::move(known));
  }

 private:
  static CacheOwner owner_of(const TenantId& tenant) { return {tenant, "tenant:" + tenant.get()}; }

  std::string key_of(std::span<const TokenId> input) const {
    std::string text = root_;
    text.append(reinterpret_cast<const char*>(input.data()), input.size_bytes());
    return digest_of(text);
  }

  const std::shared_ptr<DiskCache> cache_;
  const std::string model_;
  Ledger& ledger_;
  const std::string root_;
  CacheReader reader_;
};

}  // namespace

std::shared_ptr<EmbeddingTier> make_embedding_tier(std::shared_ptr<DiskCache> cache,
                                                   EmbeddingTierOptions options,
                                                   std::shared_ptr<TierBudget> budget,
                                                   Ledger& ledger) {
  return std::make_shared<DiskEmbeddingTier>(std::move(cache), options, std::move(budget), ledger);
}

}  // namespace plimsoll::storage
