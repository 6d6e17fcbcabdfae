#include "actors/gateway/rpc_session.h"

#include <kj/debug.h>

#include <deque>

#include "actors/gateway/rpc_operator.h"
#include "actors/gateway/rpc_text.h"
#include "engine/base/result.h"
#include "schema/inference.capnp.h"

namespace plimsoll {

namespace {

kj::ArrayPtr<const kj::byte> data_of(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

Result<GenerateRequest> read_request(schema::GenerateRequest::Reader in) {
  GenerateRequest out;
  out.model = string_of(in.getModel());
  const auto input = in.getInput();
  switch (input.which()) {
    case schema::GenerateRequest::Input::MESSAGES: {
      std::vector<ChatMessage> messages;
      for (const auto message : input.getMessages()) {
        messages.push_back({string_of(message.getRole()), string_of(message.getContent())});
      }
      out.input = std::move(messages);
      break;
    }
    case schema::GenerateRequest::Input::PROMPT: out.input = string_of(input.getPrompt()); break;
    case schema::GenerateRequest::Input::TOKENS: {
      std::vector<TokenId> tokens;
      for (const auto token : input.getTokens()) tokens.push_back(token);
      out.input = std::move(tokens);
      break;
    }
    default:
      return fail(Error(ErrorCode::unsupported, "an input of a kind this server does not know")
                      .with_param("input"));
  }
  if (in.getMaxTokens() > 0) out.max_tokens = in.getMaxTokens();
  auto& sampling = out.sampling;
  sampling.temperature = in.getTemperature();
  sampling.top_p = in.getTopP();
  sampling.top_k = in.getTopK();
  sampling.min_p = in.getMinP();
  sampling.presence_penalty = in.getPresencePenalty();
  sampling.frequency_penalty = in.getFrequencyPenalty();
  sampling.top_logprobs = in.getTopLogprobs();
  if (in.getSeed().isFixed()) out.seed = in.getSeed().getFixed();
  for (const auto stop : in.getStop()) out.stop.push_back(string_of(stop));
  out.choices = in.getChoices();
  out.echo = in.getEcho();
  out.ignore_eos = in.getIgnoreEos();
  out.deadline_ms = in.getDeadlineMs();
  out.id = string_of(in.getRequestId());
  out.no_store = in.getNoStore();
  if (in.getResume().size() > 0 && !out.seed) {
    return fail(Error(ErrorCode::invalid_argument,
                      "resume needs the fixed seed with which the answer was begun")
                    .with_param("seed"));
  }
  for (const auto received : in.getResume()) {
    auto& choice = out.resumed.emplace_back();
    for (const auto id : received.getIds()) choice.tokens.push_back(id);
    choice.text_bytes = received.getTextBytes();
  }
  return out;
}

void write(const GenerationDelta& delta, schema::Delta::Builder out) {
  out.setChoice(delta.choice);
  out.setText(text_of(delta.text));
  out.setTokenCount(delta.token_count);
  out.setIsPrompt(delta.is_prompt);
  auto ids = out.initIds(delta.ids.size());
  for (unsigned i = 0; i < delta.ids.size(); ++i) ids.set(i, delta.ids[i]);
  auto tokens = out.initTokens(delta.tokens.size());
  for (unsigned i = 0; i < delta.tokens.size(); ++i) {
    const auto& token = delta.tokens[i];
    tokens[i].setBytes(data_of(token.bytes));
    tokens[i].setLogprob(token.logprob.value_or(0.0F));
    auto top = tokens[i].initTop(token.top.size());
    for (unsigned j = 0; j < token.top.size(); ++j) {
      top[j].setBytes(data_of(token.top[j].bytes));
      top[j].setLogprob(token.top[j].logprob);
    }
  }
}

// One generate() call. The listener's side is called by actor threads and posts to the loop; all
// else runs on the loop. Pushes go out one at a time, so what waits here is bounded by the
// stream's window of credit.
class Generation final : public GenerationListener,
                         public std::enable_shared_from_this<Generation> {
 public:
  using Done = kj::Own<kj::PromiseFulfiller<void>>;

  Generation(std::shared_ptr<RpcShared> shared, schema::TokenSink::Client sink, Done done)
      : shared_(std::move(shared)), sink_(kj::mv(sink)), done_(kj::mv(done)) {
    shared_->calls.fetch_add(1);
  }
  ~Generation() noexcept override { shared_->calls.fetch_sub(1); }

  void start(const Caller& caller, GenerateRequest request) {
    stream_ = shared_->frontend.generate(caller, std::move(request), shared_from_this());
  }

  void on_delta(GenerationDelta&& delta) override { post({std::move(delta), {}, {}, {}}); }
  void on_choice_end(std::uint32_t choice, FinishReason reason) override {
    post({{}, {{choice, reason}}, {}, {}});
  }
  void on_end(const GenerationUsage& usage, std::optional<Error> error) override {
    post({{}, {}, usage, std::move(error)});
  }

  // The caller has gone. The sink's references are dropped here, on the loop.
  void abandon() {
    abandoned_ = true;
    if (!ended_) stream_->cancel();
    queue_.clear();
    pending_ = nullptr;
    done_ = nullptr;
    sink_ = nullptr;
  }

  const GenerationUsage& usage() const { return usage_; }
  const std::optional<Error>& error() const { return error_; }

 private:
  struct Event {
    std::optional<GenerationDelta> delta;
    std::optional<std::pair<std::uint32_t, FinishReason>> choice_end;
    std::optional<GenerationUsage> end;
    std::optional<Error> error;
  };

  void post(Event event) {
    shared_->mailbox.post(
        [self = shared_from_this(), event = std::make_shared<Event>(std::move(event))] {
          if (self->abandoned_) return;
          self->queue_.push_back(std::move(*event));
          if (!self->sending_) self->start_sending();
        });
  }

  void start_sending() {
    sending_ = true;
    pending_ = drain().eagerlyEvaluate([this](kj::Exception&& e) { done_->reject(kj::mv(e)); });
  }

  // Sends what is queued, one piece after the other.
  kj::Promise<void> drain() {
    if (queue_.empty()) {
      sending_ = false;
      return kj::READY_NOW;
    }
    Event event = std::move(queue_.front());
    queue_.pop_front();
    if (event.end) {
      ended_ = true;
      usage_ = *event.end;
      error_ = std::move(event.error);
      done_->fulfill();
      return kj::READY_NOW;
    }
    const std::uint32_t tokens = event.delta ? event.delta->token_count : 0;
    return send(event).then([this, tokens] {
      if (tokens > 0) stream_->consumed(tokens);
      return drain();
    });
  }

  kj::Promise<void> send(const Event& event) {
    auto& sink = KJ_ASSERT_NONNULL(sink_);
    if (event.delta) {
      auto request = sink.pushRequest();
      write(*event.delta, request.initDelta());
      return request.send();
    }
    auto request = sink.doneRequest();
    request.setChoice(event.choice_end->first);
    request.setReason(static_cast<schema::FinishReason>(event.choice_end->second));
    return request.send().ignoreResult();
  }

  std::shared_ptr<RpcShared> shared_;
  std::shared_ptr<GenerationStream> stream_;
  kj::Maybe<schema::TokenSink::Client> sink_;
  Done done_;
  std::deque<Event> queue_;
  kj::Promise<void> pending_ = nullptr;
  GenerationUsage usage_;
  std::optional<Error> error_;
  bool sending_ = false;
  bool ended_ = false;
  bool abandoned_ = false;
};
static_assert(static_cast<int>(FinishReason::error) ==
              static_cast<int>(schema::FinishReason::ERROR));
static_assert(static_cast<int>(FinishReason::stop) == static_cast<int>(schema::FinishReason::STOP));

// One embed() call: the callback comes from an actor thread, the rest is on the loop.
struct Embedding {
  Embedding(std::shared_ptr<RpcShared> s, kj::Own<kj::PromiseFulfiller<void>> d)
      : shared(std::move(s)), done(kj::mv(d)) {
    shared->calls.fetch_add(1);
  }
  ~Embedding() { shared->calls.fetch_sub(1); }
  std::shared_ptr<RpcShared> shared;
  kj::Own<kj::PromiseFulfiller<void>> done;
  std::function<void()> cancel;
  Result<EmbedResponse> result = EmbedResponse{};
};

class InferenceServer final : public schema::Inference::Server {
 public:
  InferenceServer(std::shared_ptr<RpcShared> shared, Caller caller)
      : shared_(std::move(shared)), caller_(std::move(caller)) {}

  kj::Promise<void> generate(GenerateContext context) override {
    auto request = read_request(context.getParams().getRequest());
    if (!request) {
      write(request.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    auto sink = context.getParams().getSink();
    context.releaseParams();
    context.allowCancellation();
    auto paf = kj::newPromiseAndFulfiller<void>();
    auto generation = std::make_shared<Generation>(shared_, kj::mv(sink), kj::mv(paf.fulfiller));
    generation->start(caller_, std::move(*request));
    return paf.promise
        .then([context, generation]() mutable {
          auto results = context.getResults();
          if (generation->error()) {
            write(*generation->error(), results.initError());
          }
          auto usage = results.initUsage();
          usage.setPromptTokens(generation->usage().prompt_tokens);
          usage.setCachedTokens(generation->usage().cached_tokens);
          usage.setCompletionTokens(generation->usage().completion_tokens);
        })
        .attach(kj::defer([generation] { generation->abandon(); }));
  }

  kj::Promise<void> embed(EmbedContext context) override {
    EmbedRequest request;
    request.model = string_of(context.getParams().getModel());
    request.no_store = context.getParams().getNoStore();
    for (const auto input : context.getParams().getInputs()) {
      request.inputs.emplace_back(string_of(input));
    }
    context.releaseParams();
    context.allowCancellation();
    auto paf = kj::newPromiseAndFulfiller<void>();
    auto call = std::make_shared<Embedding>(shared_, kj::mv(paf.fulfiller));
    call->cancel = shared_->frontend.embed(
        caller_, std::move(request),
        [call, shared = shared_](Result<EmbedResponse> result, const auto&) {
          shared->mailbox.post(
              [call, result = std::make_shared<Result<EmbedResponse>>(std::move(result))] {
                if (call->done.get() == nullptr) return;
                call->result = std::move(*result);
                call->done->fulfill();
              });
        });
    return paf.promise
        .then([context, call]() mutable {
          auto results = context.getResults();
          if (!call->result) {
            write(call->result.error(), results.initError());
            return;
          }
          const auto& vectors = call->result->embeddings;
          auto out = results.initEmbeddings(vectors.size());
          for (unsigned i = 0; i < vectors.size(); ++i) {
            auto row = out.init(i, vectors[i].size());
            for (unsigned j = 0; j < vectors[i].size(); ++j) row.set(j, vectors[i][j]);
          }
          results.setPromptTokens(call->result->prompt_tokens);
          results.setCachedTokens(call->result->cached_tokens);
        })
        .attach(kj::defer([call] {
          call->done = nullptr;
          if (call->cancel) std::exchange(call->cancel, {})();
        }));
  }

  kj::Promise<void> models(ModelsContext context) override {
    const auto cards = shared_->frontend.models();
    auto out = context.getResults().initModels(cards.size());
    for (unsigned i = 0; i < cards.size(); ++i) {
      const auto& card = cards[i];
      out[i].setName(text_of(card.name));
      out[i].setVersion(text_of(card.version));
      out[i].setKind(card.info.kind == ModelKind::causal ? schema::Model::Kind::CAUSAL
                                                         : schema::Model::Kind::EMBEDDING);
      out[i].setArchitecture(text_of(card.info.architecture));
      out[i].setContextTokens(card.context_tokens);
      out[i].setHidden(card.info.hidden);
      out[i].setParameters(card.info.parameters);
      out[i].setVocabularyTokens(card.info.vocab);
      out[i].setQuantization(text_of(card.info.quantization));
    }
    return kj::READY_NOW;
  }

 private:
  std::shared_ptr<RpcShared> shared_;
  Caller caller_;
};

class GatewayServer final : public schema::Gateway::Server {
 public:
  GatewayServer(std::shared_ptr<RpcShared> shared, RpcLogin on_login)
      : shared_(std::move(shared)), on_login_(std::move(on_login)) {}

  kj::Promise<void> login(LoginContext context) override {
    auto caller = shared_->frontend.authenticate(string_of(context.getParams().getApiKey()));
    auto results = context.getResults();
    if (!caller) {
      write(caller.error(), results.initError());
    } else if (auto in = on_login_(&caller->tenant); !in) {
      write(in.error(), results.initError());
    } else {
      results.setSession(kj::heap<InferenceServer>(shared_, std::move(*caller)));
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> administer(AdministerContext context) override {
    const auto key = string_of(context.getParams().getApiKey());
    auto results = context.getResults();
    if (auto good = check_operator(shared_->frontend, key); !good) {
      write(good.error(), results.initError());
    } else if (auto in = on_login_(nullptr); !in) {
      write(in.error(), results.initError());
    } else {
      results.setOperator(make_rpc_operator(shared_, key));
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> ping(PingContext context) override {
    auto results = context.getResults();
    results.setVersion(text_of(shared_->frontend.status().version));
    results.setReady(shared_->frontend.ready());
    return kj::READY_NOW;
  }

 private:
  std::shared_ptr<RpcShared> shared_;
  RpcLogin on_login_;
};

}  // namespace

capnp::Capability::Client make_rpc_bootstrap(std::shared_ptr<RpcShared> shared, RpcLogin on_login) {
  return kj::heap<GatewayServer>(std::move(shared), std::move(on_login));
}

}  // namespace plimsoll
