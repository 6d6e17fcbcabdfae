#include "client/client.h"

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/compat/tls.h>
#include <kj/debug.h>

#include <fstream>
#include <future>
#include <iterator>
#include <mutex>
#include <thread>

#include "schema/inference.capnp.h"
#include "schema/operator.capnp.h"

namespace plimsoll::client {

namespace {

std::string string_of(capnp::Text::Reader text) { return {text.begin(), text.size()}; }
std::string string_of(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}
kj::StringPtr text_of(const std::string& text) { return {text.c_str(), text.size()}; }

Error error_of(schema::Error::Reader e) {
  return Error(string_of(e.getCode()), string_of(e.getMessage()), string_of(e.getReason()),
               e.getRetryAfterMs());
}

// A failure of the connection or of the protocol, as opposed to an answer that is an error.
Error error_of(const kj::Exception& e, const std::string& address) {
  switch (e.getType()) {
    case kj::Exception::Type::DISCONNECTED: return {"unavailable", "lost the server at " + address};
    case kj::Exception::Type::OVERLOADED:
      return {"unavailable", "no answer from the server at " + address + " in time"};
    default: return {"internal", e.getDescription().cStr()};
  }
}

void write(const GenerateRequest& in, schema::GenerateRequest::Builder out) {
  out.setModel(text_of(in.model));
  auto input = out.initInput();
  if (!in.messages.empty()) {
    auto messages = input.initMessages(in.messages.size());
    for (unsigned i = 0; i < in.messages.size(); ++i) {
      messages[i].setRole(text_of(in.messages[i].role));
      messages[i].setContent(text_of(in.messages[i].content));
    }
  } else if (!in.tokens.empty()) {
    auto tokens = input.initTokens(in.tokens.size());
    for (unsigned i = 0; i < in.tokens.size(); ++i) tokens.set(i, in.tokens[i]);
  } else {
    input.setPrompt(text_of(in.prompt));
  }
  out.setMaxTokens(in.max_tokens);
  out.setTemperature(in.temperature);
  out.setTopP(in.top_p);
  out.setTopK(in.top_k);
  out.setMinP(in.min_p);
  out.setPresencePenalty(in.presence_penalty);
  out.setFrequencyPenalty(in.frequency_penalty);
  if (in.seed) out.getSeed().setFixed(*in.seed);
  auto stop = out.initStop(in.stop.size());
  for (unsigned i = 0; i < in.stop.size(); ++i) stop.set(i, text_of(in.stop[i]));
  out.setTopLogprobs(in.top_logprobs);
  out.setChoices(in.choices);
  out.setEcho(in.echo);
  out.setIgnoreEos(in.ignore_eos);
  out.setDeadlineMs(in.deadline_ms);
}

Delta read(schema::Delta::Reader in) {
  Delta out;
  out.choice = in.getChoice();
  out.text = string_of(in.getText());
  out.is_prompt = in.getIsPrompt();
  for (const auto token : in.getTokens()) {
    Token& t = out.tokens.emplace_back();
    t.bytes = string_of(token.getBytes());
    t.logprob = token.getLogprob();
    for (const auto alternative : token.getTop()) {
      t.top.emplace_back(string_of(alternative.getBytes()), alternative.getLogprob());
    }
  }
  return out;
}

// What the sink and the caller of generate() share; the sink may outlive the call.
struct Answer {
  Generation generation;
  Client::OnDelta on_delta;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> cancel;
  std::exception_ptr thrown;  // by on_delta
};

class Sink final : public schema::TokenSink::Server {
 public:
  explicit Sink(std::shared_ptr<Answer> answer) : answer_(std::move(answer)) {}

  kj::Promise<void> push(PushContext context) override {
    const Delta delta = read(context.getParams().getDelta());
    auto& choices = answer_->generation.choices;
    if (delta.choice >= choices.size()) return kj::READY_NOW;
    choices[delta.choice].text += delta.text;
    if (!answer_->on_delta) return kj::READY_NOW;
    bool go_on = false;
    try {
      go_on = answer_->on_delta(delta);
    } catch (...) {
      answer_->thrown = std::current_exception();
    }
    if (!go_on) {
      answer_->on_delta = nullptr;
      answer_->cancel->fulfill();
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> done(DoneContext context) override {
    static constexpr const char* names[] = {"stop", "length", "cancelled", "error"};
    const auto params = context.getParams();
    const auto reason = static_cast<unsigned>(params.getReason());
    auto& choices = answer_->generation.choices;
    if (params.getChoice() < choices.size()) {
      choices[params.getChoice()].finish_reason = names[std::min(reason, 3U)];
    }
    return kj::READY_NOW;
  }

 private:
  std::shared_ptr<Answer> answer_;
};

struct Connection {
  explicit Connection(kj::Own<kj::AsyncIoStream> s)
      : stream(kj::mv(s)),
        network(*stream, capnp::rpc::twoparty::Side::CLIENT, options()),
        system(capnp::makeRpcClient(network)) {}

  // Answers can be large (embeddings); the server is trusted more than its clients.
  static capnp::ReaderOptions options() {
    capnp::ReaderOptions options;
    options.traversalLimitInWords = 64 << 20;
    return options;
  }
  schema::Gateway::Client gateway() {
    capnp::MallocMessageBuilder message;
    auto vat = message.getRoot<capnp::rpc::twoparty::VatId>();
    vat.setSide(capnp::rpc::twoparty::Side::SERVER);
    return system.bootstrap(vat).castAs<schema::Gateway>();
  }

  kj::Own<kj::AsyncIoStream> stream;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system;
};

}  // namespace

// A thread with an event loop owns the connection; every call runs on it and is waited for.
struct Client::Impl {
  // What a call leaves for the thread that waits.
  struct Outcome {
    std::optional<Error> error;
    // Takes over the error of a call's results; false if there is one.
    template <class Results>
    bool good(const Results& results) {
      if (results.hasError()) error = error_of(results.getError());
      return !error;
    }
  };

  explicit Impl(Options o) : options(std::move(o)) {
    std::promise<void> started;
    thread = std::thread([this, &started] {
      auto context = kj::setupAsyncIo();
      io = &context;
      executor = &kj::getCurrentThreadExecutor();
      auto end = kj::newPromiseAndCrossThreadFulfiller<void>();
      quit = kj::mv(end.fulfiller);
      started.set_value();
      end.promise.wait(context.waitScope);
      disconnect();
      tls = nullptr;
    });
    started.get_future().wait();
  }

  ~Impl() {
    quit->fulfill();
    thread.join();
  }

  // Runs `call(outcome)`, which returns a promise, on the loop, connected; throws Error.
  template <class Call>
  void run(Call call) {
    Outcome outcome;
    const auto failure = kj::runCatchingExceptions([&] {
      executor->executeSync([&]() -> kj::Promise<void> {
        return connect().then([&]() -> kj::Promise<void> {
          if (login_error) {
            outcome.error = login_error;
            return kj::READY_NOW;
          }
          return call(outcome);
        });
      });
    });
    KJ_IF_MAYBE (e, failure) {
      throw error_of(*e, options.address);
    }
    if (outcome.error) throw *outcome.error;
  }

  // Calls that come while a connection is being made share it.
  kj::Promise<void> connect() {
    if (broken) disconnect();
    KJ_IF_MAYBE (promise, connecting) {
      return promise->addBranch();
    }
    auto promise = open().fork();
    auto branch = promise.addBranch();
    connecting = kj::mv(promise);
    return branch.catch_([this](kj::Exception&& e) {
      broken = true;
      kj::throwFatalException(kj::mv(e));
    });
  }

  kj::Promise<void> open() {
    login_error = std::nullopt;
    const std::string host = options.address.substr(0, options.address.rfind(':'));
    auto stream =
        io->provider->getNetwork()
            .parseAddress(text_of(options.address), 8081)
            .then([](kj::Own<kj::NetworkAddress> address) {
              auto connected = address->connect();
              return connected.attach(kj::mv(address));
            })
            .then([this, host](
                      kj::Own<kj::AsyncIoStream> plain) -> kj::Promise<kj::Own<kj::AsyncIoStream>> {
              if (options.ca_file.empty()) return kj::mv(plain);
              return tls_context().wrapClient(kj::mv(plain), text_of(host));
            });
    auto ready = stream.then([this](kj::Own<kj::AsyncIoStream> opened) {
      connection = kj::heap<Connection>(kj::mv(opened));
      // When it breaks, the next call makes a new one.
      watching = connection->network.onDisconnect()
                     .then([this] { broken = true; })
                     .eagerlyEvaluate(nullptr);
      auto request = connection->gateway().loginRequest();
      request.setApiKey(text_of(options.api_key));
      return request.send().then([this](auto response) {
        if (response.hasError()) {
          login_error = error_of(response.getError());
        } else {
          session = response.getSession();
        }
      });
    });
    return io->provider->getTimer().timeoutAfter(options.connect_timeout_ms * kj::MILLISECONDS,
                                                 kj::mv(ready));
  }

  void disconnect() {
    connecting = nullptr;
    watching = nullptr;
    session = nullptr;
    connection = nullptr;
    broken = false;
  }

  kj::TlsContext& tls_context() {
    if (tls.get() == nullptr) {
      std::ifstream in(options.ca_file, std::ios::binary);
      const std::string pem{std::istreambuf_iterator<char>(in), {}};
      KJ_REQUIRE(!pem.empty(), "cannot read the CA file", options.ca_file.c_str());
      const kj::TlsCertificate authority(text_of(pem));
      kj::TlsContext::Options tls_options;
      tls_options.useSystemTrustStore = false;
      tls_options.trustedCertificates = kj::arrayPtr(&authority, 1);
      tls = kj::heap<kj::TlsContext>(kj::mv(tls_options));
    }
    return *tls;
  }

  schema::Inference::Client& inference() { return KJ_ASSERT_NONNULL(session); }

  // Runs `call(operator, outcome)` with the operator's capability.
  template <class Call>
  void run_as_operator(Call call) {
    run([&](Outcome& outcome) {
      auto request = connection->gateway().administerRequest();
      request.setApiKey(text_of(options.api_key));
      return request.send().then([&](auto response) -> kj::Promise<void> {
        if (!outcome.good(response)) return kj::READY_NOW;
        return call(response.getOperator(), outcome);
      });
    });
  }

  const Options options;
  std::thread thread;
  const kj::Executor* executor = nullptr;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> quit;

  // Touched on the loop's thread only:
  kj::AsyncIoContext* io = nullptr;
  kj::Own<kj::TlsContext> tls;
  kj::Own<Connection> connection;
  kj::Maybe<schema::Inference::Client> session;
  kj::Maybe<kj::ForkedPromise<void>> connecting;
  kj::Promise<void> watching = nullptr;
  std::optional<Error> login_error;
  bool broken = false;
};

Client::Client(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->run([](Impl::Outcome&) -> kj::Promise<void> { return kj::READY_NOW; });
}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;

Generation Client::generate(const GenerateRequest& request, const OnDelta& on_delta,
                            std::stop_token stop) {
  const int inputs = !request.messages.empty() + !request.prompt.empty() + !request.tokens.empty();
  if (inputs != 1) {
    throw Error("invalid_argument", "give exactly one of messages, prompt and tokens");
  }
  auto answer = std::make_shared<Answer>();
  answer->on_delta = on_delta;
  answer->generation.choices.resize(request.choices, {"", "cancelled"});
  Generation out;
  impl_->run([&](Impl::Outcome& outcome) -> kj::Promise<void> {
    auto cancelled = kj::newPromiseAndCrossThreadFulfiller<void>();
    answer->cancel = kj::mv(cancelled.fulfiller);
    auto on_stop = [answer] { answer->cancel->fulfill(); };
    auto stopper = kj::heap<std::stop_callback<decltype(on_stop)>>(stop, on_stop);

    auto call = impl_->inference().generateRequest();
    write(request, call.initRequest());
    call.setSink(kj::heap<Sink>(answer));
    return call.send()
        .then([&outcome, answer](auto response) {
          if (!outcome.good(response)) return;
          const auto usage = response.getUsage();
          answer->generation.usage = {usage.getPromptTokens(), usage.getCachedTokens(),
                                      usage.getCompletionTokens()};
        })
        .exclusiveJoin(kj::mv(cancelled.promise))
        .then([&out, answer] {
          // Pieces may still be on their way to the sink: they find nothing to add to.
          answer->on_delta = nullptr;
          out = std::exchange(answer->generation, {});
        })
        .attach(kj::mv(stopper));
  });
  if (answer->thrown) std::rethrow_exception(answer->thrown);
  return out;
}

Embeddings Client::embed(const std::string& model, const std::vector<std::string>& inputs) {
  Embeddings out;
  impl_->run([&](Impl::Outcome& outcome) -> kj::Promise<void> {
    auto call = impl_->inference().embedRequest();
    call.setModel(text_of(model));
    auto list = call.initInputs(inputs.size());
    for (unsigned i = 0; i < inputs.size(); ++i) list.set(i, text_of(inputs[i]));
    return call.send().then([&](auto response) {
      if (!outcome.good(response)) return;
      for (const auto row : response.getEmbeddings()) {
        auto& vector = out.vectors.emplace_back();
        vector.reserve(row.size());
        for (const float value : row) vector.push_back(value);
      }
      out.prompt_tokens = response.getPromptTokens();
    });
  });
  return out;
}

std::vector<Model> Client::models() {
  std::vector<Model> out;
  impl_->run([&](Impl::Outcome&) -> kj::Promise<void> {
    return impl_->inference().modelsRequest().send().then([&](auto response) {
      for (const auto m : response.getModels()) {
        out.push_back({string_of(m.getName()), string_of(m.getVersion()),
                       m.getKind() == schema::Model::Kind::CAUSAL ? "causal" : "embedding",
                       string_of(m.getArchitecture()), string_of(m.getQuantization()),
                       m.getContextTokens(), m.getHidden(), m.getParameters()});
      }
    });
  });
  return out;
}

Status Client::status() {
  static constexpr const char* levels[] = {"green", "yellow", "orange", "red"};
  Status out;
  impl_->run_as_operator([&](schema::Operator::Client op, Impl::Outcome&) {
    return op.statusRequest().send().then([&](auto response) {
      const auto in = response.getStatus();
      out.version = string_of(in.getVersion());
      out.uptime_seconds = in.getUptimeSeconds();
      out.pressure = levels[std::min(static_cast<unsigned>(in.getPressure()), 3U)];
      for (const auto n : in.getNodes()) {
        auto& node = out.nodes.emplace_back();
        node.name = string_of(n.getName());
        node.state = string_of(n.getState());
        for (const auto e : n.getEngines()) {
          node.engines.push_back(
              {string_of(e.getModel()), e.getWaiting(), e.getRunning(), e.getPaused(),
               e.getKvBlocksTotal(), e.getKvBlocksUsed(), e.getKvBlocksCached(), e.getStepsTotal(),
               e.getPromptTokensTotal(), e.getCachedPromptTokensTotal(),
               e.getGeneratedTokensTotal(), e.getPreemptionsTotal(), e.getFinishedTotal(),
               e.getRefusedTotal(), e.getCancelledTotal(), e.getStepSecondsTotal()});
        }
      }
    });
  });
  return out;
}

Memory Client::memory() {
  const auto optional = [](auto value) -> std::optional<decltype(value)> {
    if (value < 0) return std::nullopt;
    return value;
  };
  Memory out;
  impl_->run_as_operator([&](schema::Operator::Client op, Impl::Outcome& outcome) {
    return op.memoryRequest().send().then([&](auto response) {
      if (!outcome.good(response)) return;
      const auto in = response.getReport();
      for (const auto row : in.getRows()) {
        out.rows.push_back({string_of(row.getComponent()), string_of(row.getModel()),
                            string_of(row.getTenant()), string_of(row.getKind()), row.getBytes(),
                            row.getPeakBytes(), row.getResidentBytes()});
      }
      out.rss_bytes = in.getRssBytes();
      out.pss_bytes = in.getPssBytes();
      out.anonymous_bytes = in.getAnonymousBytes();
      out.file_bytes = in.getFileBytes();
      out.ledger_anonymous_bytes = in.getLedgerAnonymousBytes();
      out.ledger_touched_bytes = in.getLedgerTouchedBytes();
      out.ledger_mapped_bytes = in.getLedgerMappedBytes();
      out.unattributed_bytes = in.getUnattributedBytes();
      out.cgroup_limit_bytes = optional(in.getCgroupLimitBytes());
      out.cgroup_current_bytes = optional(in.getCgroupCurrentBytes());
      out.oom_kills = optional(in.getOomKills());
      out.allocator_allocated_bytes = optional(in.getAllocatorAllocatedBytes());
      out.allocator_active_bytes = optional(in.getAllocatorActiveBytes());
      out.pressure_some_avg10 = optional(in.getPressureSomeAvg10());
    });
  });
  return out;
}

}  // namespace plimsoll::client
