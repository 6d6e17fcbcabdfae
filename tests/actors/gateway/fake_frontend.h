// A Frontend without a cluster: answers every generation with `max_tokens` tokens "w0 w1 ...", from
// a thread of its own, within a window of credit. Model "fake" works, "busy" and "overloaded"
// refuse, "broken" fails after three tokens. Goes on behind what was resumed, as a cluster does.
// For tests of the gateways and of the SDK.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "actors/frontend.h"

namespace plimsoll {

class FakeFrontend final : public Frontend {
 public:
  static constexpr std::uint32_t window = 64;

  ~FakeFrontend() override {
    const std::lock_guard lock(mutex_);
    for (auto& thread : threads_) thread.join();
  }

  std::atomic<int> running{0};
  std::atomic<int> cancelled{0};
  std::atomic<std::uint32_t> most_ahead{0};  // tokens sent and not consumed
  std::atomic<int> token_delay_us{0};
  std::atomic<int> refusals{0};      // so many requests are `unavailable` from now on
  std::optional<RateLimits> limits;  // told of every request; set before the first

  void revoke(std::string key) {
    const std::lock_guard lock(mutex_);
    revoked_ = std::move(key);
  }
  Result<Caller> authenticate(std::string_view key) const override {
    const std::lock_guard lock(mutex_);
    if (key == "wrong" || (!revoked_.empty() && key == revoked_)) {
      return fail(ErrorCode::unauthenticated, "unknown API key");
    }
    return Caller{TenantId(key.empty() ? "local" : std::string(key)), key != "tenant"};
  }

  Result<void> admits(const Caller& caller) const override {
    if (caller.tenant.get() == "squeezed") {
      return fail(Error(ErrorCode::resource_exhausted, "the server is short of memory")
                      .with_reason("memory_pressure")
                      .retry_after(1000));
    }
    return {};
  }
  std::uint64_t memory_bytes = 64_MiB;  // set before the first request
  RequestMemory& request_memory() override {
    if (!memory_) memory_.emplace(memory_bytes);
    return *memory_;
  }

  std::shared_ptr<GenerationStream> generate(
      const Caller&, GenerateRequest request,
      std::shared_ptr<GenerationListener> listener) override {
    auto stream = std::make_shared<Stream>();
    ++running;
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
    threads_.emplace_back([this, stream, request = std::move(request), listener]() mutable {
      answer(*stream, request, *listener);
      listener.reset();
      --running;
    });
    return stream;
  }

  std::function<void()> embed(const Caller&, EmbedRequest request,
                              EmbedCallback callback) override {
    {
      const std::lock_guard lock(mutex_);
      embed_requests_.push_back(request);
    }
    if (request.model != "fake") {
      callback(fail(ErrorCode::not_found, "no model named '" + request.model + "'"), limits);
      return [] {};
    }
    EmbedResponse response;
    for (std::size_t i = 0; i < request.inputs.size(); ++i) {
      response.embeddings.push_back({1.0F, static_cast<float>(i)});
    }
    response.prompt_tokens = static_cast<std::uint32_t>(request.inputs.size());
    response.cached_tokens = response.prompt_tokens - 1;
    callback(std::move(response), limits);
    return [] {};
  }

  std::vector<GenerateRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

  std::vector<EmbedRequest> embed_requests() const {
    const std::lock_guard lock(mutex_);
    return embed_requests_;
  }

  std::vector<ModelCard> models() const override {
    ModelCard card;
    card.name = "fake";
    card.version = "fake@1";
    card.context_tokens = 4096;
    return {card};
  }
  std::atomic<bool> is_ready{true};
  bool ready() const override { return is_ready; }
  ClusterStatus status() const override {
    ClusterStatus status;
    status.version = "test";
    status.nodes.push_back({"node-1", "ready", {{"fake", EngineStats{}}}});
    return status;
  }
  Result<MemoryReport> memory() const override { return make_memory_report(process_ledger()); }
  Result<std::vector<NodeMemory>> node_memory() const override {
    MemoryReport a;
    a.rows = {
        {Component::weights, "llama@1", "shared", MemoryKind::mapped, 4 << 20, 4 << 20, 3 << 20},
        {Component::kv, "llama@1", "acme", MemoryKind::anonymous, 2 << 20, 3 << 20, 2 << 20,
         Endpoint::chat_completions},
        {Component::kv, "llama@1", "ops", MemoryKind::anonymous, 1 << 20, 1 << 20, 1 << 20,
         Endpoint::completions}};
    a.process = {16 << 20, 15 << 20, 4 << 20, 12 << 20, 0};
    a.cgroup = CgroupMemory{CgroupVersion::v2, "/a", 20 << 20, 64 << 20, 48 << 20, 1, 2, 3, 4, {}};
    a.pressure = MemoryPressure{.some_avg10 = 1.5, .full_avg10 = 0.5, .cgroup_scoped = true};
    a.host_pressure = MemoryPressure{.some_avg10 = 30, .full_avg10 = 10};
    a.allocator = {1 << 20, 2 << 20, 3 << 20, 1 << 18};
    a.ledger_anonymous_bytes = a.ledger_touched_bytes = 3 << 20;
    a.ledger_mapped_bytes = 4 << 20;
    a.unattributed_bytes = 1 << 20;
    a.phases = MemoryPhases{7200, 6 << 20, 4 << 20, 1 << 20, 10};
    MemoryReport b;
    b.rows = {a.rows[1]};
    b.rows[0].model = "bert@1";
    b.process = {8 << 20, 8 << 20, 2 << 20, 6 << 20, 0};
    b.ledger_anonymous_bytes = b.ledger_touched_bytes = 2 << 20;
    return std::vector<NodeMemory>{{"node-a", 0, 1, std::make_shared<const MemoryReport>(a)},
                                   {"node-b", 1.5, 1, std::make_shared<const MemoryReport>(b)}};
  }
  std::string metrics() const override { return "plimsoll_test 1\n"; }
  ConsoleView console_view;  // set before the first request
  ConsoleView console(const ConsoleQuery& query) const override {
    ConsoleView view = console_view;
    std::erase_if(view.points, [&](const auto& p) { return p.id <= query.after_point; });
    std::erase_if(view.events, [&](const auto& e) { return e.id <= query.after_event; });
    return view;
  }
  Administration* administrator = nullptr;
  Administration* administration() override { return administrator; }

 private:
  struct Stream final : GenerationStream {
    void cancel() override {
      const std::lock_guard lock(mutex);
      is_cancelled = true;
      changed.notify_all();
    }
    void consumed(std::uint32_t tokens) override {
      const std::lock_guard lock(mutex);
      outstanding -= tokens;
      changed.notify_all();
    }
    std::mutex mutex;
    std::condition_variable changed;
    bool is_cancelled = false;
    std::uint32_t outstanding = 0;
  };

  void answer(Stream& stream, const GenerateRequest& request, GenerationListener& listener) {
    if (limits) listener.on_limits(*limits);
    if (refusals > 0) {
      --refusals;
      listener.on_end({}, Error(ErrorCode::unavailable, "not now").retry_after(20));
      return;
    }
    if (request.model == "busy") {
      listener.on_end({}, Error(ErrorCode::resource_exhausted, "queue full").retry_after(1500));
      return;
    }
    if (request.model == "overloaded") {
      listener.on_end({}, Error(ErrorCode::resource_exhausted, "no memory")
                              .with_reason("overloaded")
                              .retry_after(3000));
      return;
    }
    if (request.model != "fake" && request.model != "broken") {
      listener.on_end({}, Error(ErrorCode::not_found, "no model named '" + request.model + "'"));
      return;
    }
    GenerationUsage usage{3, 1, 0};
    for (std::uint32_t choice = 0; choice < request.choices; ++choice) {
      if (!answer_choice(stream, request, listener, choice, usage)) return;
    }
    listener.on_end(usage, std::nullopt);
  }

  // False if it has ended the request.
  bool answer_choice(Stream& stream, const GenerateRequest& request, GenerationListener& listener,
                     std::uint32_t choice, GenerationUsage& usage) {
    const auto resumed = request.resumed.empty()
                             ? 0U
                             : static_cast<std::uint32_t>(request.resumed[choice].tokens.size());
    usage.completion_tokens += resumed;
    if (request.echo && resumed == 0) {
      GenerationDelta prompt;
      prompt.choice = choice;
      prompt.text = "<prompt>";
      prompt.is_prompt = true;
      if (request.sampling.top_logprobs >= 0) prompt.tokens.push_back({prompt.text, {}, {}});
      listener.on_delta(std::move(prompt));
    }
    const std::uint32_t count = request.max_tokens.value_or(8);
    for (std::uint32_t i = resumed; i < count; ++i) {
      if (i == 3 && request.model == "broken") {
        listener.on_end(usage, Error(ErrorCode::unavailable, "the node is gone"));
        return false;
      }
      if (const int delay = token_delay_us; delay > 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(delay));
      }
      {
        std::unique_lock lock(stream.mutex);
        stream.changed.wait(lock,
                            [&] { return stream.is_cancelled || stream.outstanding < window; });
        if (stream.is_cancelled) {
          ++cancelled;
          lock.unlock();
          listener.on_end(usage, Error(ErrorCode::cancelled, "cancelled"));
          return false;
        }
        ++stream.outstanding;
        if (stream.outstanding > most_ahead) most_ahead = stream.outstanding;
      }
      GenerationDelta delta;
      delta.choice = choice;
      delta.text = "w" + std::to_string(i) + " ";
      delta.token_count = 1;
      delta.ids = {static_cast<TokenId>(i)};
      if (request.sampling.top_logprobs >= 0) {
        auto& token = delta.tokens.emplace_back(TokenText{delta.text, -0.5F, {}});
        for (int k = 0; k < request.sampling.top_logprobs; ++k) {
          token.top.push_back({k == 0 ? delta.text : "x" + std::to_string(k), -0.5F * (k + 1)});
        }
      }
      ++usage.completion_tokens;
      listener.on_delta(std::move(delta));
    }
    listener.on_choice_end(choice, FinishReason::length);
    return true;
  }

  mutable std::mutex mutex_;
  std::vector<GenerateRequest> requests_;
  std::vector<EmbedRequest> embed_requests_;
  std::vector<std::thread> threads_;
  std::string revoked_;
  std::optional<RequestMemory> memory_;
};

}  // namespace plimsoll
