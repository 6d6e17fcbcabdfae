#include "storage/prefix_tier.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "storage/cache_reader.h"
#include "storage/digest.h"

namespace plimsoll::storage {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds put_again{5};  // when the cache's buffer is full
constexpr int put_tries = 200;
constexpr std::chrono::seconds stop_time{5};
constexpr std::uint64_t offer_overhead_bytes = 256;

class Fetch final : public KvFetch {
 public:
  explicit Fetch(std::unique_ptr<CacheFetch> blocks) : blocks_(std::move(blocks)) {}
  std::uint32_t blocks() const override { return static_cast<std::uint32_t>(blocks_->size()); }
  double read_seconds() const override { return blocks_->read_seconds(); }
  void start(std::function<void()> on_done) override { blocks_->start(std::move(on_done)); }
  bool done() const override { return blocks_->done(); }
  std::vector<std::string> take() override { return blocks_->take(); }

 private:
  const std::unique_ptr<CacheFetch> blocks_;
};

class PrefixTier final : public KvTier {
 public:
  PrefixTier(std::shared_ptr<DiskCache> cache, PrefixTierOptions options,
             std::shared_ptr<TierBudget> budget, Ledger& ledger)
      : cache_(std::move(cache)),
        options_(std::move(options)),
        budget_(std::move(budget)),
        ledger_(ledger),
        root_(digest_of(options_.model + "/" + options_.variant + "/" +
                        std::to_string(options_.block_tokens) + "/" +
                        std::to_string(options_.block_bytes))),
        reader_(cache_, {CacheKind::prefix, 0, true, "prefix reader"}, budget_),
        chain_charge_(account(shared_tenant), 0) {
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), "prefix tier");
  }
  ~PrefixTier() override {
    {
      const std::lock_guard lock(mutex_);
      stop_at_ = Clock::now() + stop_time;
      changed_.notify_one();
    }
    thread_.join();
    for (const auto& offer : offers_) budget_->offered -= offer.charge.bytes();
  }

  bool offer(const KvPrefix& prefix, Parts block) override {
    std::size_t block_bytes = 0;
    for (const auto& part : block) block_bytes += part.size();
    const std::uint64_t bytes =
        block_bytes + prefix.tokens.size_bytes() + prefix.salt.size() + offer_overhead_bytes;
    if (!TierBudget::take(budget_->offered, budget_->offer_bytes, bytes)) return false;
    auto value = cache_->buffer(block_bytes);
    for (const auto& part : block) {
      value.append(reinterpret_cast<const char*>(part.data()), part.size());
    }
    Offer offer{{prefix.tenant, std::string(prefix.salt)},
                {prefix.tokens.begin(), prefix.tokens.end()},
                std::move(value),
                Charge(account(prefix.tenant), bytes)};
    const std::lock_guard lock(mutex_);
    offers_.push_back(std::move(offer));
    changed_.notify_one();
    return true;
  }

  void forget(const std::optional<TenantId>& tenant) override {
    std::unique_lock lock(mutex_);
    std::erase_if(offers_, [&](const Offer& offer) {
      if (tenant && offer.owner.tenant != *tenant) return false;
      budget_->offered -= offer.charge.bytes();
      return true;
    });
    // What is being put is in the cache in a moment, or is given up.
    may_retry_ = false;
    attempted_.wait(lock, [this, last = attempts_, putting = putting_] {
      return !putting || attempts_ != last;
    });
  }

  std::unique_ptr<KvFetch> look_up(const KvPrefix& prefix, std::uint32_t first) override {
    std::vector<std::string> keys;
    extend(keys, prefix.tokens);
    if (keys.size() <= first) return nullptr;
    keys.erase(keys.begin(), keys.begin() + first);
    CacheOwner owner{prefix.tenant, std::string(prefix.salt)};
    keys.resize(cache_->chain_length(owner, CacheKind::prefix, keys));
    auto blocks = reader_.fetch(std::move(owner), std::move(keys), account(prefix.tenant),
                                options_.block_bytes);
    return blocks == nullptr ? nullptr : std::make_unique<Fetch>(std::move(blocks));
  }

 private:
  struct Offer {
    CacheOwner owner;
    std::vector<TokenId> tokens;
    std::string block;
    Charge charge;
    std::string key{};  // once it was its turn
  };

  Account& account(const TenantId& tenant) {
    return ledger_.account(Component::prefix_cache, options_.model, tenant);
  }

  // To a key of each whole block of `tokens`.
  void extend(std::vector<std::string>& keys, std::span<const TokenId> tokens) const {
    while ((keys.size() + 1) * options_.block_tokens <= tokens.size()) {
      const auto block = tokens.subspan(keys.size() * options_.block_tokens, options_.block_tokens);
      std::string text = keys.empty() ? root_ : keys.back();
      text.append(reinterpret_cast<const char*>(block.data()), block.size_bytes());
      keys.push_back(digest_of(text));
    }
  }

  // Of the last of its blocks. The blocks of a text leave one after another, its end first: their
  // keys are those of the last text, as far as it was the same.
  const std::string& key_of(std::vector<TokenId>&& tokens) {
    const auto same = std::ranges::mismatch(chain_tokens_, tokens).in1 - chain_tokens_.begin();
    const auto blocks = tokens.size() / options_.block_tokens;
    if (static_cast<std::size_t>(same) < tokens.size()) {
      chain_keys_.resize(static_cast<std::size_t>(same) / options_.block_tokens);
      chain_tokens_ = std::move(tokens);
      extend(chain_keys_, chain_tokens_);
      chain_charge_.resize(chain_tokens_.capacity() * sizeof(TokenId) +
                           chain_keys_.capacity() * sizeof(std::string) +
                           chain_keys_.size() * chain_keys_[0].capacity());
    }
    return chain_keys_[blocks - 1];
  }

  void run() {
    std::unique_lock lock(mutex_);
    int tries = 0;
    for (;;) {
      changed_.wait(lock, [&] { return stop_at_ || !offers_.empty(); });
      if (stop_at_ && (offers_.empty() || Clock::now() >= *stop_at_)) return;
      auto offer = std::move(offers_.front());
      offers_.pop_front();
      putting_ = may_retry_ = true;
      lock.unlock();
      if (offer.key.empty()) offer.key = key_of(std::move(offer.tokens));
      // Where the cache's buffer is full, it is tried again.
      const auto put =
          cache_->put(offer.owner, CacheKind::prefix, offer.key, std::move(offer.block));
      const bool again = put == CachePut::dropped && ++tries < put_tries;
      if (again) std::this_thread::sleep_for(put_again);
      lock.lock();
      putting_ = false;
      ++attempts_;
      attempted_.notify_all();
      if (again && may_retry_) {
        offers_.push_front(std::move(offer));
        continue;
      }
      tries = 0;
      budget_->offered -= offer.charge.bytes();
    }
  }

  const std::shared_ptr<DiskCache> cache_;
  const PrefixTierOptions options_;
  const std::shared_ptr<TierBudget> budget_;
  Ledger& ledger_;
  const std::string root_;
  CacheReader reader_;
  std::vector<TokenId> chain_tokens_;  // the thread's: a text whose keys it knows
  std::vector<std::string> chain_keys_;
  Charge chain_charge_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Offer> offers_;
  std::condition_variable attempted_;
  std::uint64_t attempts_ = 0;  // to put an offer
  bool putting_ = false;        // the attempt after them is being made
  bool may_retry_ = false;      // should it fail for want of room
  std::optional<Clock::time_point> stop_at_;
  std::thread thread_;
};

}  // namespace

std::shared_ptr<KvTier> make_prefix_tier(std::shared_ptr<DiskCache> cache,
                                         PrefixTierOptions options,
                                         std::shared_ptr<TierBudget> budget, Ledger& ledger) {
  return std::make_shared<PrefixTier>(std::move(cache), std::move(options), std::move(budget),
                                      ledger);
}

}  // namespace plimsoll::storage
