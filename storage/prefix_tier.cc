#include "storage/prefix_tier.h"

#include <openssl/evp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace plimsoll::storage {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds put_again{5};  // when the cache's buffer is full
constexpr int put_tries = 200;
constexpr std::chrono::seconds stop_time{5};
constexpr std::uint64_t offer_overhead_bytes = 256;

std::string digest_of(std::string_view text) {
  std::string digest(32, '\0');
  unsigned int length = 0;
  EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(digest.data()), &length,
             EVP_sha256(), nullptr);
  return digest;
}

// One reading, shared by who asked for it and the tier's thread.
struct Reading {
  std::mutex mutex;
  CacheOwner owner;
  std::vector<std::string> keys;
  std::vector<std::string> blocks;
  std::function<void()> on_done;
  bool done = false;
  bool cancelled = false;
  Charge charge;
};

class PrefixTier;

class Fetch final : public KvFetch {
 public:
  Fetch(PrefixTier& tier, std::shared_ptr<Reading> reading)
      : tier_(tier),
        reading_(std::move(reading)),
        blocks_(static_cast<std::uint32_t>(reading_->keys.size())) {}
  ~Fetch() override;

  std::uint32_t blocks() const override { return blocks_; }
  double read_seconds() const override;
  void start(std::function<void()> on_done) override;
  bool done() const override {
    const std::lock_guard lock(reading_->mutex);
    return reading_->done;
  }
  std::vector<std::string> take() override {
    const std::lock_guard lock(reading_->mutex);
    reading_->cancelled = true;  // what else comes is wanted no longer
    return std::move(reading_->blocks);
  }

 private:
  PrefixTier& tier_;
  const std::shared_ptr<Reading> reading_;
  const std::uint32_t blocks_;
};

class PrefixTier final : public KvTier {
 public:
  PrefixTier(std::shared_ptr<DiskCache> cache, PrefixTierOptions options,
             std::shared_ptr<PrefixTierBudget> budget, Ledger& ledger)
      : cache_(std::move(cache)),
        options_(std::move(options)),
        budget_(std::move(budget)),
        ledger_(ledger),
        root_(digest_of(options_.model + "/" + options_.variant + "/" +
                        std::to_string(options_.block_tokens) + "/" +
                        std::to_string(options_.block_bytes))) {
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

  bool offer(const KvPrefix& prefix, std::span<const std::byte> block) override {
    const std::uint64_t bytes =
        block.size() + prefix.tokens.size_bytes() + prefix.salt.size() + offer_overhead_bytes;
    if (!PrefixTierBudget::take(budget_->offered, budget_->offer_bytes, bytes)) return false;
    Offer offer{{prefix.tenant, std::string(prefix.salt)},
                {prefix.tokens.begin(), prefix.tokens.end()},
                std::string(reinterpret_cast<const char*>(block.data()), block.size()),
                Charge(account(prefix.tenant), bytes)};
    const std::lock_guard lock(mutex_);
    offers_.push_back(std::move(offer));
    changed_.notify_one();
    return true;
  }

  std::unique_ptr<KvFetch> look_up(const KvPrefix& prefix, std::uint32_t first) override {
    auto keys = keys_of(prefix.tokens);
    if (keys.size() <= first) return nullptr;
    keys.erase(keys.begin(), keys.begin() + first);
    CacheOwner owner{prefix.tenant, std::string(prefix.salt)};
    std::uint64_t known = cache_->chain_length(owner, CacheKind::prefix, keys);
    const auto fetched = std::min(budget_->fetched.load(), budget_->fetch_bytes);
    known = std::min(known, (budget_->fetch_bytes - fetched) / options_.block_bytes);
    const auto bytes = known * options_.block_bytes;
    if (known == 0 || !PrefixTierBudget::take(budget_->fetched, budget_->fetch_bytes, bytes)) {
      return nullptr;
    }
    keys.resize(known);
    auto reading = std::make_shared<Reading>();
    reading->owner = std::move(owner);
    reading->keys = std::move(keys);
    reading->charge = Charge(account(prefix.tenant), bytes);
    return std::make_unique<Fetch>(*this, std::move(reading));
  }

  void release(const Reading& reading) { budget_->fetched -= reading.charge.bytes(); }

  void start(std::shared_ptr<Reading> reading) {
    const std::lock_guard lock(mutex_);
    readings_.push_back(std::move(reading));
    changed_.notify_one();
  }

  // Behind what waits already, and no sooner than the read that is under way, which may be stuck.
  double seconds(std::uint64_t blocks) const {
    const auto cost = cache_->read_cost();
    const std::lock_guard lock(mutex_);
    for (const auto& reading : readings_) blocks += reading->keys.size();
    double wait = 0;
    if (reading_since_) {
      wait = std::chrono::duration<double>(Clock::now() - *reading_since_).count();
    }
    return wait + cost.seconds(blocks * options_.block_bytes);
  }

 private:
  struct Offer {
    CacheOwner owner;
    std::vector<TokenId> tokens;
    std::string block;
    Charge charge;
  };

  Account& account(const TenantId& tenant) {
    return ledger_.account(Component::prefix_cache, options_.model, tenant);
  }

  // Of each whole block.
  std::vector<std::string> keys_of(std::span<const TokenId> tokens) const {
    std::vector<std::string> keys;
    std::string text = root_;
    while (tokens.size() >= options_.block_tokens) {
      const auto block = tokens.first(options_.block_tokens);
      text.append(reinterpret_cast<const char*>(block.data()), block.size_bytes());
      text = digest_of(text);
      keys.push_back(text);
      tokens = tokens.subspan(options_.block_tokens);
    }
    return keys;
  }

  void run() {
    std::unique_lock lock(mutex_);
    int tries = 0;
    for (;;) {
      changed_.wait(lock, [&] { return stop_at_ || !readings_.empty() || !offers_.empty(); });
      if (stop_at_ && (offers_.empty() || Clock::now() >= *stop_at_)) return;
      if (!readings_.empty()) {
        const auto reading = std::move(readings_.front());
        readings_.pop_front();
        read(lock, *reading);
        continue;
      }
      auto offer = std::move(offers_.front());
      offers_.pop_front();
      lock.unlock();
      auto keys = keys_of(offer.tokens);
      const std::span<const std::string> last(&keys.back(), 1);
      // A copy goes in: where the cache's buffer is full, it is tried again.
      const auto put = cache_->put(offer.owner, CacheKind::prefix, last[0], offer.block);
      lock.lock();
      if (put == CachePut::dropped && ++tries < put_tries) {
        offers_.push_front(std::move(offer));
        changed_.wait_for(lock, put_again, [&] { return !readings_.empty(); });
        continue;
      }
      tries = 0;
      budget_->offered -= offer.charge.bytes();
    }
  }

  void read(std::unique_lock<std::mutex>& lock, Reading& reading) {
    for (const auto& key : reading.keys) {
      reading_since_ = Clock::now();
      lock.unlock();
      auto block = cache_->get(reading.owner, CacheKind::prefix, key);
      bool wanted = block && block->size() == options_.block_bytes;
      {
        const std::lock_guard held(reading.mutex);
        if (reading.cancelled) wanted = false;
        if (wanted) reading.blocks.push_back(std::move(*block));
      }
      lock.lock();
      if (!wanted) break;
    }
    reading_since_.reset();
    lock.unlock();
    {
      const std::lock_guard held(reading.mutex);
      reading.done = true;
      if (!reading.cancelled && reading.on_done) reading.on_done();
    }
    lock.lock();
  }

  const std::shared_ptr<DiskCache> cache_;
  const PrefixTierOptions options_;
  const std::shared_ptr<PrefixTierBudget> budget_;
  Ledger& ledger_;
  const std::string root_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Offer> offers_;
  std::deque<std::shared_ptr<Reading>> readings_;
  std::optional<Clock::time_point> reading_since_;  // the read that is under way
  std::optional<Clock::time_point> stop_at_;
  std::thread thread_;
};

Fetch::~Fetch() {
  {
    const std::lock_guard lock(reading_->mutex);
    reading_->cancelled = true;
    reading_->blocks = {};
  }
  tier_.release(*reading_);
}
double Fetch::read_seconds() const { return tier_.seconds(blocks_); }
void Fetch::start(std::function<void()> on_done) {
  {
    const std::lock_guard lock(reading_->mutex);
    reading_->on_done = std::move(on_done);
  }
  tier_.start(reading_);
}

}  // namespace

std::shared_ptr<KvTier> make_prefix_tier(std::shared_ptr<DiskCache> cache,
                                         PrefixTierOptions options,
                                         std::shared_ptr<PrefixTierBudget> budget, Ledger& ledger) {
  return std::make_shared<PrefixTier>(std::move(cache), std::move(options), std::move(budget),
                                      ledger);
}

}  // namespace plimsoll::storage
