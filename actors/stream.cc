#include <spdlog/spdlog.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "actors/prompt_tokens.h"
#include "actors/requests.h"
#include "actors/text_stream.h"
#include "engine/tokenizer/utf8.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

// For tokens from the disk: a text that takes longer to tokenize is hardly allowed.
constexpr std::chrono::milliseconds token_wait{50};

struct Choice {
  Choice(const Tokenizer& tokenizer, std::vector<std::string> stops)
      : text(tokenizer, std::move(stops)) {}

  TextStream text;
  std::deque<TokenId> held;       // tokens whose text is held back
  std::deque<TokenText> unsent;   // their log-probabilities, if asked for
  std::vector<TokenId> ids;       // tokens that are done with and in no delta yet
  std::uint32_t uncounted = 0;    // tokens that no delta has reported
  std::uint32_t owed_credit = 0;  // taken by the client, not given back to the engine
  bool echoed = false;
  bool closed = false;    // the client has seen its end
  bool finished = false;  // the engine is done with it
  std::optional<Clock::time_point> last_token;
};

struct StreamState {
  using Self = StreamActor::stateful_pointer<StreamState>;
  explicit StreamState(Self actor) : self(actor) {}

  // An actor that is ended from outside, or by an exception, still owes its client an answer.
  ~StreamState() {
    if (!open || ended) return;
    try {
      caf::anon_send(open->services->router, all_unfinished());
      end(open->services->open.closed()
              ? Error(ErrorCode::unavailable, "the server stopped before the answer was complete")
                    .retry_after(1000)
              : Error(ErrorCode::internal, "the request failed; the server's log says why"));
    } catch (const std::exception& error) {
      spdlog::error("event=stream_end_failed error=\"{}\"", error.what());
    }
  }

  Self self;
  std::unique_ptr<OpenGeneration> open;
  std::optional<PromptTokens> prompt_tokens;  // until the prompt is there
  std::vector<Choice> choices;
  std::uint32_t unfinished = 0;
  std::string prompt_text;                                         // for an echo
  std::vector<std::pair<std::uint32_t, std::uint32_t>> in_flight;  // (choice, tokens), a FIFO
  std::size_t in_flight_begin = 0;
  GenerationUsage usage;
  Metrics::TokenTimes times;
  std::uint32_t resumed_tokens = 0;  // of usage.completion_tokens, those generated elsewhere
  std::optional<Error> error;
  bool begun = false;
  bool submitted = false;
  bool ended = false;

  const GenerateRequest& request() const { return open->request; }
  const Tokenizer& tokenizer() const { return open->model->tokenizer(); }
  bool wants_logprobs() const { return request().sampling.top_logprobs >= 0; }
  std::uint32_t index_of(RequestId id) const {
    return static_cast<std::uint32_t>(id.get() - open->id.get());
  }
  RequestId id_of(std::uint32_t choice) const { return RequestId(open->id.get() + choice); }

  // ---- the way in

  void start() {
    if (begun) return submit_prompt();
    begun = true;
    if (open->refusal) return end(std::move(open->refusal));
    const auto& model = *open->model;
    if (auto valid = model.check(request()); !valid) {
      open->request.id.clear();  // it may not be fit for the log
      return end(std::move(valid.error()));
    }
    prompt_tokens.emplace(model, open->services->tokens, open->caller.tenant, request());
    auto waits = prompt_tokens->ask(
        [actor = StreamActor(self)] { caf::anon_send(actor, StartAtom::value); });
    if (!waits) return end(std::move(waits.error()));
    if (!*waits) return submit_prompt();
    self->delayed_send(self, token_wait, StartAtom::value);
  }

  // Once, when the prompt's tokens are there or have been waited for long enough.
  void submit_prompt() {
    if (ended || !prompt_tokens) return;
    const auto& model = *open->model;
    auto prompt = prompt_tokens->take();
    prompt_tokens.reset();
    if (!prompt) return end(std::move(prompt.error()));
    auto cap = model.generation_cap(request(), prompt->size());
    if (!cap) return end(std::move(cap.error()));

    SubmitStream submit;
    submit.tenant = open->caller.tenant;
    submit.endpoint = endpoint_of(request());
    submit.model = model.name();
    submit.sampling = request().sampling;
    submit.max_new_tokens = *cap;
    submit.any_length = !request().max_tokens;
    submit.kv = model.kv_bytes();
    submit.no_store = request().no_store;
    if (!request().ignore_eos) submit.stop_tokens = model.end_tokens();
    auto deadline = open->services->deadline;
    if (request().deadline_ms > 0) {
      deadline = std::min(deadline, std::chrono::milliseconds(request().deadline_ms));
    }
    submit.deadline_ms = static_cast<std::uint32_t>(std::min<std::int64_t>(deadline.count(), ~0U));
    unfinished = request().choices;
    for (std::uint32_t i = 0; i < request().choices; ++i) {
      choices.emplace_back(tokenizer(), request().stop);
      SequenceSpec spec;
      spec.id = id_of(i);
      spec.seed = request().seed.value_or(0) + i;
      spec.credit = open->services->window_tokens;
      if (i < request().resumed.size() && !resume(i, spec)) continue;
      spec.prompt_logprobs =
          request().echo && !choices[i].echoed && (wants_logprobs() || *cap == 0);
      submit.sequences.push_back(std::move(spec));
    }
    usage.prompt_tokens = static_cast<std::uint32_t>(prompt->size());
    if (unfinished == 0) return end({});
    if (request().echo) {
      const auto* text = std::get_if<std::string>(&request().input);
      prompt_text =
          text != nullptr ? replace_ill_formed(*text) : tokenizer().decode(*prompt, false);
    }
    prompt->shrink_to_fit();  // the router keeps it
    submit.prompt = std::move(*prompt);
    open->request.input = std::string();  // the text has become tokens
    open->request.stop.clear();
    open->request.resumed.clear();
    // What the router keeps for a replay, and this actor. The engine charges its own copies, but
    // there is room for them only if every choice takes its part of the budget.
    open->memory.resize(open_request_bytes + prompt_text.capacity() +
                        choices.size() *
                            (open_choice_bytes + usage.prompt_tokens * sizeof(TokenId)));
    open->generated.resize(usage.completion_tokens * sizeof(TokenId));
    times = open->services->metrics.token_times(model.name());
    submitted = true;
    self->send(open->services->router, std::move(submit), StreamSink(self));
  }

  // Takes up a choice behind what its client has of it. False if that ends in a stop string
  // already.
  bool resume(std::uint32_t index, SequenceSpec& spec) {
    Choice& choice = choices[index];
    auto& received = open->request.resumed[index];
    const auto count = static_cast<std::uint32_t>(received.tokens.size());
    resumed_tokens += count;
    usage.completion_tokens += count;
    choice.echoed = count > 0;
    auto piece = choice.text.resume(received.tokens, received.text_bytes);
    spec.resumed = std::move(received.tokens);
    if (!piece.text.empty()) {
      GenerationDelta delta;
      delta.choice = index;
      delta.text = std::move(piece.text);
      open->listener->on_delta(std::move(delta));
    }
    if (!piece.stopped) return true;
    close(index, FinishReason::stop);
    choice.finished = true;
    --unfinished;
    return false;
  }

  // ---- the way back

  void receive(StreamEvents& message) {
    message.charge.reset();
    for (auto& event : message.events) {
      const std::uint32_t index = index_of(event.id);
      if (index >= choices.size() || choices[index].finished) continue;
      receive(index, event);
    }
    open->generated.resize(usage.completion_tokens * sizeof(TokenId));
    if (unfinished == 0) end(std::move(error));
  }

  void receive(std::uint32_t index, SequenceEvent& event) {
    Choice& choice = choices[index];
    if (!choice.closed) {
      const bool failed = event.finish == FinishReason::error;
      if (request().echo && !choice.echoed && !failed) echo(index, event);
      const bool stopped = deliver(index, event);
      if (stopped) {
        close(index, FinishReason::stop);
        if (!event.finish) cancel({{event.id}});
      } else if (event.finish == FinishReason::stop || event.finish == FinishReason::length) {
        close(index, *event.finish);
      }
    }
    if (!event.finish) return;
    choice.finished = true;
    --unfinished;
    if (index == 0) usage.cached_tokens = event.usage.cached_tokens;
    if (choice.closed) return;
    choice.closed = true;
    if (!error) {
      error = event.error ? std::move(*event.error)
                          : Error(ErrorCode::unavailable, "the server ended the sequence early")
                                .retry_after(1000);
      cancel(all_unfinished());
    }
  }

  void echo(std::uint32_t index, SequenceEvent& event) {
    choices[index].echoed = true;
    GenerationDelta delta;
    delta.choice = index;
    delta.is_prompt = true;
    delta.text = prompt_text;
    if (wants_logprobs()) {
      for (std::size_t i = 0; i < event.prompt.size(); ++i) {
        delta.tokens.push_back(token_text(event.prompt[i]));
        if (i == 0) delta.tokens.back().logprob.reset();
      }
    }
    open->listener->on_delta(std::move(delta));
  }

  // Hands on the text of an event. True if a stop string came.
  bool deliver(std::uint32_t index, SequenceEvent& event) {
    Choice& choice = choices[index];
    GenerationDelta delta;
    delta.choice = index;
    bool stopped = false;
    const auto take = [&](TextStream::Piece piece) {
      delta.text += piece.text;
      stopped = piece.stopped;
      for (; piece.tokens > 0; --piece.tokens) {
        choice.ids.push_back(choice.held.front());
        choice.held.pop_front();
        if (!wants_logprobs()) continue;
        delta.tokens.push_back(std::move(choice.unsent.front()));
        choice.unsent.pop_front();
      }
    };
    std::uint32_t taken = 0;
    for (const auto& token : event.tokens) {
      ++taken;
      choice.held.push_back(token.id);
      if (wants_logprobs()) choice.unsent.push_back(token_text(token));
      take(choice.text.push(token.id));
      if (stopped) break;
    }
    if (!stopped && event.finish) take(choice.text.finish());
    time(choice, taken);
    usage.completion_tokens += taken;
    choice.uncounted += taken;
    if (delta.text.empty() && delta.tokens.empty()) {
      // Nothing to show yet: the client cannot give this credit back, so it goes back at once.
      give_back(index, std::exchange(choice.uncounted, 0));
      return stopped;
    }
    delta.ids = std::exchange(choice.ids, {});
    delta.token_count = std::exchange(choice.uncounted, 0);
    if (delta.token_count > 0) in_flight.emplace_back(index, delta.token_count);
    open->listener->on_delta(std::move(delta));
    return stopped;
  }

  TokenText token_text(const SampledToken& token) const {
    TokenText out{tokenizer().token_bytes(token.id), token.logprob, {}};
    out.top.reserve(token.top.size());
    for (const auto& top : token.top) {
      out.top.push_back({tokenizer().token_bytes(top.id), top.logprob});
    }
    return out;
  }

  void time(Choice& choice, std::uint32_t tokens) {
    if (tokens == 0) return;
    const auto now = Clock::now();
    const auto seconds = [&](Clock::time_point since) {
      return std::chrono::duration<double>(now - since).count();
    };
    if (choice.last_token) {
      times.next(tokens, seconds(*choice.last_token));
    } else {
      times.first(seconds(open->arrived));
    }
    choice.last_token = now;
  }

  void close(std::uint32_t index, FinishReason reason) {
    choices[index].closed = true;
    open->listener->on_choice_end(index, reason);
  }

  // ---- flow control and ends

  // Deltas are consumed in the order in which they were handed on.
  void consumed(std::uint32_t tokens) {
    while (tokens > 0 && in_flight_begin < in_flight.size()) {
      auto& [index, count] = in_flight[in_flight_begin];
      const std::uint32_t part = std::min(tokens, count);
      tokens -= part;
      count -= part;
      give_back(index, part);
      if (count == 0) ++in_flight_begin;
    }
    if (in_flight_begin * 2 > in_flight.size()) {
      in_flight.erase(in_flight.begin(),
                      in_flight.begin() + static_cast<std::ptrdiff_t>(in_flight_begin));
      in_flight_begin = 0;
    }
  }

  // In quarters of the window: a message for each token would cost more than the token.
  void give_back(std::uint32_t index, std::uint32_t tokens) {
    Choice& choice = choices[index];
    choice.owed_credit += tokens;
    if (choice.finished || choice.closed) return;
    if (choice.owed_credit < std::max(1U, open->services->window_tokens / 4)) return;
    self->send(open->services->router,
               AddCredit{id_of(index), std::exchange(choice.owed_credit, 0)});
  }

  CancelSequences all_unfinished() const {
    CancelSequences out;
    for (std::uint32_t i = 0; i < choices.size(); ++i) {
      if (!choices[i].finished) out.ids.push_back(id_of(i));
    }
    return out;
  }

  void cancel(CancelSequences ids) {
    if (!ids.ids.empty()) self->send(open->services->router, std::move(ids));
  }

  // The client's wish. The end follows when the engine has let go.
  void cancel_all() {
    if (ended) return;
    Error cancelled(ErrorCode::cancelled, "the request was cancelled");
    if (!submitted) return end(std::move(cancelled));
    if (!error) error = std::move(cancelled);
    for (auto& choice : choices) choice.closed = true;
    cancel(all_unfinished());
  }

  void end(std::optional<Error> why) {
    ended = true;
    auto& services = *open->services;
    const std::string model = open->model ? open->model->name() : "unknown";
    GenerationUsage here = usage;  // the server that generated the rest has counted it
    here.completion_tokens -= resumed_tokens;
    services.metrics.request_ended(Metrics::Operation::generate, open->caller.tenant, model,
                                   why ? &*why : nullptr, here);
    spdlog::debug(
        "event=request_end request={} id={} tenant={} model={} code={} prompt_tokens={} "
        "cached_tokens={} completion_tokens={} resumed_tokens={}",
        open->id.get(), open->request.id.empty() ? "-" : open->request.id,
        open->caller.tenant.get(), model, why ? to_string(why->code) : "ok", usage.prompt_tokens,
        usage.cached_tokens, usage.completion_tokens, resumed_tokens);
    const auto listener = std::move(open->listener);
    choices.clear();
    open->memory.reset();
    open->generated.reset();
    services.open.leave(open->id.get());
    listener->on_end(usage, std::move(why));
  }
};

StreamActor::behavior_type stream(StreamState::Self self,
                                  const std::shared_ptr<std::unique_ptr<OpenGeneration>>& open) {
  self->state.open = std::move(*open);
  const auto quit_if_ended = [=] {
    if (self->state.ended) self->quit();
  };
  return {
      [=](const RateLimits& limits) { self->state.open->listener->on_limits(limits); },
      [=](StreamEvents& message) {
        self->state.receive(message);
        quit_if_ended();
      },
      [=](StartAtom) {  // and again when the prompt's tokens have come
        self->state.start();
        quit_if_ended();
      },
      [=](CancelAtom) {
        self->state.cancel_all();
        quit_if_ended();
      },
      [=](ConsumedAtom, std::uint32_t tokens) { self->state.consumed(tokens); },
  };
}

}  // namespace

StreamActor spawn_stream(caf::actor_system& system, std::unique_ptr<OpenGeneration> request) {
  auto& open = request->services->open;
  const auto id = request->id.get();
  auto actor =
      system.spawn(stream, std::make_shared<std::unique_ptr<OpenGeneration>>(std::move(request)));
  open.set_actor(id, caf::actor_cast<caf::strong_actor_ptr>(actor));
  caf::anon_send(actor, StartAtom::value);
  return actor;
}

}  // namespace plimsoll
