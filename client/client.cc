#include "client/client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <utility>

#include "client/memory.h"
#include "client/session.h"

namespace plimsoll::client {

namespace {

std::string bytes_of(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
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
  out.setRequestId(text_of(in.id));
  out.setNoStore(in.no_store);
}

Delta read(schema::Delta::Reader in) {
  Delta out;
  out.choice = in.getChoice();
  out.text = string_of(in.getText());
  out.is_prompt = in.getIsPrompt();
  for (const auto id : in.getIds()) out.ids.push_back(id);
  for (const auto token : in.getTokens()) {
    Token& t = out.tokens.emplace_back();
    t.bytes = bytes_of(token.getBytes());
    t.logprob = token.getLogprob();
    for (const auto alternative : token.getTop()) {
      t.top.emplace_back(bytes_of(alternative.getBytes()), alternative.getLogprob());
    }
  }
  return out;
}

// What has come of one choice.
struct Progress {
  std::vector<std::int32_t> ids;
  std::uint64_t text_bytes = 0;
  bool prompt = false;  // its echo has come
  bool done = false;
};

// What the sinks and the caller of generate() share; a sink may outlive the call.
struct Answer {
  Generation generation;
  std::vector<Progress> progress;        // of each choice
  std::atomic<std::uint64_t> pieces{0};  // that have come
  const void* listening = nullptr;       // the sink of the attempt that runs
  Client::OnDelta on_delta;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> cancel;
  bool cancelled = false;          // by on_delta
  std::exception_ptr thrown = {};  // by on_delta
};

// Of one attempt. What comes to it late is not taken: it comes again with the next attempt.
class Sink final : public schema::TokenSink::Server {
 public:
  explicit Sink(std::shared_ptr<Answer> answer) : answer_(std::move(answer)) {
    answer_->listening = this;
  }

  kj::Promise<void> push(PushContext context) override {
    const auto in = context.getParams().getDelta();
    const auto choice = in.getChoice();
    if (!listened_to(choice)) return kj::READY_NOW;
    Progress& progress = answer_->progress[choice];
    if (in.getIsPrompt() && std::exchange(progress.prompt, true)) return kj::READY_NOW;
    const Delta delta = read(in);
    if (!delta.is_prompt) {
      progress.text_bytes += delta.text.size();
      progress.ids.insert(progress.ids.end(), delta.ids.begin(), delta.ids.end());
    }
    ++answer_->pieces;
    answer_->generation.choices[choice].text += delta.text;
    if (!answer_->on_delta) return kj::READY_NOW;
    bool go_on = false;
    try {
      go_on = answer_->on_delta(delta);
    } catch (...) {
      answer_->thrown = std::current_exception();
    }
    if (!go_on) {
      answer_->cancelled = true;
      answer_->on_delta = nullptr;
      answer_->cancel->fulfill();
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> done(DoneContext context) override {
    static constexpr const char* names[] = {"stop", "length", "cancelled", "error"};
    const auto params = context.getParams();
    const auto choice = params.getChoice();
    if (!listened_to(choice)) return kj::READY_NOW;
    const auto reason = static_cast<unsigned>(params.getReason());
    answer_->progress[choice].done = true;
    ++answer_->pieces;
    answer_->generation.choices[choice].finish_reason = names[std::min(reason, 3U)];
    return kj::READY_NOW;
  }

 private:
  bool listened_to(std::uint32_t choice) const {
    return answer_->listening == this && choice < answer_->progress.size() &&
           !answer_->progress[choice].done && !answer_->cancelled;
  }

  std::shared_ptr<Answer> answer_;
};

void write(const std::vector<Progress>& progress, schema::GenerateRequest::Builder out) {
  auto list = out.initResume(progress.size());
  for (unsigned i = 0; i < progress.size(); ++i) {
    auto ids = list[i].initIds(progress[i].ids.size());
    for (unsigned j = 0; j < progress[i].ids.size(); ++j) ids.set(j, progress[i].ids[j]);
    list[i].setTextBytes(progress[i].text_bytes);
  }
}

std::uint64_t random_bits() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace

struct Client::Impl : Session {
  using Session::Session;
};

Client::Client(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->connect();
}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Session& Client::session() { return *impl_; }

Generation Client::generate(const GenerateRequest& request, const OnDelta& on_delta,
                            std::stop_token stop) {
  const int inputs = !request.messages.empty() + !request.prompt.empty() + !request.tokens.empty();
  if (inputs != 1) {
    throw Error("invalid_argument", "give exactly one of messages, prompt and tokens");
  }
  // A second server continues the answer of the first one if both begin with the same seed.
  GenerateRequest fixed = request;
  if (!fixed.seed) fixed.seed = random_bits();
  if (fixed.id.empty()) fixed.id = "sdk-" + std::to_string(random_bits());
  auto answer = std::make_shared<Answer>();
  answer->on_delta = on_delta;
  answer->generation.choices.resize(request.choices, {"", "cancelled"});
  answer->progress.resize(request.choices);
  const auto start = std::chrono::steady_clock::now();

  bool again = false;
  const auto attempt = [&](schema::Inference::Client inference,
                           Impl::Outcome& outcome) -> kj::Promise<void> {
    if (answer->cancelled) return kj::READY_NOW;
    auto call = inference.generateRequest();
    auto message = call.initRequest();
    write(fixed, message);
    if (std::exchange(again, true)) {
      write(answer->progress, message);
      if (request.deadline_ms > 0) {
        const auto spent = std::chrono::duration_cast<std::chrono::milliseconds>(
            std::chrono::steady_clock::now() - start);
        if (spent.count() >= request.deadline_ms) {
          outcome.error = Error("deadline_exceeded", "the request's deadline has passed");
          return kj::READY_NOW;
        }
        message.setDeadlineMs(request.deadline_ms - static_cast<std::uint32_t>(spent.count()));
      }
    }
    call.setSink(kj::heap<Sink>(answer));

    auto cancelled = kj::newPromiseAndCrossThreadFulfiller<void>();
    answer->cancel = kj::mv(cancelled.fulfiller);
    auto on_stop = [answer] { answer->cancel->fulfill(); };
    auto stopper = kj::heap<std::stop_callback<decltype(on_stop)>>(stop, on_stop);
    return call.send()
        .then([&outcome, answer](auto response) {
          if (!outcome.good(response)) return;
          const auto usage = response.getUsage();
          answer->generation.usage = {usage.getPromptTokens(), usage.getCachedTokens(),
                                      usage.getCompletionTokens()};
        })
        .exclusiveJoin(kj::mv(cancelled.promise))
        .then([answer] { answer->listening = nullptr; },
              [answer](kj::Exception&& e) {
                answer->listening = nullptr;
                kj::throwFatalException(kj::mv(e));
              })
        .attach(kj::mv(stopper));
  };
  impl_->run(attempt, stop, [&] { return answer->pieces.load(); });
  if (answer->thrown) std::rethrow_exception(answer->thrown);
  return std::move(answer->generation);
}

Embeddings Client::embed(const std::string& model, const std::vector<std::string>& inputs,
                         const EmbedOptions& options) {
  Embeddings out;
  impl_->run([&](schema::Inference::Client inference, Impl::Outcome& outcome) -> kj::Promise<void> {
    auto call = inference.embedRequest();
    call.setModel(text_of(model));
    call.setNoStore(options.no_store);
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
      out.cached_tokens = response.getCachedTokens();
    });
  });
  return out;
}

std::vector<Model> Client::models() {
  std::vector<Model> out;
  impl_->run([&](schema::Inference::Client inference, Impl::Outcome&) -> kj::Promise<void> {
    return inference.modelsRequest().send().then([&](auto response) {
      for (const auto m : response.getModels()) {
        out.push_back({string_of(m.getName()), string_of(m.getVersion()),
                       m.getKind() == schema::Model::Kind::CAUSAL ? "causal" : "embedding",
                       string_of(m.getArchitecture()), string_of(m.getQuantization()),
                       m.getContextTokens(), m.getHidden(), m.getParameters(),
                       m.getVocabularyTokens()});
      }
    });
  });
  return out;
}

Status Client::status() {
  static constexpr const char* levels[] = {"green", "yellow", "orange", "red"};
  Status out;
  impl_->run_as_operator(
      [&](schema::Operator::Client op, Impl::Outcome& outcome) {
        return op.statusRequest().send().then([&](auto response) {
          if (!outcome.good(response)) return;
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
                   e.getKvBlocksTotal(), e.getKvBlocksUsed(), e.getKvBlocksCached(),
                   e.getStepsTotal(), e.getPromptTokensTotal(), e.getCachedPromptTokensTotal(),
                   e.getGeneratedTokensTotal(), e.getPreemptionsTotal(), e.getFinishedTotal(),
                   e.getRefusedTotal(), e.getCancelledTotal(), e.getStepSecondsTotal()});
            }
          }
        });
      },
      Impl::Repeat::yes);
  return out;
}

Memory Client::memory() {
  Memory out;
  impl_->run_as_operator(
      [&](schema::Operator::Client op, Impl::Outcome& outcome) {
        return op.memoryRequest().send().then([&](auto response) {
          if (outcome.good(response)) out = read(response.getReport());
        });
      },
      Impl::Repeat::yes);
  return out;
}

std::vector<NodeMemory> Client::node_memory() {
  std::vector<NodeMemory> out;
  impl_->run_as_operator(
      [&](schema::Operator::Client op, Impl::Outcome& outcome) {
        return op.nodeMemoryRequest().send().then([&](auto response) {
          if (!outcome.good(response)) return;
          for (const auto node : response.getNodes()) {
            out.push_back(
                {string_of(node.getNode()), node.getAgeSeconds(), read(node.getReport())});
          }
        });
      },
      Impl::Repeat::yes);
  return out;
}

}  // namespace plimsoll::client
