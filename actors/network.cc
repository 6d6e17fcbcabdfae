#include "actors/network.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <caf/io/all.hpp>
#include <caf/openssl/all.hpp>
#include <map>
#include <thread>
#include <unordered_set>

#include "actors/tls_errors.h"
#include "cluster/event_feed.h"

namespace plimsoll {

Result<void> enable_network(ActorSystemConfig& config, const TlsFiles& tls,
                            std::chrono::milliseconds timeout) {
  config.load<caf::io::middleman>();
  // CAF looks at each heartbeat for connections that said nothing for the time-out, and takes one
  // that is still in its handshake for one: seldom, so that a slow link gets through.
  config.set("middleman.heartbeat-interval", caf::timespan(timeout));
  config.set("middleman.connection-timeout", caf::timespan(3 * timeout));
  config.set("middleman.workers", std::size_t{0});
  if (tls.empty()) return {};
  const std::pair<const char*, const std::filesystem::path*> files[] = {
      {"cluster.ca_file", &tls.ca_file},
      {"cluster.certificate", &tls.certificate},
      {"cluster.key", &tls.key}};
  for (const auto& [name, path] : files) {
    if (path->empty()) {
      return fail(ErrorCode::invalid_argument,
                  std::string(name) +
                      " is missing: mutual TLS needs all three PEM files "
                      "(`plimsoll ca issue` makes them)");
    }
    if (access(path->c_str(), R_OK) != 0) {
      return fail(ErrorCode::invalid_argument,
                  std::string(name) + ": cannot read " + path->string());
    }
  }
  keep_tls_errors_apart();
  config.load<caf::openssl::manager>();
  config.openssl_cafile = tls.ca_file;
  config.openssl_certificate = tls.certificate;
  config.openssl_key = tls.key;
  return {};
}

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds longest_end{5};  // of a link, whose node may be in a step

std::uint64_t clock_us() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch())
          .count());
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// ---- the router's side

using ProxyActor = NodeActor::extend<caf::reacts_to<Frame>>;

struct ProxyConfig {
  NodeUp node;
  caf::actor remote;
  RouterActor router;
  wire::Welcome welcome;
  Ledger* ledger = nullptr;
  std::shared_ptr<Board> board;
};

struct ProxyState {
  using Self = ProxyActor::stateful_pointer<ProxyState>;
  explicit ProxyState(Self actor) : self(actor) {}

  Self self;
  ProxyConfig config;
  Account* queues = nullptr;
  // Calls to the node's cache that wait for an answer, the oldest first. Whoever asked does not
  // wait for ever: a node of an earlier version never answers.
  static constexpr std::size_t most_asked = 64;
  std::map<std::uint64_t, caf::typed_response_promise<CacheAnswer>> asked;
  std::uint64_t last_asked = 0;

  void send(const wire::Message& message) {
    caf::anon_send(config.remote, Frame{wire::encode(message)});
  }

  void receive(const Frame& frame) {
    auto message = wire::decode(frame.bytes);
    if (!message) {
      spdlog::error("event=frame_malformed node={} error=\"{}\"", config.node.node,
                    to_string(message.error()));
      return self->quit(caf::exit_reason::unhandled_exception);
    }
    std::visit([this](auto& x) { receive(x); }, *message);
  }
  void receive(NodeReport& report) {
    if (report.epoch != config.node.epoch) return;
    report.node = config.node.node;
    if (report.probe != 0) {
      report.round_trip_seconds = static_cast<double>(clock_us() - report.probe) * 1e-6;
    }
    for (auto& event : report.events) {
      event.node = config.node.node;
      config.board->events().add(std::move(event));
    }
    report.events.clear();
    if (report.memory) {
      config.board->set_memory(report.node, std::move(report.memory), report.routers);
    }
    self->send(config.router, std::move(report));
    send(wire::Probe{clock_us()});
  }
  void receive(NodeEvents& events) {
    if (events.epoch != config.node.epoch) return;
    events.node = config.node.node;
    events.charge = std::make_shared<Charge>(*queues, heap_bytes(events.events));
    self->send(config.router, std::move(events));
  }
  void receive(EmbedResult& result) { self->send(config.router, std::move(result)); }
  void receive(wire::TellCache& told) {
    const auto it = asked.find(told.id);
    if (it == asked.end()) return;
    it->second.deliver(std::move(told.answer));
    asked.erase(it);
  }
  caf::typed_response_promise<CacheAnswer> ask(const CacheCall& call) {
    if (asked.size() == most_asked) asked.erase(asked.begin());
    send(wire::AskCache{++last_asked, call});
    return asked[last_asked] = self->make_response_promise<CacheAnswer>();
  }
  template <class Other>
  void receive(const Other&) {}  // not for a router
};

ProxyActor::behavior_type proxy(ProxyState::Self self, const std::shared_ptr<ProxyConfig>& config) {
  auto& state = self->state;
  state.config = std::move(*config);
  state.queues = &state.config.ledger->account(Component::queues, "", shared_tenant);
  self->monitor(state.config.remote);
  self->monitor(state.config.router);  // a proxy that outlived it would keep the process
  self->set_down_handler([=](caf::down_msg& down) { self->quit(std::move(down.reason)); });
  // The router has given the node up: should it still be there, it starts a new epoch.
  self->set_exit_handler([=](caf::exit_msg& exit) {
    self->state.send(wire::Refused{
        Error(ErrorCode::unavailable, "the epoch is over: the router has given this node up")});
    self->quit(std::move(exit.reason));
  });
  // The node learns from the sender whom to answer.
  self->send(caf::actor_cast<FrameSink>(state.config.remote),
             Frame{wire::encode(state.config.welcome)});
  caf::anon_send(state.config.router, state.config.node, caf::actor_cast<NodeActor>(self));
  const auto forward = [=](const auto& message) { self->state.send(message); };
  return {
      [=](SubmitStream& request, const NodeListener&) { self->state.send(std::move(request)); },
      [=](EmbedTokens& request, const NodeListener&) {
        self->state.send(request);
        request.charge.reset();
      },
      [=](const CancelSequences& message) { forward(message); },
      [=](const AddCredit& message) { forward(message); },
      [](StartAtom, const NodeListener&) {},
      [](const SetPressure&) {},  // its own governor's business
      [=](const Drain& message) { forward(message); },
      [=](const LoadModel& message) { forward(message); },
      [=](const UnloadModel& message) { forward(message); },
      [=](const SetCachePolicies& message) { forward(message); },
      [=](const CacheCall& call) { return self->state.ask(call); },
      [](const EngineLoaded&) {},
      [](IdleAtom) { return true; },
      [](const EngineEvents&) {},
      [](const EmbedResult&) {},
      [](TickAtom) {},
      [=](const Frame& frame) { self->state.receive(frame); },
  };
}

struct DoorState {
  DoorConfig config;
  std::uint64_t last_epoch = 0;

  // Higher than any before, of an earlier life of this router too.
  std::uint64_t next_epoch() {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count();
    last_epoch = std::max(last_epoch + 1, static_cast<std::uint64_t>(ms));
    return last_epoch;
  }
};

Result<std::uint16_t> common_protocol(const wire::Hello& hello, const wire::Protocols& ours) {
  const auto& theirs = hello.protocols;
  const auto newest = std::min(theirs.newest, ours.newest);
  if (newest >= std::max(theirs.oldest, ours.oldest)) return newest;
  return fail(ErrorCode::unsupported,
              fmt::format("node '{}' ({}) speaks protocols {} to {}, this router ({}) {} to {}",
                          hello.node, hello.software, theirs.oldest, theirs.newest,
                          PLIMSOLL_VERSION, ours.oldest, ours.newest));
}

caf::behavior door(caf::stateful_actor<DoorState>* self,
                   const std::shared_ptr<DoorConfig>& config) {
  self->state.config = std::move(*config);
  self->set_default_handler(caf::drop);
  const auto let_in = [=](const wire::Hello& hello, const caf::actor& remote) -> Result<void> {
    auto& config = self->state.config;
    const auto protocol = common_protocol(hello, config.protocols);
    if (!protocol) return fail(protocol.error());
    if (hello.node.empty() || hello.node.size() > 253 || !(hello.weight > 0)) {
      return fail(ErrorCode::invalid_argument, "a node needs a name and a weight over 0");
    }
    auto admission = config.admit(hello);
    if (!admission) return fail(admission.error());
    ProxyConfig proxy_config;
    proxy_config.node = {hello.node,    self->state.next_epoch(), hello.weight, {}, {},
                         hello.software};
    proxy_config.node.cordoned = admission->cordoned;
    // Its models come with its first report.
    proxy_config.node.address = "remote";
    if (const auto address = caf::to_string(remote.node()); !address.empty()) {
      proxy_config.node.address = address;
    }
    proxy_config.remote = remote;
    proxy_config.router = config.router_actor;
    proxy_config.welcome = {*protocol,
                            config.router,
                            PLIMSOLL_VERSION,
                            proxy_config.node.epoch,
                            static_cast<std::uint32_t>(config.heartbeat.count()),
                            std::move(admission->secret)};
    proxy_config.ledger = config.ledger;
    proxy_config.board = config.board;
    self->system().spawn(proxy, std::make_shared<ProxyConfig>(std::move(proxy_config)));
    return {};
  };
  return {
      [=](const Frame& frame, const caf::actor& remote) {
        const auto message = wire::decode(frame.bytes);
        const auto* hello = message ? std::get_if<wire::Hello>(&*message) : nullptr;
        Result<void> done = fail(ErrorCode::malformed, "a node must say hello first");
        if (hello != nullptr) done = let_in(*hello, remote);
        if (done) return;
        spdlog::warn("event=node_refused node={} error=\"{}\"", hello ? hello->node : "?",
                     to_string(done.error()));
        caf::anon_send(remote, Frame{wire::encode(wire::Refused{done.error()})});
      },
  };
}

// ---- the node's side

using FullLink = LinkActor::extend<caf::reacts_to<Frame>>;

struct LinkState {
  using Self = FullLink::stateful_pointer<LinkState>;
  explicit LinkState(Self actor) : self(actor) {}

  Self self;
  LinkConfig config;
  caf::actor door;
  caf::actor proxy;
  std::uint64_t epoch = 0;
  std::uint64_t probe = 0;
  cluster::EventFeed events;
  std::unordered_set<RequestId> runs;  // at the node, for this router
  Clock::time_point heard, said_hello, next_try, next_memory;
  std::chrono::milliseconds backoff{100};
  std::string reason;  // for not serving, as last told

  static constexpr std::chrono::milliseconds memory_interval{2000};
  static constexpr std::chrono::milliseconds tick{100};
  static constexpr std::chrono::milliseconds longest_backoff{2000};

  void send(const wire::Message& message) {
    if (proxy) self->send(caf::actor_cast<FrameSink>(proxy), Frame{wire::encode(message)});
  }

  void on_tick() {
    const auto now = Clock::now();
    if (proxy && now - heard > config.timeout) stop("the router has said nothing for too long");
    if (!proxy && door && now - said_hello > config.timeout) stop("no answer to a hello");
    if (!door && now >= next_try) connect();
    self->delayed_send(self, tick, TickAtom::value);
  }

  void connect() {
    auto& system = self->system();
    auto found = config.tls
                     ? caf::openssl::remote_actor<caf::actor>(system, config.host, config.port)
                     : system.middleman().remote_actor<caf::actor>(config.host, config.port);
    if (!found) return stop("cannot reach the router: " + system.render(found.error()));
    door = std::move(*found);
    self->monitor(door);
    wire::Hello hello;
    hello.protocols = config.protocols;
    hello.node = config.node;
    hello.software = PLIMSOLL_VERSION;
    if (config.secret) hello.secret = config.secret();
    hello.join_token = config.join_token;
    hello.weight = config.weight;
    said_hello = Clock::now();
    caf::anon_send(door, Frame{wire::encode(hello)}, caf::actor_cast<caf::actor>(self));
  }

  void receive(const Frame& frame) {
    auto message = wire::decode(frame.bytes);
    if (!message) return stop("malformed: " + message.error().message);
    heard = Clock::now();
    std::visit([this](auto& x) { receive(x); }, *message);
  }
  void receive(wire::Welcome& welcome) {
    drop_runs();
    next_memory = Clock::now() + memory_interval / 4;  // reading it takes time; models go first
    proxy = caf::actor_cast<caf::actor>(self->current_sender());
    if (!proxy) return;
    self->monitor(proxy);
    epoch = welcome.epoch;
    backoff = std::chrono::milliseconds(100);
    if (!welcome.secret.empty() && config.keep_secret) config.keep_secret(welcome.secret);
    spdlog::info("event=joined router={} address={}:{} epoch={} protocol={}", welcome.router,
                 config.host, config.port, epoch, welcome.protocol);
    reason.clear();
    if (config.on_state) config.on_state(true, "");
    self->send(config.node_actor, StartAtom::value, NodeListener(self));
  }
  void receive(wire::Refused& refused) { stop(refused.error.message); }
  void receive(wire::Probe& asked) { probe = asked.clock; }
  void receive(SubmitStream& request) {
    if (!proxy) return;
    for (const auto& sequence : request.sequences) runs.insert(sequence.id);
    self->send(config.node_actor, std::move(request), NodeListener(self));
  }
  void receive(EmbedTokens& request) {
    if (!proxy) return;
    runs.insert(request.id);
    self->send(config.node_actor, std::move(request), NodeListener(self));
  }
  void receive(CancelSequences& message) { self->send(config.node_actor, std::move(message)); }
  void receive(AddCredit& message) { self->send(config.node_actor, message); }
  void receive(Drain& message) { self->send(config.node_actor, message); }
  void receive(LoadModel& message) { self->send(config.node_actor, std::move(message)); }
  void receive(UnloadModel& message) { self->send(config.node_actor, std::move(message)); }
  void receive(SetCachePolicies& message) { self->send(config.node_actor, std::move(message)); }
  void receive(wire::AskCache& ask) {
    const auto tell = [this, id = ask.id](CacheAnswer answer) {
      send(wire::TellCache{id, std::move(answer)});
    };
    self->request(config.node_actor, cache_call_patience, std::move(ask.call))
        .then(tell, [tell](const caf::error& error) {
          tell(refusal(
              Error(ErrorCode::unavailable, "the node does not answer: " + caf::to_string(error))));
        });
  }
  template <class Other>
  void receive(const Other&) {}  // not for a node

  void from_node(NodeReport& report) {
    report.epoch = epoch;
    report.probe = probe;
    if (proxy) {
      if (config.memory && Clock::now() >= next_memory) {
        report.memory = config.memory();
        next_memory = Clock::now() + memory_interval;
      }
      report.events = events.next(config.board->events(), unix_seconds(), wire::most_report_events);
    }
    send(std::move(report));
  }
  void from_node(NodeEvents& events) {
    std::erase_if(events.events, [this](const auto& e) { return !runs.contains(e.id); });
    if (events.events.empty()) return;
    for (const auto& event : events.events) {
      if (event.finish) runs.erase(event.id);
    }
    events.epoch = epoch;
    const auto charge = std::move(events.charge);
    send(std::move(events));
  }
  void from_node(EmbedResult& result) {
    if (runs.erase(result.id) != 0) send(std::move(result));
  }

  // What the router had here, it has given to others by now.
  void drop_runs() {
    if (runs.empty()) return;
    CancelSequences all;
    all.ids.assign(runs.begin(), runs.end());
    runs.clear();
    self->send(config.node_actor, std::move(all));
  }

  void stop(const std::string& why) {
    if (why != reason) {
      spdlog::warn("event=router_unreachable address={}:{} sequences={} reason=\"{}\"", config.host,
                   config.port, runs.size(), why);
      reason = why;
      if (config.on_state) config.on_state(false, why);
    }
    drop_runs();
    if (proxy) self->demonitor(proxy.address());
    if (door) self->demonitor(door.address());
    proxy = nullptr;
    door = nullptr;
    epoch = 0;
    next_try = Clock::now() + backoff;
    backoff = std::min(backoff * 2, longest_backoff);
  }
};

FullLink::behavior_type link(LinkState::Self self, const std::shared_ptr<LinkConfig>& config) {
  self->state.config = std::move(*config);
  self->set_down_handler([=](caf::down_msg& down) {
    auto& state = self->state;
    const bool ours = (state.proxy && state.proxy.address() == down.source) ||
                      (state.door && state.door.address() == down.source);
    if (ours) state.stop("the connection was lost: " + caf::to_string(down.reason));
  });
  self->send(self, TickAtom::value);
  return {
      [=](NodeEvents& events) { self->state.from_node(events); },
      [=](EmbedResult& result) { self->state.from_node(result); },
      [=](NodeReport& report) { self->state.from_node(report); },
      [=](TickAtom) { self->state.on_tick(); },
      [=](const Frame& frame) { self->state.receive(frame); },
  };
}

}  // namespace

Result<Door> open_door(caf::actor_system& system, DoorConfig config) {
  const auto host = config.host;
  const auto port = config.port;
  const bool tls = config.tls;
  // On a thread of its own: who may come in is looked up in the store.
  const auto actor =
      system.spawn<caf::detached>(door, std::make_shared<DoorConfig>(std::move(config)));
  auto bound = tls ? caf::openssl::publish(actor, port, host.c_str(), true)
                   : system.middleman().publish(actor, port, host.c_str(), true);
  if (!bound) {
    caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
    return fail(ErrorCode::unavailable, "nodes cannot join at " + host + ":" +
                                            std::to_string(port) + ": " +
                                            system.render(bound.error()));
  }
  return Door{actor, *bound};
}

void close_door(caf::actor_system& system, const Door& door) {
  // What is published is kept alive by the network, and with it the door's thread.
  system.middleman().unpublish(door.actor, door.port);
  caf::anon_send_exit(door.actor, caf::exit_reason::user_shutdown);
}

LinkActor spawn_link(caf::actor_system& system, LinkConfig config) {
  // On a thread of its own: reaching a router blocks.
  return caf::actor_cast<LinkActor>(
      system.spawn<caf::detached>(link, std::make_shared<LinkConfig>(std::move(config))));
}

void end_link(LinkActor link) {
  const auto address = link.address();
  caf::anon_send_exit(link, caf::exit_reason::user_shutdown);
  link = nullptr;
  const auto until = Clock::now() + longest_end;
  while (caf::actor_cast<caf::strong_actor_ptr>(address) && Clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace plimsoll
