// Links between processes whose versions differ, over real connections.
#include "actors/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <caf/io/all.hpp>

#include "tests/actors/fake_disk_cache.h"
#include "tests/actors/house.h"
#include "tests/actors/next_version.h"

namespace plimsoll {
namespace {

using testing::as_next;
using testing::EchoEngine;
using testing::FrameReader;
using testing::House;
using testing::unknown_frame;
using wire::Protocols;

constexpr std::chrono::seconds patience{20};

// A router with a door, and no node of its own.
struct Doorway {
  explicit Doorway(Protocols protocols = {}) {
    DoorConfig config;
    config.router = "router-1";
    config.protocols = protocols;
    config.heartbeat = std::chrono::milliseconds(10);
    config.router_actor = house.router;
    config.ledger = &house.ledger;
    config.board = house.board;
    config.admit = [](const wire::Hello&) -> Result<DoorConfig::Admission> {
      return DoorConfig::Admission{};
    };
    auto opened = open_door(house.system, std::move(config));
    EXPECT_TRUE(opened) << to_string(opened.error());
    if (opened) door = *opened;
  }
  ~Doorway() { close_door(house.system, door); }

  // Until a node serves model "m"; the answer of "abc" with 6 tokens.
  std::string answer() {
    const auto until = std::chrono::steady_clock::now() + patience;
    for (;;) {
      const auto listener = house.generate("abc", 6);
      EXPECT_TRUE(listener->wait());
      if (!listener->error) return listener->text.at(0);
      if (std::chrono::steady_clock::now() > until) return to_string(*listener->error);
    }
  }

  House house{{.nodes = 0, .network = true}};
  Door door;
};

// Another process's system, and what must outlive it.
struct Elsewhere {
  static ActorSystemConfig& configured(ActorSystemConfig& config) {
    EXPECT_TRUE(enable_network(config, {}, std::chrono::seconds(10)));
    return config;
  }
  Ledger ledger;
  std::shared_ptr<Board> board = std::make_shared<Board>();
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::pair<bool, std::string>> states;  // of a link
  ActorSystemConfig config{2};
  caf::actor_system system{configured(config)};
};

// A node with an echo engine and a link.
struct LinkedNode : Elsewhere {
  LinkedNode(std::uint16_t port, Protocols protocols) {
    auto inbox = std::make_shared<NodeInbox>();
    NodeConfig settings;
    settings.name = "node-1";
    settings.inbox = inbox;
    settings.ledger = &ledger;
    settings.heartbeat = std::chrono::milliseconds(10);
    settings.cache = std::make_shared<NodeCache>(cache, CacheSettings{});
    auto engine = std::make_unique<EchoEngine>(make_engine_sink(inbox, ledger));
    settings.engines.push_back({"m", nullptr, std::move(engine), nullptr, "m@0"});
    node = spawn_node(system, std::move(settings));
    LinkConfig config;
    config.host = "127.0.0.1";
    config.port = port;
    config.node = "node-1";
    config.protocols = protocols;
    config.node_actor = node;
    config.board = board;
    config.memory = [] {
      MemoryReport report;
      report.process.rss_bytes = 77;
      return std::make_shared<const MemoryReport>(report);
    };
    config.timeout = patience;
    config.on_state = [this](bool serving, const std::string& reason) {
      const std::lock_guard lock(mutex);
      states.emplace_back(serving, reason);
      changed.notify_all();
    };
    link = spawn_link(system, std::move(config));
  }
  ~LinkedNode() {
    caf::anon_send_exit(node, caf::exit_reason::user_shutdown);
    end_link(std::move(link));
    system.await_all_actors_done();
  }

  // The last state, once there are so many.
  std::pair<bool, std::string> state(std::size_t count = 1) {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, patience, [&] { return states.size() >= count; }));
    return states.empty() ? std::pair(false, std::string("none")) : states.back();
  }

  std::shared_ptr<testing::FakeDiskCache> cache = std::make_shared<testing::FakeDiskCache>();
  NodeActor node;
  LinkActor link;
};

// A peer that this build did not write: sends frames as they are, and keeps what comes.
struct RawPeer : Elsewhere {
  caf::actor self_handle() { return caf::actor_cast<caf::actor>(&*self); }
  void say(const caf::actor& to, std::string frame) { self->send(to, Frame{std::move(frame)}); }

  // The next frame that is wanted; the others are dropped.
  template <class Wanted>
  FrameReader hear(Wanted wanted) {
    const auto until = std::chrono::steady_clock::now() + patience;
    std::optional<FrameReader> found;
    while (!found && std::chrono::steady_clock::now() < until) {
      self->receive(
          [&](const Frame& frame) {
            FrameReader reader(frame.bytes);
            if (!wanted(reader.as<next::Frame>())) return;
            peer = caf::actor_cast<caf::actor>(self->current_sender());
            found.emplace(std::move(reader));
          },
          [&](const Frame& frame, const caf::actor& from) {
            FrameReader reader(frame.bytes);
            if (!wanted(reader.as<next::Frame>())) return;
            peer = from;
            found.emplace(std::move(reader));
          },
          caf::after(patience) >> [] {});
    }
    if (!found) throw std::runtime_error("the frame did not come");
    return std::move(*found);
  }

  caf::scoped_actor self{system};
  caf::actor peer;  // who sent the last frame, if that is known
};

TEST(Network, NeighboursTalkTheNewestThatBothKnow) {
  for (const Protocols router : {Protocols{1, 1}, Protocols{1, 2}, Protocols{2, 2}}) {
    Doorway here(router);
    RawPeer node;
    const auto door = node.system.middleman().remote_actor<caf::actor>("127.0.0.1", here.door.port);
    ASSERT_TRUE(door);
    wire::Hello hello;
    hello.node = "node-1";
    hello.protocols = {1, 2};
    node.self->send(*door, Frame{wire::encode(hello)}, node.self_handle());
    auto answer = node.hear([](auto frame) { return frame.isWelcome(); });
    EXPECT_EQ(answer.as<next::Frame>().getWelcome().getProtocol(), router.newest);
  }
}

TEST(Network, ANodeOfTheNextVersionServesAPresentRouterAndTheOtherWayRound) {
  for (const auto& [router, node] :
       {std::pair(Protocols{1, 1}, Protocols{1, 2}), std::pair(Protocols{1, 2}, Protocols{1, 1})}) {
    Doorway here(router);
    LinkedNode there(here.door.port, node);
    EXPECT_TRUE(there.state().first) << there.state().second;
    EXPECT_EQ(here.answer(), "abcabc");
  }
}

TEST(Network, ANodesEventsReachTheLogOfItsRouterOnce) {
  Doorway here;
  LinkedNode there(here.door.port, {});
  EXPECT_TRUE(there.state().first);
  // A log adds to an entry that is about a second old at most, and so do reports: these are from a
  // minute ahead, and stay young however slow this is.
  const double soon =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count() +
      60;
  cluster::Event event;
  event.unix_seconds = soon;
  event.node = "as it calls itself";
  event.kind = cluster::EventKind::refuse;
  event.level = cluster::Level::red;
  event.tenant = "acme";
  event.model = "m";
  event.cause = "no headroom";
  event.bytes = 10;
  event.used_bytes = 90;
  event.limit_bytes = 100;
  there.board->events().add(event);
  there.board->events().add(event);
  // They come in order, in one report or in several: once the last one is here, all are.
  cluster::Event last;
  last.unix_seconds = soon + 2;
  there.board->events().add(last);
  const auto& log = here.house.board->events();
  const auto until = std::chrono::steady_clock::now() + patience;
  while (log.last_id() < 2 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(here.answer(), "abcabc") << "reports went on";
  while (here.house.board->memory().empty() && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const auto memory = here.house.board->memory();
  ASSERT_EQ(memory.size(), 1U);
  EXPECT_EQ(memory[0].node, "node-1");
  EXPECT_EQ(memory[0].report->process.rss_bytes, 77U);
  const auto events = log.after(0);
  ASSERT_EQ(events.size(), 2U);
  event.id = 1;
  event.node = "node-1";
  event.bytes = 20;
  event.count = 2;
  EXPECT_EQ(events[0], event);
}

TEST(Network, ARouterReachesTheCacheOfANode) {
  Doorway router;
  caf::anon_send(router.house.router,
                 SetCachePolicies{{{"early", {false, 1, {}}}}});  // the node has yet to come
  LinkedNode node(router.door.port, {});
  EXPECT_EQ(router.answer(), "abcabc");
  caf::anon_send(router.house.router,
                 SetCachePolicies{{{"early", {false, 1, {}}}, {"late", {false, 2, {}}}}});
  caf::scoped_actor self(router.house.system);
  const auto ask = [&](const std::string& name, const CacheCall& call) {
    CacheAnswer out;
    self->request(router.house.router, patience, AskNodeCache{name, call})
        .receive([&](CacheAnswer& answer) { out = std::move(answer); },
                 [](const caf::error& error) { FAIL() << caf::to_string(error); });
    return out;
  };
  const auto seen = ask("node-1", LookAtCache());
  ASSERT_FALSE(seen.error);
  EXPECT_EQ(seen.report.limit_bytes, 1000U);
  EXPECT_EQ(seen.report.rows.size(), 2U);
  EXPECT_THAT(node.cache->asked(), ::testing::ElementsAre("quota early 1", "quota late 2"));
  EXPECT_EQ(ask("node-1", storage::CachePurge{TenantId("acme")}).purged_entries, 7U);
  const auto refused = ask("node-1", SetCacheTtl{storage::CacheKind::prefix,
                                                 std::chrono::milliseconds(~std::uint32_t{1})});
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->code, ErrorCode::invalid_argument);
  ASSERT_TRUE(ask("node-9", LookAtCache()).error);
  EXPECT_EQ(ask("node-9", LookAtCache()).error->code, ErrorCode::unavailable);
}

TEST(Network, ANodeThatIsTooNewIsToldSoAndServesOnceItsRouterIsNewToo) {
  RawPeer router;  // counts the hellos
  const auto port = router.system.middleman().publish(router.self_handle(), 0, "127.0.0.1");
  ASSERT_TRUE(port);
  std::string refusal;
  {
    Doorway old;
    LinkedNode there(old.door.port, {2, 2});
    const auto [serving, reason] = there.state();
    EXPECT_FALSE(serving);
    EXPECT_THAT(reason, ::testing::HasSubstr("node 'node-1'"));
    EXPECT_THAT(reason, ::testing::HasSubstr("speaks protocols 2 to 2, this router"));
    EXPECT_THAT(reason, ::testing::HasSubstr("1 to 1"));
    EXPECT_TRUE(old.house.board->nodes().empty());
    refusal = reason;
  }
  LinkedNode there(*port, {2, 2});
  std::chrono::steady_clock::time_point first;
  for (int i = 0; i < 4; ++i) {
    auto hello = router.hear([](auto frame) { return frame.isHello(); });
    EXPECT_EQ(hello.as<next::Frame>().getHello().getProtocolOldest(), 2);
    if (i == 0) first = std::chrono::steady_clock::now();
    const Error error(ErrorCode::unsupported, refusal);
    router.say(router.peer, wire::encode(wire::Refused{error}));
  }
  // It waits 100, 200 and 400 ms; the first may have been heard late.
  EXPECT_GE(std::chrono::steady_clock::now() - first, std::chrono::milliseconds(400));
  EXPECT_EQ(there.state().second, refusal);
  router.hear([](auto frame) { return frame.isHello(); });
  router.say(router.peer, wire::encode(wire::Welcome{2, "router-1", "0.2.0", 7, 200, ""}));
  EXPECT_TRUE(there.state(2).first);
  EXPECT_EQ(there.states.size(), 2U) << "the same refusal again is no news";
}

TEST(Network, ARouterUnderstandsANodeOfTheNextVersion) {
  Doorway here;
  RawPeer node;
  const auto door = node.system.middleman().remote_actor<caf::actor>("127.0.0.1", here.door.port);
  ASSERT_TRUE(door);
  wire::Hello hello;
  hello.node = "node-1";
  hello.protocols = {1, 2};
  node.self->send(*door, Frame{as_next(wire::encode(hello))}, node.self_handle());
  auto answer = node.hear([](auto frame) { return frame.isWelcome(); });
  const auto proxy = node.peer;
  const auto welcome = answer.as<next::Frame>().getWelcome();
  EXPECT_EQ(welcome.getProtocol(), 1);
  EXPECT_EQ(welcome.getNextNumber(), 0U) << "the default: it is an older router";

  node.say(proxy, unknown_frame());
  NodeReport report;
  report.epoch = welcome.getEpoch();
  report.models = {{"m", {}}};
  report.replicas = {{"m", "m@0", ""}};
  node.say(proxy, as_next(wire::encode(report)));
  node.hear([](auto frame) { return frame.isProbe(); });  // the report has arrived
  const auto listener = here.house.generate("abc", 2);
  auto work = node.hear([](auto frame) { return frame.isSubmit(); });
  const auto submit = work.as<next::Frame>().getSubmit();
  EXPECT_EQ(submit.getPrompt().size(), 3U);
  ASSERT_EQ(submit.getSequences().size(), 1U);
  EXPECT_FALSE(submit.getSequences()[0].hasNextText());

  NodeEvents events;
  events.epoch = report.epoch;
  events.events.resize(1);
  auto& event = events.events[0];
  event.id = RequestId(submit.getSequences()[0].getRun());
  event.tokens = {{'o', 0, {}}, {'k', 0, {}}};
  event.finish = FinishReason::length;
  event.usage = {3, 0, 2, 0};
  node.say(proxy, unknown_frame());
  node.say(proxy, as_next(wire::encode(events)));
  ASSERT_TRUE(listener->wait());
  ASSERT_FALSE(listener->error) << to_string(*listener->error);
  ASSERT_EQ(listener->text.size(), 1U);
  EXPECT_EQ(listener->text[0], "ok");
}

TEST(Network, ANodeUnderstandsARouterOfTheNextVersion) {
  RawPeer router;
  const auto port = router.system.middleman().publish(router.self_handle(), 0, "127.0.0.1");
  ASSERT_TRUE(port);
  LinkedNode there(*port, {});
  auto frame = router.hear([](auto frame) { return frame.isHello(); });
  const auto hello = frame.as<next::Frame>().getHello();
  EXPECT_EQ(hello.getNode(), "node-1");
  EXPECT_FALSE(hello.hasNextText());
  const auto link = router.peer;
  router.say(link, as_next(wire::encode(wire::Welcome{1, "router-1", "0.2.0", 7, 200, ""})));
  EXPECT_TRUE(there.state().first);
  router.say(link, unknown_frame());

  SubmitStream submit;
  submit.model = "m";
  submit.prompt = {'a', 'b'};
  submit.max_new_tokens = 3;
  submit.deadline_ms = 60'000;
  submit.sequences = {{RequestId(5), 0, {}, 8, false}};
  router.say(link, as_next(wire::encode(submit)));
  std::string text;
  for (bool ended = false; !ended;) {
    auto said = router.hear([](auto frame) { return frame.isEvents(); });
    const auto events = said.as<next::Frame>().getEvents();
    EXPECT_EQ(events.getEpoch(), 7U);
    for (const auto event : events.getEvents()) {
      EXPECT_EQ(event.getRun(), 5U);
      for (const auto id : event.getTokens().getIds()) text += static_cast<char>(id);
      ended = ended || event.getFinish() == next::Events::Finish::LENGTH;
    }
  }
  EXPECT_EQ(text, "aba");
  EXPECT_EQ(there.states.size(), 1U) << "the link held";
}

}  // namespace
}  // namespace plimsoll
