#include <algorithm>
#include <utility>

#include "actors/requests.h"

namespace plimsoll {
namespace {

struct EmbedState {
  using Self = EmbedActor::stateful_pointer<EmbedState>;
  explicit EmbedState(Self actor) : self(actor) {}

  ~EmbedState() {
    if (!open || ended) return;
    if (submitted) caf::anon_send(open->services->router, CancelSequences{{open->id}});
    end(fail(
        open->services->open.closed()
            ? Error(ErrorCode::unavailable, "the server stopped before the answer was complete")
                  .retry_after(1000)
            : Error(ErrorCode::internal, "the request failed; the server's log says why")));
  }

  Self self;
  std::unique_ptr<OpenEmbedding> open;
  GenerationUsage usage;
  std::optional<RateLimits> limits;
  bool submitted = false;
  bool cancelled = false;
  bool ended = false;

  void start() {
    if (ended) return;
    if (open->refusal) return end(fail(std::move(*open->refusal)));
    const auto& inputs = open->request.inputs;
    const auto bad = [this](std::string message) {
      end(fail(Error(ErrorCode::invalid_argument, std::move(message)).with_param("input")));
    };
    if (inputs.empty()) return bad("input is empty");
    if (inputs.size() > RequestLimits::embedding_inputs) {
      return bad(std::to_string(inputs.size()) + " inputs; at most " +
                 std::to_string(RequestLimits::embedding_inputs) + " are allowed");
    }
    EmbedTokens message;
    message.id = open->id;
    message.tenant = open->caller.tenant;
    message.model = open->model->name();
    message.no_store = open->request.no_store;
    message.deadline_ms =
        static_cast<std::uint32_t>(std::min<std::int64_t>(open->services->deadline.count(), ~0U));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      auto tokens = open->model->encode_input(inputs[i], i);
      if (!tokens) return end(fail(std::move(tokens.error())));
      usage.prompt_tokens += static_cast<std::uint32_t>(tokens->size());
      message.inputs.push_back(std::move(*tokens));
    }
    open->request.inputs.clear();
    open->request.inputs.shrink_to_fit();
    open->memory.resize(open_request_bytes + usage.prompt_tokens * sizeof(TokenId) +
                        message.inputs.size() * sizeof(std::vector<TokenId>));
    message.charge = std::make_shared<Charge>(open->memory.hand_over());
    submitted = true;
    self->send(open->services->router, std::move(message), EmbedSink(self));
  }

  void receive(EmbedResult& result) {
    if (ended) return;
    result.charge.reset();
    if (result.error) return end(fail(std::move(*result.error)));
    usage.cached_tokens = result.cached_tokens;
    end(EmbedResponse{std::move(result.embeddings), usage.prompt_tokens, usage.cached_tokens});
  }

  void cancel() {
    if (ended || cancelled) return;
    cancelled = true;
    if (submitted) {
      self->send(open->services->router, CancelSequences{{open->id}});  // the end comes from there
    } else {
      end(fail(ErrorCode::cancelled, "the request was cancelled"));
    }
  }

  void end(Result<EmbedResponse> result) {
    ended = true;
    auto& services = *open->services;
    services.metrics.request_ended(Metrics::Operation::embed, open->caller.tenant,
                                   open->model ? open->model->name() : "unknown",
                                   result ? nullptr : &result.error(), usage);
    const auto callback = std::move(open->callback);
    open->memory.reset();
    services.open.leave(open->id.get());
    callback(std::move(result), limits);
  }
};

EmbedActor::behavior_type embedding(EmbedState::Self self,
                                    const std::shared_ptr<std::unique_ptr<OpenEmbedding>>& open) {
  self->state.open = std::move(*open);
  const auto quit_if_ended = [=] {
    if (self->state.ended) self->quit();
  };
  return {
      [=](const RateLimits& limits) { self->state.limits = limits; },
      [=](EmbedResult& result) {
        self->state.receive(result);
        quit_if_ended();
      },
      [=](StartAtom) {
        self->state.start();
        quit_if_ended();
      },
      [=](CancelAtom) {
        self->state.cancel();
        quit_if_ended();
      },
  };
}

}  // namespace

EmbedActor spawn_embedding(caf::actor_system& system, std::unique_ptr<OpenEmbedding> request) {
  auto& open = request->services->open;
  const auto id = request->id.get();
  auto actor =
      system.spawn(embedding, std::make_shared<std::unique_ptr<OpenEmbedding>>(std::move(request)));
  open.set_actor(id, caf::actor_cast<caf::strong_actor_ptr>(actor));
  caf::anon_send(actor, StartAtom::value);
  return actor;
}

}  // namespace plimsoll
