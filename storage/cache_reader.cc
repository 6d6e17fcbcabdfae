#include "storage/cache_reader.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

namespace plimsoll::storage {
namespace {

constexpr std::uint64_t key_bytes = 96;  // of a key and a value, as strings

}  // namespace

// Shared by who asked and the reader's thread.
struct CacheFetch::State {
  mutable std::mutex mutex;
  CacheOwner owner;
  std::vector<std::string> keys;
  std::uint64_t value_bytes = 0;  // of each, at most
  std::vector<std::string> values;
  std::function<void()> on_done;
  bool done = false;
  bool cancelled = false;
  Charge charge;
};

CacheFetch::CacheFetch(CacheReader& reader, std::shared_ptr<State> state)
    : reader_(reader), state_(std::move(state)), size_(state_->keys.size()) {}

CacheFetch::~CacheFetch() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->cancelled = true;
    state_->values = {};
  }
  reader_.budget_->fetched -= state_->charge.bytes();
}

double CacheFetch::read_seconds() const { return reader_.seconds(*state_); }

void CacheFetch::start(std::function<void()> on_done) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->on_done = std::move(on_done);
  }
  reader_.start(state_);
}

bool CacheFetch::done() const {
  const std::lock_guard lock(state_->mutex);
  return state_->done;
}

std::vector<std::string> CacheFetch::take() {
  const std::lock_guard lock(state_->mutex);
  state_->cancelled = true;
  return std::move(state_->values);
}

CacheReader::CacheReader(std::shared_ptr<DiskCache> cache, CacheReaderOptions options,
                         std::shared_ptr<TierBudget> budget)
    : cache_(std::move(cache)), options_(std::move(options)), budget_(std::move(budget)) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), options_.thread_name.c_str());
}

CacheReader::~CacheReader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_one();
  }
  thread_.join();
}

std::unique_ptr<CacheFetch> CacheReader::fetch(CacheOwner owner, std::vector<std::string> keys,
                                               Account& account, std::uint64_t most_bytes) {
  const auto value_bytes = options_.value_bytes != 0 ? options_.value_bytes : most_bytes;
  const auto each = value_bytes + key_bytes;
  const auto taken = std::min(budget_->fetched.load(), budget_->fetch_bytes);
  const auto room = (budget_->fetch_bytes - taken) / each;
  if (keys.size() > room) keys.resize(room);
  const auto bytes = keys.size() * each;
  if (keys.empty() || !TierBudget::take(budget_->fetched, budget_->fetch_bytes, bytes)) {
    return nullptr;
  }
  auto state = std::make_shared<State>();
  state->owner = std::move(owner);
  state->keys = std::move(keys);
  state->value_bytes = value_bytes;
  state->charge = Charge(account, bytes);
  return std::unique_ptr<CacheFetch>(new CacheFetch(*this, std::move(state)));
}

void CacheReader::start(std::shared_ptr<State> state) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(state));
  changed_.notify_one();
}

double CacheReader::seconds(const State& state) const {
  const auto cost = cache_->read_cost();
  const auto of = [&](const State& s) {
    return static_cast<double>(s.keys.size()) * cost.seconds(s.value_bytes);
  };
  double sum = of(state);
  const std::lock_guard lock(mutex_);
  for (const auto& before : waiting_) sum += of(*before);
  if (reading_since_) {
    sum += std::chrono::duration<double>(Clock::now() - *reading_since_).count();
  }
  return sum;
}

bool CacheReader::good(const std::string& value, const State& state) const {
  return options_.value_bytes != 0 ? value.size() == options_.value_bytes
                                   : value.size() <= state.value_bytes;
}

void CacheReader::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    const auto state = std::move(waiting_.front());
    waiting_.pop_front();
    read(lock, *state);
  }
}

void CacheReader::read(std::unique_lock<std::mutex>& lock, State& state) {
  for (const auto& key : state.keys) {
    reading_since_ = Clock::now();
    lock.unlock();
    auto value = cache_->get(state.owner, options_.kind, key);
    const bool usable = value && good(*value, state);
    bool wanted = usable || !options_.to_first_gap;
    {
      const std::lock_guard held(state.mutex);
      if (state.cancelled) wanted = false;
      if (wanted) state.values.push_back(usable ? std::move(*value) : std::string());
    }
    lock.lock();
    if (!wanted || stopping_) break;
  }
  reading_since_.reset();
  lock.unlock();
  {
    const std::lock_guard held(state.mutex);
    state.done = true;
    if (!state.cancelled && state.on_done) state.on_done();
  }
  lock.lock();
}

}  // namespace plimsoll::storage
