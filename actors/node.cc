#include "actors/node.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

namespace plimsoll {
namespace {

std::chrono::steady_clock::time_point in_ms(std::uint32_t ms) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
}

EngineStats as_engine_stats(const EmbeddingStats& stats) {
  EngineStats out;
  out.waiting = stats.waiting;
  out.running = stats.running;
  out.steps_total = stats.steps_total;
  out.prompt_tokens_total = stats.tokens_total + stats.cached_tokens_total;
  out.cached_prompt_tokens_total = stats.cached_tokens_total;
  out.finished_total = stats.finished_total;
  out.refused_total = stats.refused_total;
  out.cancelled_total = stats.cancelled_total;
  out.step_seconds_total = stats.step_seconds_total;
  return out;
}

struct NodeState {
  using Self = NodeActor::stateful_pointer<NodeState>;
  explicit NodeState(Self actor) : self(actor) {}

  Self self;
  NodeConfig config;
  Account* queues = nullptr;
  std::vector<NodeListener> listeners;  // where the heartbeats go
  LoaderActor loader;
  CacheClerk clerk;  // null: there is no cache
  // By model: what was not loaded yet, or could not be.
  struct Loading {
    LoadAttemptPtr attempt;
    std::string error;
  };
  std::map<std::string, Loading> loading;
  std::vector<std::shared_future<void>> retiring;  // engines that the loader is to end
  SetPressure pressure;                            // as the governor last said
  bool draining = false;

  // What is in an engine now, and who asked for it.
  struct Held {
    std::string model;
    NodeListener owner;
  };
  std::unordered_map<RequestId, Held> held;

  ServedEngine* find(const std::string& model) {
    for (auto& served : config.engines) {
      if (served.model == model) return &served;
    }
    return nullptr;
  }

  // The router will hear of it with the next report; until then it tries elsewhere.
  tl::unexpected<Error> not_here(const std::string& kind, const std::string& model) const {
    return fail(Error(ErrorCode::unavailable,
                      "node '" + config.name + "' runs no " + kind + " model named '" + model + "'")
                    .retry_after(1000));
  }

  void submit(SubmitStream& request, const NodeListener& owner) {
    auto* served = find(request.model);
    const auto deadline = in_ms(request.deadline_ms);
    std::vector<SequenceEvent> refused;
    for (auto& spec : request.sequences) {
      Result<void> accepted;
      if (served == nullptr || served->engine == nullptr) {
        accepted = not_here("language", request.model);
      } else {
        SequenceRequest sequence;
        sequence.id = spec.id;
        sequence.tenant = request.tenant;
        sequence.endpoint = request.endpoint;
        sequence.prompt = request.prompt;
        sequence.resumed = std::move(spec.resumed);
        sequence.sampling = request.sampling;
        sequence.sampling.seed = spec.seed;
        sequence.max_new_tokens = request.max_new_tokens;
        sequence.stop_tokens = request.stop_tokens;
        sequence.prompt_logprobs = spec.prompt_logprobs;
        sequence.credit = spec.credit;
        sequence.weight = request.weight;
        sequence.cache_bytes = request.cache_bytes;
        sequence.capacity_class = request.capacity_class;
        sequence.worst_case = request.worst_case;
        sequence.guaranteed_bytes = request.guaranteed_bytes;
        sequence.no_store = request.no_store;
        sequence.deadline = deadline;
        accepted = served->engine->submit(std::move(sequence));
      }
      if (accepted) {
        held.insert_or_assign(spec.id, Held{served->model, owner});
      } else {
        SequenceEvent event;
        event.id = spec.id;
        event.finish = FinishReason::error;
        event.error = std::move(accepted.error());
        refused.push_back(std::move(event));
      }
    }
    if (!refused.empty()) send(owner, std::move(refused));
  }

  void embed(EmbedTokens& request, const NodeListener& owner) {
    auto* served = find(request.model);
    Result<void> accepted;
    if (served == nullptr || served->embedding == nullptr) {
      accepted = not_here("embedding", request.model);
    } else {
      const RequestId id = request.id;
      const auto done = [inbox = config.inbox, account = queues,
                         id](Result<EmbeddingOutcome> result) {
        EmbedResult out{id, {}, {}, {}};
        if (result) {
          out.embeddings = std::move(result->vectors);
          out.cached_tokens = result->cached_tokens;
          std::uint64_t bytes = 0;
          for (const auto& row : out.embeddings) bytes += row.size() * sizeof(float);
          out.charge = std::make_shared<Charge>(*account, bytes);
        } else {
          out.error = std::move(result.error());
        }
        caf::anon_send(inbox->node, std::move(out));
      };
      accepted = served->embedding->submit({id, request.tenant, std::move(request.inputs),
                                            in_ms(request.deadline_ms), request.no_store},
                                           done);
    }
    request.charge.reset();
    if (accepted) {
      held.insert_or_assign(request.id, Held{served->model, owner});
    } else {
      self->send(owner, EmbedResult{request.id, {}, std::move(accepted.error()), {}});
    }
  }

  void send(const NodeListener& owner, std::vector<SequenceEvent> events, MessageCharge charge) {
    self->send(owner, NodeEvents{config.name, config.epoch, std::move(events), std::move(charge)});
  }
  void send(const NodeListener& owner, std::vector<SequenceEvent> events) {
    auto charge = std::make_shared<Charge>(*queues, heap_bytes(events));
    send(owner, std::move(events), std::move(charge));
  }

  // One message a step to each owner. Nearly always there is one, and the step goes on as it is.
  void emit(EngineEvents& step) {
    if (step.events.empty()) return;
    const auto first = held.find(step.events.front().id);
    const bool one =
        first != held.end() && std::ranges::all_of(step.events, [&](const auto& event) {
          const auto it = held.find(event.id);
          return it != held.end() && it->second.owner == first->second.owner;
        });
    if (!one) return emit_to_each(step);
    const auto owner = first->second.owner;
    for (const auto& event : step.events) {
      if (event.finish) held.erase(event.id);
    }
    send(owner, std::move(step.events), std::move(step.charge));
  }

  void emit_to_each(EngineEvents& step) {
    const auto charge = std::move(step.charge);
    std::vector<std::pair<NodeListener, std::vector<SequenceEvent>>> by_owner;
    for (auto& event : step.events) {
      const auto it = held.find(event.id);
      if (it == held.end()) continue;
      auto slot = std::find_if(by_owner.begin(), by_owner.end(),
                               [&](const auto& entry) { return entry.first == it->second.owner; });
      if (slot == by_owner.end()) slot = by_owner.insert(slot, {it->second.owner, {}});
      if (event.finish) held.erase(it);
      slot->second.push_back(std::move(event));
    }
    for (auto& [owner, events] : by_owner) send(owner, std::move(events));
  }

  void emit(EmbedResult& result) {
    const auto it = held.find(result.id);
    if (it == held.end()) return;
    const auto owner = std::move(it->second.owner);
    held.erase(it);
    self->send(owner, std::move(result));
  }

  void cancel(const CancelSequences& message) {
    for (const RequestId id : message.ids) {
      const auto it = held.find(id);
      if (it == held.end()) continue;
      const auto* served = find(it->second.model);
      if (served->engine) {
        served->engine->cancel(id);
      } else {
        served->embedding->cancel(id);
      }
    }
  }

  void report() {
    if (listeners.empty()) return;
    NodeReport report;
    report.node = config.name;
    report.epoch = config.epoch;
    report.draining = draining;
    report.routers = static_cast<std::uint32_t>(listeners.size());
    report.pressure = pressure.level;
    report.memory_used_bytes = pressure.used_bytes;
    report.memory_limit_bytes = pressure.limit_bytes;
    for (const auto& served : config.engines) {
      report.models.emplace_back(served.model, served.engine
                                                   ? served.engine->stats()
                                                   : as_engine_stats(served.embedding->stats()));
      report.replicas.push_back({served.model, served.version, {}, served.placed});
    }
    for (const auto& [model, load] : loading) {
      report.replicas.push_back({model, {}, load.error, true});
    }
    for (const auto& listener : listeners) self->send(listener, report);
  }

  void load(const LoadModel& request) {
    if (draining || find(request.name) != nullptr) return;
    const auto known = loading.find(request.name);
    if (known != loading.end() && known->second.error.empty()) return;
    auto attempt = std::make_shared<LoadAttempt>();
    attempt->request = request;
    auto& load = loading[request.name];
    load = {attempt, {}};
    if (config.load) {
      self->send(loader, std::move(attempt));
    } else {
      load.error = "this node loads no models at run time";
    }
    report();
  }

  void loaded(EngineLoaded& message) {
    const auto& model = message.attempt->request.name;
    if (!message.attempt->wanted) {  // it was unloaded meanwhile
      return retire(std::move(message.engine));
    }
    if (message.engine) {
      spdlog::info("event=model_loaded model={} version={}", model, message.engine->version);
      loading.erase(model);
      message.engine->placed = true;
      if (message.engine->engine) message.engine->engine->set_pressure(pressure.level);
      config.engines.push_back(std::move(*message.engine));
    } else {
      spdlog::error("event=model_failed model={} error=\"{}\"", model, to_string(*message.error));
      loading.at(model).error = message.error->message;
    }
    report();
  }

  void forget_loading(const std::string& model) {
    const auto it = loading.find(model);
    if (it == loading.end()) return;
    it->second.attempt->wanted = false;
    loading.erase(it);
    report();
  }

  // What runs on it ends with `unavailable` and goes on elsewhere.
  void unload(const std::string& model) {
    forget_loading(model);
    const auto it = std::ranges::find(config.engines, model, &ServedEngine::model);
    if (it == config.engines.end()) return;
    std::map<NodeListener, std::vector<SequenceEvent>> cut;
    std::vector<std::pair<NodeListener, EmbedResult>> cut_embeddings;
    for (auto h = held.begin(); h != held.end();) {
      const auto here = h++;
      if (here->second.model != model) continue;
      const Error error =
          Error(ErrorCode::unavailable, "the model is being unloaded").retry_after(1000);
      if (it->embedding) {
        cut_embeddings.emplace_back(here->second.owner, EmbedResult{here->first, {}, error, {}});
      } else {
        SequenceEvent event;
        event.id = here->first;
        event.finish = FinishReason::error;
        event.error = error;
        cut[here->second.owner].push_back(std::move(event));
      }
      held.erase(here);
    }
    retire(std::make_shared<ServedEngine>(std::move(*it)));
    config.engines.erase(it);
    spdlog::info("event=model_unloaded model={}", model);
    report();  // first, so that nothing comes back
    for (auto& [owner, events] : cut) send(owner, std::move(events));
    for (auto& [owner, result] : cut_embeddings) self->send(owner, std::move(result));
  }

  // What is to be freed is shared out by what each engine's pool holds.
  void relieve() {
    const auto held_bytes = [](const Engine& engine) {
      const KvLayout layout = kv_layout(engine.model(), 16, KvType::f16);  // all have one type
      return static_cast<double>(engine.stats().kv_blocks_used) *
             static_cast<double>(layout.block_bytes());
    };
    double all = 0;
    for (const auto& served : config.engines) {
      if (served.engine) all += held_bytes(*served.engine);
    }
    for (const auto& served : config.engines) {
      if (!served.engine) continue;
      const double part = all > 0 ? held_bytes(*served.engine) / all : 0;
      served.engine->set_pressure(
          {pressure.level,
           static_cast<std::uint64_t>(part * static_cast<double>(pressure.excess_bytes)),
           pressure.cause});
    }
  }

  caf::result<CacheAnswer> ask_cache(const CacheCall& call) {
    if (config.cache == nullptr) {
      return refusal(
          Error(ErrorCode::failed_precondition,
                "node '" + config.name +
                    "' has no cache on disk: its configuration names no cache.directory"));
    }
    const auto* purge = std::get_if<storage::CachePurge>(&call);
    if (purge == nullptr) return config.cache->answer(call);
    return self->delegate(clerk, PurgeCache{*purge, forget(*purge)});
  }

  // What engines hold in memory is on no disk yet, and shall not come there after the purge. By age
  // only the disk is purged: memory does not know when a block was computed.
  std::vector<std::shared_future<void>> forget(const storage::CachePurge& what) {
    std::vector<std::shared_future<void>> done;
    if (what.kind.value_or(storage::CacheKind::prefix) != storage::CacheKind::prefix ||
        what.older_than > std::chrono::milliseconds::zero()) {
      return done;
    }
    for (const auto& served : config.engines) {
      if (served.engine) done.push_back(served.engine->forget(what.tenant).share());
    }
    // These store what they hold when they end.
    done.insert(done.end(), retiring.begin(), retiring.end());
    return done;
  }

  // Its thread is joined elsewhere: a step may take a while.
  void retire(std::shared_ptr<ServedEngine> engine) {
    std::erase_if(retiring, [](const auto& each) {
      return each.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    });
    auto ended = std::make_shared<std::promise<void>>();
    retiring.push_back(ended->get_future().share());
    self->send(loader, RetireEngine{std::move(engine), std::move(ended)});
  }

  void beat() {
    report();
    self->delayed_send(self, config.heartbeat, TickAtom::value);
  }
};

LoaderActor::behavior_type loader(
    LoaderActor::pointer self, const NodeActor& node,
    const std::function<Result<ServedEngine>(const LoadModel&)>& load) {
  return {
      [=](const LoadAttemptPtr& attempt) {
        if (!attempt->wanted) return;
        EngineLoaded loaded{attempt, nullptr, {}};
        try {
          if (auto engine = load(attempt->request)) {
            loaded.engine = std::make_shared<ServedEngine>(std::move(*engine));
          } else {
            loaded.error = std::move(engine.error());
          }
        } catch (const std::exception& thrown) {
          loaded.error = Error(ErrorCode::internal, thrown.what());
        }
        self->send(node, std::move(loaded));
      },
      [](RetireEngine& retired) {
        retired.engine.reset();
        retired.ended->set_value();
      },
  };
}

CacheClerk::behavior_type cache_clerk(CacheClerk::pointer,
                                      const std::shared_ptr<NodeCache>& cache) {
  return {[=](const PurgeCache& order) { return cache->purge(order.what, order.after); }};
}

NodeActor::behavior_type node(NodeState::Self self, const std::shared_ptr<NodeConfig>& config) {
  auto& state = self->state;
  state.config = std::move(*config);
  state.queues = &state.config.ledger->account(Component::queues, "", shared_tenant);
  state.config.inbox->node = NodeActor(self);
  // On a thread of its own; the node goes on. It ends with the node.
  state.loader =
      self->spawn<caf::detached + caf::linked>(loader, NodeActor(self), state.config.load);
  if (const auto& cache = state.config.cache) {
    state.clerk = self->spawn<caf::detached + caf::linked>(cache_clerk, cache);
  }
  return {
      [=](SubmitStream& request, const NodeListener& owner) { self->state.submit(request, owner); },
      [=](EmbedTokens& request, const NodeListener& owner) { self->state.embed(request, owner); },
      [=](const CancelSequences& message) { self->state.cancel(message); },
      [=](const AddCredit& credit) {
        const auto it = self->state.held.find(credit.id);
        if (it == self->state.held.end()) return;
        const auto* served = self->state.find(it->second.model);
        if (served->engine) served->engine->add_credit(credit.id, credit.tokens);
      },
      [=](StartAtom, const NodeListener& listener) {
        auto& listeners = self->state.listeners;
        const bool first = listeners.empty();
        if (std::ranges::find(listeners, listener) == listeners.end()) {
          listeners.push_back(listener);
        }
        first ? self->state.beat() : self->state.report();
      },
      [=](const SetPressure& pressure) {
        self->state.pressure = pressure;
        self->state.relieve();
      },
      [=](Drain drain) {
        for (auto& served : self->state.config.engines) {
          if (served.engine) served.engine->drain(in_ms(drain.deadline_ms));
          if (served.embedding) served.embedding->drain(in_ms(drain.deadline_ms));
        }
        auto& state = self->state;
        state.draining = true;
        for (auto& [model, load] : state.loading) load.attempt->wanted = false;
        state.loading.clear();
        state.report();
      },
      [=](const LoadModel& request) { self->state.load(request); },
      [=](const UnloadModel& request) { self->state.unload(request.name); },
      [=](const SetCachePolicies& policies) {
        if (const auto& cache = self->state.config.cache) cache->set_policies(policies.tenants);
      },
      [=](const CacheCall& call) { return self->state.ask_cache(call); },
      [=](EngineLoaded& loaded) { self->state.loaded(loaded); },
      [=](IdleAtom) { return self->state.held.empty(); },
      [=](EngineEvents& step) { self->state.emit(step); },
      [=](EmbedResult& result) { self->state.emit(result); },
      [=](TickAtom) { self->state.beat(); },
  };
}

}  // namespace

EngineSink make_engine_sink(std::shared_ptr<NodeInbox> inbox, Ledger& ledger) {
  return
      [inbox = std::move(inbox), account = &ledger.account(Component::queues, "", shared_tenant)](
          std::vector<SequenceEvent>&& events) {
        auto charge = std::make_shared<Charge>(*account, heap_bytes(events));
        caf::anon_send(inbox->node, EngineEvents{std::move(events), std::move(charge)});
      };
}

NodeActor spawn_node(caf::actor_system& system, NodeConfig config) {
  return system.spawn(node, std::make_shared<NodeConfig>(std::move(config)));
}

}  // namespace plimsoll
