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

struct Job {
  EmbeddingRequest request;
  EmbeddingCallback callback;
  Charge charge;
  Clock::time_point submitted;
  std::size_t next = 0;  // input to compute
  Vectors vectors;       // of the inputs before it
  std::atomic<bool> cancelled{false};
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
  void end_overdue();
  void choose_batch();
  bool step();
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
  std::vector<Job*> batch_;  // the job of each input of the step
  std::vector<std::span<const TokenId>> inputs_;
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
    const bool worked = step();
    publish();
    if (worked) continue;
    std::unique_lock lock(mutex_);
    condition_.wait(lock, [&] { return mail_ != mail_seen_; });
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
                 "the deadline passed after " + std::to_string(job.next) + " of " +
                     std::to_string(job.request.inputs.size()) + " inputs");
  }
  if (ends_at_ && now >= *ends_at_) {
    return Error(ErrorCode::unavailable, "the engine stopped before the request was finished")
        .with_reason("draining")
        .retry_after(retry_ms);
  }
  if (job.next == 0 && now >= job.submitted + config_.queue_time) {
    return Error(ErrorCode::resource_exhausted, "the request waited " +
                                                    std::to_string(config_.queue_time.count()) +
                                                    " ms and could not start")
        .with_reason("queue_time")
        .retry_after(retry_ms);
  }
  return std::nullopt;
}

void LoopEmbeddingEngine::end_overdue() {
  const auto now = Clock::now();
  for (auto tenant = tenants_.begin(); tenant != tenants_.end();) {
    for (auto it = tenant->jobs.begin(); it != tenant->jobs.end();) {
      auto error = overdue(**it, now);
      if (!error) {
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

// An input of each tenant in turn, until the batch is full or nothing more fits. Within a tenant,
// in order of arrival.
void LoopEmbeddingEngine::choose_batch() {
  batch_.clear();
  inputs_.clear();
  struct Place {
    std::list<std::unique_ptr<Job>>::iterator job;
    std::size_t input;
  };
  std::vector<std::pair<std::list<Tenant>::iterator, Place>> turns;
  for (auto it = tenants_.begin(); it != tenants_.end(); ++it) {
    turns.push_back({it, {it->jobs.begin(), it->jobs.front()->next}});
  }
  std::size_t tokens = 0;
  std::size_t turns_taken = 0;
  for (std::size_t i = 0; !turns.empty() && batch_.size() < config_.max_batch;) {
    auto& [tenant, place] = turns[i];
    Job& job = **place.job;
    const auto& input = job.request.inputs[place.input];
    if (tokens + input.size() > config_.limits.tokens) break;
    tokens += input.size();
    batch_.push_back(&job);
    inputs_.emplace_back(input);
    ++turns_taken;
    if (++place.input == job.request.inputs.size()) {
      place = {std::next(place.job), 0};
      if (place.job != tenant->jobs.end()) place.input = (*place.job)->next;
    }
    if (place.job == tenant->jobs.end()) {
      turns.erase(turns.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
    if (i >= turns.size()) i = 0;
  }
  // The next step begins with the tenant whose turn it was.
  for (std::size_t i = turns_taken % tenants_.size(); i > 0; --i) {
    tenants_.splice(tenants_.end(), tenants_, tenants_.begin());
  }
}

bool LoopEmbeddingEngine::step() {
  if (tenants_.empty()) return false;
  const auto begin = Clock::now();
  choose_batch();
  const std::size_t hidden = model_->info().hidden;
  const auto* out = reinterpret_cast<const float*>(out_.data());
  std::optional<Error> error;
  try {
    model_->embed(inputs_, reinterpret_cast<float*>(out_.data()));
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      Job& job = *batch_[i];
      if (job.vectors.empty()) job.vectors.reserve(job.request.inputs.size());
      job.vectors.emplace_back(out + i * hidden, out + (i + 1) * hidden);
      ++job.next;
      counters_.tokens_total += inputs_[i].size();
    }
    counters_.inputs_total += batch_.size();
  } catch (const std::exception& e) {
    error = Error(ErrorCode::internal, std::string("the engine's step failed: ") + e.what());
  }
  ++counters_.steps_total;
  counters_.step_seconds_total += std::chrono::duration<double>(Clock::now() - begin).count();
  for (auto tenant = tenants_.begin(); tenant != tenants_.end();) {
    for (auto it = tenant->jobs.begin(); it != tenant->jobs.end();) {
      const bool failed =
          error && std::find(batch_.begin(), batch_.end(), it->get()) != batch_.end();
      if (!failed && (*it)->next < (*it)->request.inputs.size()) {
        ++it;
        continue;
      }
      auto job = std::move(*it);
      it = tenant->jobs.erase(it);
      end(std::move(job), failed ? error : std::nullopt);
    }
    tenant = tenant->jobs.empty() ? tenants_.erase(tenant) : std::next(tenant);
  }
  return true;
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
  auto vectors = std::move(job->vectors);
  job.reset();
  try {
    if (error) {
      callback(fail(std::move(*error)));
    } else {
      callback(std::move(vectors));
    }
  } catch (...) {
    // The listener's failure is its own: the loop serves others too.
  }
  unfinished_.fetch_sub(1);
}

void LoopEmbeddingEngine::publish() {
  EmbeddingStats now = counters_;
  for (const Tenant& tenant : tenants_) {
    for (const auto& job : tenant.jobs) ++(job->next == 0 ? now.waiting : now.running);
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
