#include "engine/loop/embedding_engine.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "engine/base/thread_slice.h"
#include "engine/memory/arena.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;
using Vectors = std::vector<std::vector<float>>;

constexpr std::uint32_t retry_ms = 1000;
// A request waits for vectors as long as computing them would take, but no shorter and no longer
// than this.
constexpr std::chrono::milliseconds least_wait{20}, most_wait{2'000};

struct Job {
  EmbeddingRequest request;
  EmbeddingCallback callback;
  Charge charge;
  Clock::time_point submitted;
  Vectors vectors;                        // of each input; empty: none yet
  std::uint32_t cached_tokens = 0;        // of inputs whose vectors came from the tier
  std::size_t next = 0;                   // the first input that has none
  std::size_t computed = 0;               // inputs
  std::unique_ptr<EmbeddingFetch> fetch;  // while vectors are waited for
  Clock::time_point fetch_until;
  std::atomic<bool> cancelled{false};

  std::size_t missing_from(std::size_t input) const {
    while (input < vectors.size() && !vectors[input].empty()) ++input;
    return input;
  }
  bool complete() const { return next == vectors.size(); }
};

class LoopEmbeddingEngine final : public EmbeddingEngine {
 public:
  LoopEmbeddingEngine(std::unique_ptr<EmbeddingModel> model, const EmbeddingEngineConfig& config,
                      Ledger& ledger, Arena out)
      : model_(std::move(model)), config_(config), ledger_(ledger), out_(std::move(out)) {
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), "embedding");
  }

  ~LoopEmbeddingEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake();
    }
    thread_.join();
  }

  Result<void> submit(EmbeddingRequest request, EmbeddingCallback callback) override;
  void cancel(RequestId id) override;
  void drain(Clock::time_point deadline) override;
  bool idle() const override { return unfinished_.load() == 0; }
  EmbeddingStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  const ModelInfo& model() const override { return model_->info(); }

 private:
  struct Tenant {
    TenantId id;
    std::list<std::unique_ptr<Job>> jobs;  // first come, first served
  };

  Result<void> check(const EmbeddingRequest& request) const;
  Result<void> refusal(const EmbeddingRequest& request) const;  // under mutex_
  std::uint64_t bytes(const EmbeddingRequest& request) const;
  void wake() {
    ++mail_;
    condition_.notify_one();
  }

  // All of these on the engine's thread.
  void run();
  bool take_mail();
  std::optional<Error> overdue(const Job& job, Clock::time_point now) const;
  // Ends the jobs for which `look` gives true, with the error that it may set.
  template <class Look>
  void end_some(const Look& look);
  void end_overdue();
  void begin_fetch(Job& job);
  void take_fetched();
  void choose_batch();
  bool step();
  void keep(Job& job, std::size_t input, std::span<const float> vector);
  void end(std::unique_ptr<Job> job, std::optional<Error> error);
  void publish();

  const std::unique_ptr<EmbeddingModel> model_;
  const EmbeddingEngineConfig config_;
  Ledger& ledger_;

  // Shared with the callers' threads.
  mutable std::mutex mutex_;
  std::condition_variable condition_;
  std::uint64_t mail_ = 0;  // counts what the loop has to look at
  std::vector<std::unique_ptr<Job>> inbox_;
  std::unordered_map<RequestId, Job*> by_id_;
  std::unordered_map<TenantId, std::uint32_t> tenant_requests_;
  std::optional<Clock::time_point> drain_deadline_;
  bool stopping_ = false;
  EmbeddingStats stats_;
  std::atomic<std::uint64_t> unfinished_{0};

  // The engine thread's own.
  Arena out_;                  // [max_batch, hidden]
  std::list<Tenant> tenants_;  // whose turn it is first
  std::uint64_t mail_seen_ = 0;
  std::optional<Clock::time_point> ends_at_;
  bool ending_ = false;
  struct Place {
    Job* job;
    std::size_t input;
  };
  std::vector<Place> batch_;  // whose each input of the step is
  std::vector<std::span<const TokenId>> inputs_;
  std::optional<Clock::time_point> fetch_until_;  // when the first has waited long enough
  EmbeddingStats counters_;
  std::thread thread_;
};

// --- From any thread ---

Result<void> LoopEmbeddingEngine::check(const EmbeddingRequest& request) const {
  const ModelInfo& model = model_->info();
  const auto bad = [](std::string message) {
    return fail(Error(ErrorCode::invalid_argument, std::move(message)).with_param("input"));
  };
  if (request.inputs.empty()) return bad("there is no input");
  if (request.inputs.size() > config_.request_inputs) {
    return bad(std::to_string(request.inputs.size()) + " inputs are over the limit of " +
               std::to_string(config_.request_inputs) + ": split the request");
  }
  std::uint32_t longest = std::min(config_.limits.context_tokens, config_.limits.tokens);
  if (model.context_tokens > 0) longest = std::min(longest, model.context_tokens);
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const auto& input = request.inputs[i];
    const std::string name = "input " + std::to_string(i);
    if (input.empty()) return bad(name + " has no tokens");
    if (input.size() > longest) {
      return fail(Error(ErrorCode::invalid_argument, name + " has " + std::to_string(input.size()) +
                                                         " tokens, over the limit of " +
                                                         std::to_string(longest))
                      .with_param("input")
                      .with_reason("context_length_exceeded"));
    }
    for (const TokenId id : input) {
      if (id < 0 || static_cast<std::uint32_t>(id) >= model.vocab) {
        return bad("token " + std::to_string(id) + " of " + name +
                   " is outside the vocabulary of " + std::to_string(model.vocab));
      }
    }
  }
  return {};
}

Result<void> LoopEmbeddingEngine::refusal(const EmbeddingRequest& request) const {
  if (stopping_ || drain_deadline_) {
    return fail(Error(ErrorCode::unavailable, "the engine is draining: try another node")
                    .with_reason("draining")
                    .retry_after(retry_ms));
  }
  if (by_id_.size() >= config_.queue_length) {
    return fail(Error(ErrorCode::resource_exhausted,
                      "the queue is full: it holds " + std::to_string(by_id_.size()) + " requests")
                    .with_reason("queue_full")
                    .retry_after(retry_ms));
  }
  const auto tenant = tenant_requests_.find(request.tenant);
  if (tenant != tenant_requests_.end() && tenant->second >= config_.tenant_requests) {
    return fail(Error(ErrorCode::resource_exhausted, "tenant '" + request.tenant.get() + "' has " +
                                                         std::to_string(tenant->second) +
                                                         " requests, and may have no more")
                    .with_reason("tenant_requests")
                    .retry_after(retry_ms));
  }
  if (by_id_.contains(request.id)) {
    return fail(Error(ErrorCode::invalid_argument,
                      "a request with id " + std::to_string(request.id.get()) + " is running")
                    .with_param("id"));
  }
  return {};
}

std::uint64_t LoopEmbeddingEngine::bytes(const EmbeddingRequest& request) const {
  constexpr std::uint64_t job_bytes = 512;  // the object itself and its maps' entries
  std::uint64_t tokens = 0;
  for (const auto& input : request.inputs) tokens += input.size();
  return job_bytes + tokens * sizeof(TokenId) +
         request.inputs.size() * (sizeof(request.inputs[0]) + sizeof(Vectors::value_type) +
                                  model_->info().hidden * sizeof(float));
}

Result<void> LoopEmbeddingEngine::submit(EmbeddingRequest request, EmbeddingCallback callback) {
  if (auto ok = check(request); !ok) {
    const std::lock_guard lock(mutex_);
    ++stats_.refused_total;
    return ok;
  }
  auto job = std::make_unique<Job>();
  job->charge = Charge(ledger_.account(Component::requests, config_.model_version, request.tenant,
                                       Endpoint::embeddings),
                       bytes(request));
  job->submitted = Clock::now();
  job->vectors.resize(request.inputs.size());
  job->request = std::move(request);
  job->callback = std::move(callback);

  const std::lock_guard lock(mutex_);
  if (auto ok = refusal(job->request); !ok) {
    ++stats_.refused_total;
    return ok;
  }
  by_id_.emplace(job->request.id, job.get());
  ++tenant_requests_[job->request.tenant];
  ++stats_.waiting;
  unfinished_.fetch_add(1);
  inbox_.push_back(std::move(job));
  wake();
  return {};
}

void LoopEmbeddingEngine::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  found->second->cancelled.store(true, std::memory_order_relaxed);
  wake();
}

void LoopEmbeddingEngine::drain(Clock::time_point deadline) {
  const std::lock_guard lock(mutex_);
  drain_deadline_ = deadline;
  wake();
}

// --- The engine's thread ---

void LoopEmbeddingEngine::run() {
  set_usual_slice();
  while (!take_mail()) {
    end_overdue();
    take_fetched();
    const bool worked = step();
    publish();
    if (worked) continue;
    std::unique_lock lock(mutex_);
    const auto has_mail = [&] { return mail_ != mail_seen_; };
    if (fetch_until_) {
      condition_.wait_until(lock, *fetch_until_, has_mail);
    } else {
      condition_.wait(lock, has_mail);
    }
  }
  end_overdue();
  publish();
}

// Whether the engine is to end.
bool LoopEmbeddingEngine::take_mail() {
  std::vector<std::unique_ptr<Job>> arrived;
  {
    const std::lock_guard lock(mutex_);
    if (mail_ == mail_seen_) return ending_;
    mail_seen_ = mail_;
    arrived.swap(inbox_);
    ends_at_ = drain_deadline_;
    ending_ = stopping_;
  }
  for (auto& job : arrived) {
    if (!ending_) begin_fetch(*job);
    auto tenant = std::find_if(tenants_.begin(), tenants_.end(),
                               [&](const Tenant& t) { return t.id == job->request.tenant; });
    if (tenant == tenants_.end()) tenant = tenants_.insert(tenant, {job->request.tenant, {}});
    tenant->jobs.push_back(std::move(job));
  }
  return ending_;
}

// Why a job has to end now, if it has to.
std::optional<Error> LoopEmbeddingEngine::overdue(const Job& job, Clock::time_point now) const {
  if (ending_ || job.cancelled.load(std::memory_order_relaxed)) {
    return Error(ErrorCode::cancelled, "the request was cancelled");
  }
  if (job.request.deadline && now >= *job.request.deadline) {
    return Error(ErrorCode::deadline_exceeded,
                 "the deadline passed after " + std::to_string(job.computed) + " of " +
                     std::to_string(job.request.inputs.size()) + " inputs");
  }
  if (ends_at_ && now >= *ends_at_) {
    return Error(ErrorCode::unavailable, "the engine stopped before the request was finished")
        .with_reason("draining")
        .retry_after(retry_ms);
  }
  if (job.computed == 0 && now >= job.submitted + config_.queue_time) {
    return Error(ErrorCode::resource_exhausted, "the request waited " +
                                                    std::to_string(config_.queue_time.count()) +
                                                    " ms and could not start")
        .with_reason("queue_time")
        .retry_after(retry_ms);
  }
  return std::nullopt;
}

template <class Look>
void LoopEmbeddingEngine::end_some(const Look& look) {
  for (auto tenant = tenants_.begin(); tenant != tenants_.end();) {
    for (auto it = tenant->jobs.begin(); it != tenant->jobs.end();) {
      std::optional<Error> error;
      if (!look(**it, error)) {
        ++it;
        continue;
      }
      auto job = std::move(*it);
      it = tenant->jobs.erase(it);
      end(std::move(job), std::move(error));
    }
    tenant = tenant->jobs.empty() ? tenants_.erase(tenant) : std::next(tenant);
  }
}

void LoopEmbeddingEngine::end_overdue() {
  const auto now = Clock::now();
  end_some([&](const Job& job, std::optional<Error>& error) {
    error = overdue(job, now);
    return error.has_value();
  });
}

// Asks the tier for what it has of a request, where that is expected to be faster than computing.
void LoopEmbeddingEngine::begin_fetch(Job& job) {
  if (config_.tier == nullptr) return;
  auto fetch = config_.tier->look_up(job.request.tenant, job.request.inputs);
  if (fetch == nullptr) return;
  auto wait = most_wait;
  if (counters_.tokens_total > 0) {
    std::size_t tokens = 0;
    for (const auto input : fetch->inputs()) tokens += job.request.inputs[input].size();
    const double seconds = static_cast<double>(tokens) * counters_.step_seconds_total /
                           static_cast<double>(counters_.tokens_total);
    if (fetch->read_seconds() >= seconds) return;
    wait = std::clamp(std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000)),
                      least_wait, most_wait);
  }
  job.fetch_until = Clock::now() + wait;
  job.fetch = std::move(fetch);
  job.fetch->start([this] {
    const std::lock_guard lock(mutex_);
    wake();
  });
}

// What has come is taken; what has not come in time is computed.
void LoopEmbeddingEngine::take_fetched() {
  const auto now = Clock::now();
  fetch_until_.reset();
  end_some([&](Job& job, std::optional<Error>&) {
    if (job.fetch == nullptr) return false;
    if (!job.fetch->done() && now < job.fetch_until) {
      fetch_until_ = std::min(job.fetch_until, fetch_until_.value_or(job.fetch_until));
      return false;
    }
    auto vectors = job.fetch->take();
    for (std::size_t i = 0; i < vectors.size(); ++i) {
      if (vectors[i].empty()) continue;
      const auto input = job.fetch->inputs()[i];
      job.vectors[input] = std::move(vectors[i]);
      const auto tokens = static_cast<std::uint32_t>(job.request.inputs[input].size());
      job.cached_tokens += tokens;
      ++counters_.cached_inputs_total;
      counters_.cached_tokens_total += tokens;
    }
    job.fetch.reset();
    job.next = job.missing_from(0);
    return job.complete();
  });
}

// An input of each tenant in turn, until the batch is full or nothing more fits. Within a tenant,
// in order of arrival; what waits for vectors is passed by.
void LoopEmbeddingEngine::choose_batch() {
  batch_.clear();
  inputs_.clear();
  using Jobs = std::list<std::unique_ptr<Job>>;
  struct Turn {
    std::list<Tenant>::iterator tenant;
    Jobs::iterator job;
    std::size_t input;
  };
  const auto begin_at = [](Turn& turn, Jobs::iterator job) {
    while (job != turn.tenant->jobs.end() && (*job)->fetch != nullptr) ++job;
    turn.job = job;
    turn.input = job != turn.tenant->jobs.end() ? (*job)->next : 0;
    return job != turn.tenant->jobs.end();
  };
  std::vector<Turn> turns;
  for (auto it = tenants_.begin(); it != tenants_.end(); ++it) {
    Turn turn{it, {}, 0};
    if (begin_at(turn, it->jobs.begin())) turns.push_back(turn);
  }
  std::size_t tokens = 0;
  std::size_t i = 0;
  while (!turns.empty() && batch_.size() < config_.max_batch) {
    Turn& turn = turns[i];
    Job& job = **turn.job;
    const auto& input = job.request.inputs[turn.input];
    if (tokens + input.size() > config_.limits.tokens) break;
    tokens += input.size();
    batch_.push_back({&job, turn.input});
    inputs_.emplace_back(input);
    turn.input = job.missing_from(turn.input + 1);
    if (turn.input == job.vectors.size() && !begin_at(turn, std::next(turn.job))) {
      turns.erase(turns.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
    if (i >= turns.size()) i = 0;
  }
  // The next step begins with the tenant whose turn it was.
  if (!turns.empty()) {
    tenants_.splice(tenants_.end(), tenants_, tenants_.begin(), turns[i].tenant);
  }
}

bool LoopEmbeddingEngine::step() {
  choose_batch();
  if (batch_.empty()) return false;
  const auto begin = Clock::now();
  const std::size_t hidden = model_->info().hidden;
  const auto* out = reinterpret_cast<const float*>(out_.data());
  std::optional<Error> failure;
  try {
    model_->embed(inputs_, reinterpret_cast<float*>(out_.data()));
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      keep(*batch_[i].job, batch_[i].input, {out + i * hidden, hidden});
    }
  } catch (const std::exception& e) {
    failure = Error(ErrorCode::internal, std::string("the engine's step failed: ") + e.what());
  }
  ++counters_.steps_total;
  counters_.step_seconds_total += std::chrono::duration<double>(Clock::now() - begin).count();
  end_some([&](const Job& job, std::optional<Error>& error) {
    if (failure && std::ranges::find(batch_, &job, &Place::job) != batch_.end()) error = failure;
    return error || job.complete();
  });
  return true;
}

// A vector that was computed.
void LoopEmbeddingEngine::keep(Job& job, std::size_t input, std::span<const float> vector) {
  const auto& tokens = job.request.inputs[input];
  job.vectors[input].assign(vector.begin(), vector.end());
  job.next = job.missing_from(job.next);
  ++job.computed;
  ++counters_.inputs_total;
  counters_.tokens_total += tokens.size();
  if (config_.tier == nullptr || job.request.no_store) return;
  config_.tier->offer(job.request.tenant, tokens, vector);
}

void LoopEmbeddingEngine::end(std::unique_ptr<Job> job, std::optional<Error> error) {
  {
    const std::lock_guard lock(mutex_);
    by_id_.erase(job->request.id);
    const auto tenant = tenant_requests_.find(job->request.tenant);
    if (--tenant->second == 0) tenant_requests_.erase(tenant);
    if (!error) ++counters_.finished_total;
    if (error && error->code == ErrorCode::cancelled) ++counters_.cancelled_total;
    if (error && error->reason == "queue_time") ++stats_.refused_total;
  }
  // Who hears the end may look at the ledger: what the request held is given back before.
  const auto callback = std::move(job->callback);
  EmbeddingOutcome outcome{std::move(job->vectors), job->cached_tokens};
  job.reset();
  try {
    if (error) {
      callback(fail(std::move(*error)));
    } else {
      callback(std::move(outcome));
    }
  } catch (...) {
    // The listener's failure is its own: the loop serves others too.
  }
  unfinished_.fetch_sub(1);
}

void LoopEmbeddingEngine::publish() {
  EmbeddingStats now = counters_;
  for (const Tenant& tenant : tenants_) {
    for (const auto& job : tenant.jobs) ++(job->computed == 0 ? now.waiting : now.running);
  }
  const std::lock_guard lock(mutex_);
  now.waiting += static_cast<std::uint32_t>(inbox_.size());
  now.refused_total = stats_.refused_total;
  stats_ = now;
}

}  // namespace

std::uint64_t EmbeddingEngine::required_bytes(std::uint32_t max_batch, std::uint32_t hidden) {
  return std::uint64_t{max_batch} * hidden * sizeof(float);
}

Result<std::unique_ptr<EmbeddingEngine>> EmbeddingEngine::start(
    std::unique_ptr<EmbeddingModel> model, const EmbeddingEngineConfig& config, Ledger& ledger) {
  if (config.limits.tokens == 0 || config.limits.context_tokens == 0 || config.max_batch == 0 ||
      config.request_inputs == 0) {
    return fail(ErrorCode::invalid_argument,
                "limits.tokens, limits.context_tokens, max_batch and request_inputs must be at "
                "least 1");
  }
  auto out =
      Arena::make(ledger.account(Component::activations, config.model_version, shared_tenant),
                  required_bytes(config.max_batch, model->info().hidden));
  if (!out) return fail(std::move(out.error()));
  return std::make_unique<LoopEmbeddingEngine>(std::move(model), config, ledger, std::move(*out));
}

}  // namespace plimsoll
