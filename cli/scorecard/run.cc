#include "cli/scorecard/run.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace plimsoll::cli::scorecard {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

struct Job {
  Request request;
  std::vector<std::int32_t> prompt;
  std::string text;  // for an embedding model
  Clock::time_point due;
};

Outcome perform(client::Client& client, const RunOptions& options, const Job& job,
                const std::stop_token& stop) {
  Outcome out;
  const auto begin = Clock::now();
  out.late_s = std::max(0.0, seconds_between(job.due, begin));
  try {
    if (job.request.embed) {
      const auto answer = client.embed(options.embedding_model.name, {job.text});
      out.prompt_tokens = answer.prompt_tokens;
      out.cached_tokens = answer.cached_tokens;
    } else {
      client::GenerateRequest request;
      request.model = options.model.name;
      request.tokens = job.prompt;
      request.max_tokens = job.request.output_tokens;
      request.ignore_eos = true;  // the answer has the length that the traffic says
      request.seed = mix_bits(options.seed, job.request.index);
      auto last = begin;
      const auto on_delta = [&](const client::Delta& delta) {
        if (delta.ids.empty()) return true;
        const auto now = Clock::now();
        if (!out.first_token_s) {
          out.first_token_s = seconds_between(begin, now);
        } else {
          out.gaps.emplace_back(seconds_between(last, now), delta.ids.size());
        }
        last = now;
        return true;
      };
      const auto answer = client.generate(request, on_delta, stop);
      out.prompt_tokens = answer.usage.prompt_tokens;
      out.cached_tokens = answer.usage.cached_tokens;
      out.generated_tokens = answer.usage.completion_tokens;
      if (answer.choices.at(0).finish_reason == "cancelled") out.refusal = "cancelled";
    }
  } catch (const client::Error& error) {
    out.refusal = error.reason.empty() ? error.code : error.reason;
  }
  out.end_to_end_s = seconds_between(begin, Clock::now());
  return out;
}

// A thread for each request that is open, up to a limit.
class Pool {
 public:
  Pool(const RunOptions& options, std::vector<client::Client>& clients, Tally& tally,
       std::stop_token stop)
      : options_(options), clients_(clients), tally_(tally), stop_(std::move(stop)) {}

  ~Pool() { finish(); }

  // Runs it now; or counts it as not sent.
  void take(Job job) {
    const std::lock_guard lock(mutex_);
    if (open_ == options_.open) {
      tally_.add_not_sent();
      return;
    }
    ++open_;
    jobs_.push_back(std::move(job));
    if (open_ > threads_.size()) {
      threads_.emplace_back([this] { work(); });
    } else {
      wake_.notify_one();
    }
  }

  // Returns when all have ended.
  void finish() {
    {
      const std::lock_guard lock(mutex_);
      finishing_ = true;
      wake_.notify_all();
    }
    for (auto& thread : std::exchange(threads_, {})) thread.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return finishing_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      const auto outcome =
          perform(clients_[job.request.tenant % clients_.size()], options_, job, stop_);
      lock.lock();
      tally_.add(job.request, outcome);
      --open_;
    }
  }

  const RunOptions& options_;
  std::vector<client::Client>& clients_;
  Tally& tally_;
  const std::stop_token stop_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::vector<std::thread> threads_;
  std::uint32_t open_ = 0;  // taken and not ended
  bool finishing_ = false;
};

// Asks for the memory again and again, on a thread of its own.
class Sampler {
 public:
  Sampler(client::Client& client, MemoryLog& log, std::chrono::milliseconds every)
      : client_(client), log_(log) {
    look();  // the first failure is the caller's
    thread_ = std::jthread([this, every](const std::stop_token& stop) {
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any never;
      while (!never.wait_for(lock, stop, every, [] { return false; }) && !stop.stop_requested()) {
        try {
          look();
        } catch (const client::Error&) {
          // A server that has no time for it now may have it again for the next sample.
        }
      }
    });
  }
  void finish() {
    thread_.request_stop();
    thread_.join();
    look();
  }

 private:
  void look() {
    const auto memory = client_.memory();
    std::uint64_t used = 0;
    for (const auto& node : client::Operator(client_).view().nodes) used += node.memory_used_bytes;
    log_.add(seconds_between(start_, Clock::now()), memory, used);
  }

  client::Client& client_;
  MemoryLog& log_;
  const Clock::time_point start_ = Clock::now();
  std::jthread thread_;
};

std::vector<client::Client> connect(const RunOptions& options) {
  std::vector<client::Client> clients;
  auto server = options.server;
  server.retry_ms = 0;  // a refusal is an answer
  if (options.keys.empty()) clients.emplace_back(server);
  for (const auto& key : options.keys) {
    server.api_key = key.api_key;
    clients.emplace_back(server);
  }
  return clients;
}

bool wait_until(Clock::time_point due, const std::stop_token& stop) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any never;
  never.wait_until(lock, stop, due, [] { return false; });
  return !stop.stop_requested();
}

// Sends what the source has, each at its time.
Result<void> send(Source& source, const RunOptions& options, const std::stop_token& stop,
                  Pool& pool, Measured& measured) {
  const auto start = Clock::now();
  for (std::uint64_t taken = 0; options.requests == 0 || taken < options.requests; ++taken) {
    auto next = source.next();
    if (!next) return fail(next.error());
    if (!*next || (*next)->at_s > options.duration_s) break;
    Job job;
    job.request = std::move(**next);
    Request& request = job.request;
    for (const std::uint64_t x :
         {static_cast<std::uint64_t>(request.at_s * 1e6), std::uint64_t{request.tenant},
          std::uint64_t{request.prompt_tokens}, std::uint64_t{request.output_tokens}}) {
      measured.fingerprint = mix_bits(measured.fingerprint, x);
    }
    const auto& model = request.embed ? options.embedding_model : options.model;
    measured.cut += fit(request, model.context_tokens) ? 1 : 0;
    if (request.embed) {
      job.text = text_of(request, options.seed);
    } else {
      job.prompt = prompt_of(request, options.seed, model.vocabulary_tokens);
    }
    job.due = start + std::chrono::duration_cast<Clock::duration>(
                          std::chrono::duration<double>(request.at_s));
    if (!wait_until(job.due, stop)) break;
    pool.take(std::move(job));
  }
  pool.finish();
  measured.seconds = seconds_between(start, Clock::now());
  return {};
}

}  // namespace

std::vector<client::TenantUsage> difference(const std::vector<client::TenantUsage>& before,
                                            std::vector<client::TenantUsage> after) {
  for (auto& now : after) {
    const auto then = std::ranges::find(before, now.tenant, &client::TenantUsage::tenant);
    if (then == before.end()) continue;
    now.requests -= std::min(now.requests, then->requests);
    now.prompt_tokens -= std::min(now.prompt_tokens, then->prompt_tokens);
    now.cached_tokens -= std::min(now.cached_tokens, then->cached_tokens);
    now.generated_tokens -= std::min(now.generated_tokens, then->generated_tokens);
    now.kv_byte_seconds -= std::min(now.kv_byte_seconds, then->kv_byte_seconds);
    for (auto& [reason, count] : now.rejections) {
      const auto found = then->rejections.find(reason);
      if (found != then->rejections.end()) count -= std::min(count, found->second);
    }
    std::erase_if(now.rejections, [](const auto& entry) { return entry.second == 0; });
  }
  std::erase_if(after, [](const auto& u) { return u.requests == 0 && u.rejections.empty(); });
  return after;
}

Result<Measured> run(Source& source, const RunOptions& options, std::stop_token stop) {
  Measured measured{Tally(options.objectives, options.traffic), {}, 0, 0, 0, {}};
  auto clients = connect(options);
  if (!options.memory) {
    Pool pool(options, clients, measured.tally, stop);
    if (auto sent = send(source, options, stop, pool, measured); !sent) return fail(sent.error());
    return measured;
  }
  client::Client observer(options.server);
  client::Operator cluster(observer);
  const auto before = cluster.usage();
  Sampler sampler(observer, measured.memory, options.sample);
  {
    Pool pool(options, clients, measured.tally, stop);
    if (auto sent = send(source, options, stop, pool, measured); !sent) return fail(sent.error());
  }
  sampler.finish();
  measured.usage = difference(before, cluster.usage());
  return measured;
}

}  // namespace plimsoll::cli::scorecard
