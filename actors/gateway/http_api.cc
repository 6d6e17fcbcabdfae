#include "actors/gateway/http_api.h"

#include <ctime>

#include "actors/gateway/console.h"
#include "actors/gateway/http_text.h"
#include "actors/gateway/listen_address.h"

namespace plimsoll {

enum class HttpApi::Endpoint : std::uint8_t {
  none,
  about,
  health,
  ready,
  metrics,
  console,
  console_data,
  models,
  model,
  chat,
  completions,
  embeddings,
};

// The requests of one call that run in the cluster. What has not ended when the call is over, for
// whatever reason, is cancelled.
class RunningCalls {
 public:
  RunningCalls(HttpConnection& connection, Account& account)
      : connection_(connection),
        account_(account),
        events_(std::make_shared<AnswerEvents>(connection.waker(), account)) {
    connection_.set_interrupt([this](const Error& error) { interrupt(error); });
  }
  RunningCalls(const RunningCalls&) = delete;
  RunningCalls& operator=(const RunningCalls&) = delete;
  ~RunningCalls() {
    connection_.set_interrupt(nullptr);
    events_->close();
    for (const auto& stream : streams_) {
      if (stream) stream->cancel();
    }
    if (cancel_embed_) cancel_embed_();
  }

  void generate(Frontend& frontend, const Caller& caller, std::vector<GenerateRequest> requests);
  void embed(Frontend& frontend, const Caller& caller, EmbedRequest request);

  Account& account() { return account_; }
  const AnswerEvents& events() const { return *events_; }
  std::vector<AnswerEvent> take() {
    auto events = events_->take();
    for (const auto& event : events) {
      if (event.limits) connection_.set_headers(rate_limit_headers(*event.limits));
    }
    return events;
  }
  std::size_t requests() const { return streams_.size(); }
  void consumed(std::size_t request, std::uint32_t tokens) {
    if (tokens > 0 && streams_[request]) streams_[request]->consumed(tokens);
  }
  // No need to cancel this one any more. Adds up the usage.
  void ended(std::size_t request, const GenerationUsage& usage) {
    streams_[request] = nullptr;
    ++ended_;
    usage_.prompt_tokens += usage.prompt_tokens;
    usage_.cached_tokens += usage.cached_tokens;
    usage_.completion_tokens += usage.completion_tokens;
  }
  void embed_ended() { cancel_embed_ = nullptr; }
  bool all_ended() const { return ended_ == streams_.size(); }
  const GenerationUsage& usage() const { return usage_; }

 private:
  void interrupt(const Error& error) {
    if (cancel_embed_) {
      events_->push({0, Result<EmbedResponse>(fail(error))});
    } else {
      events_->push({0, GenerationEnd{{}, error}});
    }
  }

  HttpConnection& connection_;
  Account& account_;
  std::shared_ptr<AnswerEvents> events_;
  std::vector<std::shared_ptr<GenerationStream>> streams_;
  std::function<void()> cancel_embed_;
  std::size_t ended_ = 0;
  GenerationUsage usage_;
};

namespace {

class Listener final : public GenerationListener {
 public:
  Listener(std::shared_ptr<AnswerEvents> events, std::uint32_t request)
      : events_(std::move(events)), request_(request) {}
  void on_limits(const RateLimits& limits) override { limits_ = limits; }
  void on_delta(GenerationDelta&& delta) override { push(std::move(delta)); }
  void on_choice_end(std::uint32_t choice, FinishReason reason) override {
    push(ChoiceEnd{choice, reason});
  }
  void on_end(const GenerationUsage& usage, std::optional<Error> error) override {
    push(GenerationEnd{usage, std::move(error)});
  }

 private:
  template <class What>
  void push(What what) {
    events_->push({request_, std::move(what), std::exchange(limits_, std::nullopt)});
  }

  std::optional<RateLimits> limits_;
  std::shared_ptr<AnswerEvents> events_;
  std::uint32_t request_;
};

// In one piece. One choice of 8192 tokens with 20 alternatives each takes half of it.
constexpr std::uint64_t max_answer_bytes = 64_MiB;

constexpr std::string_view model_prefix = "/v1/models/";

HttpResponse json_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

// The body, and the tree that the parser builds, are gone when this returns; `body.memory` is then
// that of the call.
template <class Call>
Result<Call> parse(HttpBody& body, RequestMemory& memory,
                   Result<Call> (*parser)(std::string_view, const HoldBytes&)) {
  const std::string text = std::move(body.text);
  std::optional<std::uint64_t> refused;
  const auto hold = [&](std::uint64_t bytes) {
    if (body.memory.hold(bytes)) return true;
    refused = bytes;
    return false;
  };
  auto call = parser(text, hold);
  if (refused) return fail(request_memory_taken(memory, *refused));
  body.memory.resize(text.size());
  return call;
}

}  // namespace

void RunningCalls::generate(Frontend& frontend, const Caller& caller,
                            std::vector<GenerateRequest> requests) {
  for (auto& request : requests) {
    request.id = connection_.request_id();
    const auto index = static_cast<std::uint32_t>(streams_.size());
    streams_.push_back(
        frontend.generate(caller, std::move(request), std::make_shared<Listener>(events_, index)));
  }
}

void RunningCalls::embed(Frontend& frontend, const Caller& caller, EmbedRequest request) {
  cancel_embed_ = frontend.embed(
      caller, std::move(request),
      [events = events_](Result<EmbedResponse> response, const std::optional<RateLimits>& limits) {
        events->push({0, std::move(response), limits});
      });
}

asio::awaitable<void> HttpApi::answer(HttpConnection& connection) {
  const HttpHead& head = connection.head();
  Endpoint endpoint = Endpoint::none;
  if (head.path == "/") endpoint = Endpoint::about;
  if (head.path == "/health") endpoint = Endpoint::health;
  if (head.path == "/ready") endpoint = Endpoint::ready;
  if (head.path == "/metrics") endpoint = Endpoint::metrics;
  if (head.path == "/console") endpoint = Endpoint::console;
  if (head.path == "/console/data") endpoint = Endpoint::console_data;
  if (head.path == "/v1/models") endpoint = Endpoint::models;
  if (head.path.starts_with(model_prefix)) endpoint = Endpoint::model;
  if (head.path == "/v1/chat/completions") endpoint = Endpoint::chat;
  if (head.path == "/v1/completions") endpoint = Endpoint::completions;
  if (head.path == "/v1/embeddings") endpoint = Endpoint::embeddings;

  HttpResponse response;
  const bool post = endpoint >= Endpoint::chat;
  const bool get = head.method == "GET" || head.method == "HEAD";
  if (endpoint == Endpoint::none && head.path != "*") {
    const Error error(ErrorCode::not_found, "there is nothing at " + log_word(head.target));
    response = error_response(error);
  } else if (head.method == "OPTIONS") {
    response.status = 204;
    response.headers.emplace_back("Allow", post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
  } else if (post && head.method == "POST") {
    co_await call(connection, endpoint);
    co_return;
  } else if (post || !get) {
    const Error error(ErrorCode::unsupported,
                      log_word(head.path) + " takes no " + log_word(head.method));
    response = error_response(405, error);
    response.headers.emplace_back("Allow", post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
  } else {
    response = look_up(endpoint, head);
  }
  co_await connection.respond(response);
}

Result<Caller> HttpApi::authenticate(const HttpHead& head) const {
  const std::string_view key = bearer_token(head.authorization);
  if (key.empty() && !head.authorization.empty()) {
    return fail(ErrorCode::unauthenticated, "the Authorization header must be 'Bearer KEY'");
  }
  return frontend_.authenticate(key);
}

HttpResponse HttpApi::look_up(Endpoint endpoint, const HttpHead& head) const {
  switch (endpoint) {
    case Endpoint::about: return about();
    case Endpoint::health: return json_response(R"({"status":"ok"})");
    case Endpoint::ready: return ready();
    case Endpoint::metrics: return metrics(head);
    case Endpoint::console: return console_page();
    case Endpoint::console_data: return console_data(head);
    default: return models(head, endpoint == Endpoint::model);
  }
}

HttpResponse HttpApi::about() const {
  return json_response(R"({"name":"plimsoll","version":")" + frontend_.status().version +
                       R"(","openai_base_url":"/v1","endpoints":["/v1/chat/completions",)"
                       R"("/v1/completions","/v1/embeddings","/v1/models","/health","/ready",)"
                       R"("/metrics","/console"]})");
}

HttpResponse HttpApi::ready() const {
  if (!shared_.stopping && frontend_.ready()) return json_response(R"({"status":"ready"})");
  return error_response(Error(ErrorCode::unavailable, "the server is starting or draining"));
}

HttpResponse HttpApi::metrics(const HttpHead& head) const {
  if (!is_loopback(shared_.config.listen.host)) {
    const auto caller = authenticate(head);
    if (!caller) return error_response(caller.error());
    if (!caller->is_operator) {
      return error_response(Error(ErrorCode::permission_denied, "metrics need an operator's key"));
    }
  }
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  std::string& text = response.body;
  text = frontend_.metrics();
  const auto add = [&](const std::string& name, const char* type, const char* help) {
    text += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
  };
  const auto value = [&](const std::string& series, std::uint64_t number) {
    text += series + " " + std::to_string(number) + "\n";
  };
  add("plimsoll_http_connections", "gauge", "Open HTTP connections.");
  value("plimsoll_http_connections", shared_.connections);
  add("plimsoll_http_connections_refused_total", "counter", "Connections over the limit.");
  value("plimsoll_http_connections_refused_total", shared_.connections_refused_total);
  add("plimsoll_request_memory_bytes", "gauge",
      "Held for bodies, for reading them, and for answers in one piece.");
  value("plimsoll_request_memory_bytes", shared_.memory.held_bytes());
  add("plimsoll_http_responses_total", "counter", "Answers, by class of status.");
  for (int digit = 2; digit <= 5; ++digit) {
    value("plimsoll_http_responses_total{status=\"" + std::to_string(digit) + "xx\"}",
          shared_.responses_total[digit]);
  }
  return response;
}

HttpResponse HttpApi::console_data(const HttpHead& head) const {
  const auto caller = authenticate(head);
  if (!caller) return error_response(caller.error());
  if (!caller->is_operator) {
    return error_response(
        Error(ErrorCode::permission_denied, "the console needs an operator's key"));
  }
  const auto query = parse_console_query(head.target);
  if (!query) return error_response(query.error());
  HttpResponse response =
      json_response(console_json(frontend_.console(*query), frontend_.status()));
  response.headers.emplace_back("Cache-Control", "no-store");
  return response;
}

HttpResponse HttpApi::models(const HttpHead& head, bool one) const {
  const auto caller = authenticate(head);
  if (!caller) return error_response(caller.error());
  const auto cards = frontend_.models();
  if (!one) return json_response(models_json(cards));
  const std::string name = head.path.substr(model_prefix.size());
  for (const auto& card : cards) {
    if (card.name == name) return json_response(model_json(card));
  }
  return error_response(Error(ErrorCode::not_found, "there is no model named '" + name + "'")
                            .with_param("model")
                            .with_reason("model_not_found"));
}

asio::awaitable<void> HttpApi::call(HttpConnection& connection, Endpoint endpoint) {
  const HttpHead& head = connection.head();
  HttpResponse refusal;
  auto caller = authenticate(head);
  if (!caller) {
    refusal = error_response(caller.error());
    co_await connection.respond(refusal);
    co_return;
  }
  if (!connection.set_tenant(caller->tenant)) {
    refusal = error_response(too_many_connections_of_the_tenant());
    co_await connection.respond(refusal);
    co_return;
  }
  // Anything but JSON is what a web page may send unasked to a server on its user's machine.
  if (media_type(head.content_type) != "application/json" ||
      !(head.content_encoding.empty() || same_word(head.content_encoding, "identity"))) {
    const Error error(
        ErrorCode::unsupported,
        "the body must be JSON, not compressed: send 'Content-Type: application/json'");
    refusal = error_response(415, error);
    co_await connection.respond(refusal);
    co_return;
  }
  const auto charged = endpoint == Endpoint::embeddings ? plimsoll::Endpoint::embeddings
                       : endpoint == Endpoint::chat     ? plimsoll::Endpoint::chat_completions
                                                        : plimsoll::Endpoint::completions;
  if (auto admitted = frontend_.admits(*caller); !admitted) {
    refusal = error_response(admitted.error());
    co_await connection.respond(refusal);
    co_return;
  }
  Account& account = shared_.ledger.account(Component::rpc, "", caller->tenant, charged);
  auto body = co_await connection.read_body(caller->tenant, account);
  if (!body) {
    co_await connection.respond(body.error());
    co_return;
  }
  std::optional<Error> wrong;
  if (endpoint == Endpoint::embeddings) {
    auto call = parse(*body, shared_.memory, parse_embedding_call);
    if (call) {
      co_await embed(connection, std::move(*caller), std::move(*call), std::move(body->memory));
      co_return;
    }
    wrong = std::move(call.error());
  } else {
    auto call = parse(*body, shared_.memory,
                      endpoint == Endpoint::chat ? parse_chat_call : parse_completion_call);
    if (call) {
      co_await generate(connection, std::move(*caller), std::move(*call), std::move(body->memory));
      co_return;
    }
    wrong = std::move(call.error());
  }
  refusal = error_response(*wrong);
  co_await connection.respond(refusal);
}

AnswerHead HttpApi::make_head(const GenerationCall& call) const {
  AnswerHead head;
  head.chat = call.chat;
  head.logprobs = call.logprobs;
  head.include_usage = call.include_usage;
  head.id = make_answer_id(call.chat ? "chatcmpl-" : "cmpl-");
  head.model = call.requests.front().model;
  head.created = static_cast<std::uint64_t>(std::time(nullptr));
  for (const auto& card : frontend_.models()) {
    if (card.name == head.model) {
      head.fingerprint = "fp_" + hex_number(std::hash<std::string>{}(card.version));
    }
  }
  return head;
}

asio::awaitable<void> HttpApi::generate(HttpConnection& connection, Caller caller,
                                        GenerationCall call, RequestLease memory) {
  AnswerHead head = make_head(call);
  const std::uint32_t choices = call.choices();
  const auto charged = endpoint_of(call.requests.front());
  RunningCalls calls(connection,
                     shared_.ledger.account(Component::rpc, "", caller.tenant, charged));
  calls.generate(frontend_, caller, std::move(call.requests));
  memory.resize(0);  // the frontend has its own
  if (call.stream) {
    co_await answer_stream(connection, calls, std::move(head), choices);
  } else {
    co_await answer_whole(connection, calls, std::move(head), choices, std::move(memory));
  }
}

asio::awaitable<void> HttpApi::answer_whole(HttpConnection& connection, RunningCalls& calls,
                                            AnswerHead head, std::uint32_t choices,
                                            RequestLease memory) {
  const auto all = static_cast<std::uint32_t>(calls.requests() * choices);
  WholeAnswer answer(std::move(head), all);
  HttpResponse response;
  while (!calls.all_ended()) {
    if (!co_await connection.wait_for_events(calls.events())) co_return;
    for (auto& event : calls.take()) {
      const std::uint32_t first = event.request * choices;
      if (const auto* delta = std::get_if<GenerationDelta>(&event.what)) {
        answer.add(first + delta->choice, *delta);
        calls.consumed(event.request, delta->token_count);
      } else if (const auto* end = std::get_if<ChoiceEnd>(&event.what)) {
        answer.end(first + end->choice, end->reason);
      } else if (auto* last = std::get_if<GenerationEnd>(&event.what)) {
        if (last->error) {
          response = error_response(*last->error);
          co_await connection.respond(response);
          co_return;
        }
        calls.ended(event.request, last->usage);
      }
    }
    const std::uint64_t bytes = 2 * answer.bytes();  // as it is kept, and as the JSON it becomes
    const std::uint64_t most = std::min(max_answer_bytes, shared_.memory.most_bytes());
    if (bytes > most || !memory.hold(bytes)) {
      const Error error(ErrorCode::invalid_argument,
                        "the answer takes more than " + std::to_string(most) +
                            " bytes: ask for fewer choices, tokens or logprobs, or stream it");
      response = error_response(bytes > most ? error : request_memory_taken(shared_.memory, bytes));
      co_await connection.respond(response);
      co_return;
    }
  }
  response.body = answer.json(calls.usage());
  co_await connection.respond(response);
}

asio::awaitable<void> HttpApi::answer_stream(HttpConnection& connection, RunningCalls& calls,
                                             AnswerHead head, std::uint32_t choices) {
  const auto all = static_cast<std::uint32_t>(calls.requests() * choices);
  StreamedAnswer answer(std::move(head), all);
  std::vector<std::uint32_t> tokens(calls.requests());
  bool begun = false;
  while (!calls.all_ended()) {
    if (!co_await connection.wait_for_events(calls.events())) co_return;
    std::string text;
    std::optional<Error> failure;
    for (auto& event : calls.take()) {
      const std::uint32_t first = event.request * choices;
      if (const auto* delta = std::get_if<GenerationDelta>(&event.what)) {
        text += answer.add(first + delta->choice, *delta);
        tokens[event.request] += delta->token_count;
      } else if (const auto* end = std::get_if<ChoiceEnd>(&event.what)) {
        text += answer.end(first + end->choice, end->reason);
      } else if (auto* last = std::get_if<GenerationEnd>(&event.what)) {
        if (!last->error) calls.ended(event.request, last->usage);
        if (last->error && !failure) failure = std::move(last->error);
      }
    }
    if (failure && !begun) {
      const HttpResponse response = error_response(*failure);
      co_await connection.respond(response);
      co_return;
    }
    if (failure) text += StreamedAnswer::failed(*failure);
    if (!failure && calls.all_ended()) text += answer.finish(calls.usage());
    if (!text.empty()) {
      if (!begun) connection.begin_stream();
      begun = true;
      const Charge sending(calls.account(), text.capacity());
      if (!co_await connection.write_stream(text)) co_return;
    }
    // Only what the connection has taken makes room for more.
    for (std::size_t i = 0; i < tokens.size(); ++i) calls.consumed(i, std::exchange(tokens[i], 0));
    if (failure) break;
  }
  co_await connection.end_stream();
}

asio::awaitable<void> HttpApi::embed(HttpConnection& connection, Caller caller, EmbeddingCall call,
                                     RequestLease memory) {
  const std::string model = call.request.model;
  RunningCalls calls(connection, shared_.ledger.account(Component::rpc, "", caller.tenant,
                                                        plimsoll::Endpoint::embeddings));
  calls.embed(frontend_, caller, std::move(call.request));
  memory.resize(0);  // the frontend has its own
  if (!co_await connection.wait_for_events(calls.events())) co_return;
  auto events = calls.take();
  const auto& result = std::get<Result<EmbedResponse>>(events.front().what);
  if (result) calls.embed_ended();
  HttpResponse response;
  const std::uint64_t bytes = result ? predict_embeddings_bytes(*result) : 0;
  if (!result) {
    response = error_response(result.error());
  } else if (!memory.hold(bytes)) {
    response = error_response(request_memory_taken(shared_.memory, bytes));
  } else {
    response.body = embeddings_json(*result, model, call.base64);
  }
  co_await connection.respond(response);
}

}  // namespace plimsoll
