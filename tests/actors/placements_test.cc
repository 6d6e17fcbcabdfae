// What a node is told to load and unload, and what becomes of streams meanwhile.
#include "actors/placements.h"

#include <gtest/gtest.h>

#include <atomic>

#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using cluster::Time;
using testing::House;
using testing::HouseOptions;

const LoadModel p1{"p", "/p", "p@1"};
const LoadModel p2{"p", "/p2", "p@2"};

// ---- the decisions

std::string text(const std::vector<Placements::Order>& orders) {
  std::string out;
  for (const auto& order : orders) {
    if (const auto* load = std::get_if<LoadModel>(&order)) out += "+" + load->version + " ";
    if (const auto* unload = std::get_if<UnloadModel>(&order)) out += "-" + unload->name + " ";
  }
  return out;
}

struct Told {
  Placements placements;
  bool served = false;

  std::string on(double at, std::vector<ReplicaReport> replicas, const std::string& node = "n") {
    NodeReport report;
    report.node = node;
    report.replicas = std::move(replicas);
    return text(placements.orders(report, Time(at), [this](const auto&) { return served; }));
  }
};

const ReplicaReport loading{"p", "", "", true};
const ReplicaReport ready{"p", "p@1", "", true};
const ReplicaReport failed{"p", "", "no such file", true};

TEST(Placements, NothingIsToldBeforeTheyAreKnown) {
  Told told;
  EXPECT_EQ(told.on(0, {ready}), "");
  told.placements.set({});
  EXPECT_EQ(told.on(0.1, {ready}), "-p ");
}

TEST(Placements, AnOrderIsNotRepeatedUntilAReportCouldShowIt) {
  Told told;
  told.placements.set({{p1, {}}});
  EXPECT_EQ(told.on(0, {}), "+p@1 ");
  EXPECT_EQ(told.on(0.2, {}), "");
  EXPECT_EQ(told.on(6, {}), "+p@1 ");
  EXPECT_EQ(told.on(6.2, {loading}), "");
  EXPECT_EQ(told.on(6.4, {ready}), "");
  told.placements.set({});
  EXPECT_EQ(told.on(6.6, {ready}), "-p ");
  EXPECT_EQ(told.on(6.8, {ready}), "");
  EXPECT_EQ(told.on(7, {}), "");
  told.placements.set({{p1, {}}});
  EXPECT_EQ(told.on(7.2, {}), "+p@1 ") << "it was told to unload last";
}

TEST(Placements, ANewEpochIsToldAgain) {
  Told told;
  told.placements.set({{p1, {}}});
  EXPECT_EQ(told.on(0, {}), "+p@1 ");
  told.placements.forget("n");
  EXPECT_EQ(told.on(0.2, {}), "+p@1 ");
}

TEST(Placements, OnlyWhatWasPlacedIsUnloaded) {
  Told told;
  told.placements.set({});
  EXPECT_EQ(told.on(0, {{"p", "p@1", "", false}}), "");
  told.placements.set({{p2, {}}});
  EXPECT_EQ(told.on(0, {{"p", "p@1", "", false}}), "") << "the configuration's";
}

TEST(Placements, AnotherVersionIsReplaced) {
  Told told;
  told.placements.set({{p1, {}}});
  EXPECT_EQ(told.on(0, {ready}), "");
  told.placements.set({{p2, {}}});
  EXPECT_EQ(told.on(0.2, {ready}), "-p ");
  EXPECT_EQ(told.on(0.4, {}), "+p@2 ");
  EXPECT_EQ(told.on(0.6, {loading}), "");
}

TEST(Placements, WhatIsBeingLoadedIsReplacedToo) {
  Told told;
  told.placements.set({{p1, {}}});
  EXPECT_EQ(told.on(0, {}), "+p@1 ");
  told.placements.set({{p2, {}}});
  EXPECT_EQ(told.on(0.2, {}), "-p +p@2 ") << "the node may have begun";
  told.placements.set({{p1, {}}});
  EXPECT_EQ(told.on(0.4, {loading}), "-p ");
  EXPECT_EQ(told.on(0.6, {}), "+p@1 ");
}

TEST(Placements, WhatFailedIsTriedAgainWhenItsPlacementChanges) {
  Told told;
  told.placements.set({{p1, {"n"}}});
  EXPECT_EQ(told.on(0, {}), "+p@1 ");
  EXPECT_EQ(told.on(1, {failed}), "");
  told.placements.set({{p1, {"n"}}});
  EXPECT_EQ(told.on(100, {failed}), "") << "the same one again";
  told.placements.set({{p1, {"n", "o"}}});
  EXPECT_EQ(told.on(101, {failed}), "-p ");
  EXPECT_EQ(told.on(102, {}), "+p@1 ");
  EXPECT_EQ(told.on(103, {failed}), "");
  told.placements.set({});
  EXPECT_EQ(told.on(104, {failed}), "-p ");
}

TEST(Placements, AReplicaStaysUntilItIsServedElsewhere) {
  Told told;
  told.placements.set({{p1, {"n"}}});
  EXPECT_EQ(told.on(0, {ready}), "");
  told.placements.set({{p1, {"o"}}});
  EXPECT_EQ(told.on(1, {ready}), "");
  EXPECT_EQ(told.on(1, {}, "o"), "+p@1 ");
  told.served = true;
  EXPECT_EQ(told.on(2, {ready}), "-p ");
}

// ---- the actors

struct Placing : House {
  explicit Placing(HouseOptions options) : House(std::move(options)) {
    ClusterFrontend::Served served;
    served.text = std::make_shared<TextModel>("p", testing::byte_model_text(), 4096);
    served.version = "p@1";
    frontend->add_model("p", std::move(served));
    text_side("p", "p@1");
  }

  void text_side(const std::string& model, const std::string& version,
                 ModelState state = ModelState::ready) {
    ModelEntry entry;
    entry.name = model;
    entry.version = version;
    entry.state = state;
    caf::anon_send(router, std::move(entry));
  }
  void place(std::vector<PlacedModel> models) {
    caf::anon_send(router, SetPlacements{std::move(models)});
  }

  // "loading", "ready", "failed: why", or "none".
  std::string replica(const std::string& node, const std::string& model = "p") const {
    for (const auto& status : board->nodes()) {
      if (status.name != node) continue;
      for (const auto& r : status.replicas) {
        if (r.model == model) return r.state + (r.reason.empty() ? "" : ": " + r.reason);
      }
    }
    return "none";
  }
  bool wait_for(const std::string& node, const std::string& state,
                const std::string& model = "p") const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (replica(node, model).rfind(state, 0) != 0) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  std::shared_ptr<testing::Listener> ask(const std::string& prompt, std::uint32_t tokens,
                                         bool consume = true) {
    GenerateRequest request;
    request.model = "p";
    request.input = prompt;
    request.max_tokens = tokens;
    request.ignore_eos = true;
    return generate(std::move(request), consume);
  }
};

std::string repeated(const std::string& prompt, std::size_t tokens) {
  std::string out;
  while (out.size() < tokens) out += prompt;
  return out.substr(0, tokens);
}

// Loads wait until it is opened.
struct Gate {
  std::atomic<bool> open{false};
  void pass() const { open.wait(false); }
  void let() {
    open = true;
    open.notify_all();
  }
};

TEST(PlacedModels, AreServedByTheNodesThatTheyArePlacedOn) {
  Placing house({.nodes = 2});
  house.place({{p1, {"node-1"}}});
  ASSERT_TRUE(house.wait_for("node-1", "ready"));
  const auto answer = house.ask("abc", 6);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  EXPECT_EQ(answer->text.at(0), "abcabc");
  EXPECT_EQ(house.replica("node-0"), "none");
  EXPECT_EQ(house.replica("node-0", "m"), "ready") << "the configured ones are left alone";
}

TEST(PlacedModels, StreamsGoOnWhereTheirModelIsMovedTo) {
  Placing house({.nodes = 2, .step = std::chrono::microseconds(1000)});
  house.place({{p1, {"node-0"}}});
  ASSERT_TRUE(house.wait_for("node-0", "ready"));
  // They run while the model is moved, and cannot be at their end when it has been.
  std::vector<std::shared_ptr<testing::Listener>> answers;
  for (int i = 0; i < 4; ++i) answers.push_back(house.ask("move" + std::to_string(i), 400, false));
  for (const auto& answer : answers) ASSERT_TRUE(answer->wait_for_tokens(10));
  house.place({{p1, {"node-1"}}});
  ASSERT_TRUE(house.wait_for("node-1", "ready"));
  ASSERT_TRUE(house.wait_for("node-0", "none"));
  for (int i = 0; i < 4; ++i) {
    auto& answer = *answers[static_cast<std::size_t>(i)];
    {
      const std::lock_guard lock(answer.mutex);
      answer.consume = true;
      answer.stream->consumed(answer.received);
    }
    ASSERT_TRUE(answer.wait());
    EXPECT_FALSE(answer.error) << to_string(*answer.error);
    EXPECT_EQ(answer.text.at(0), repeated("move" + std::to_string(i), 400));
  }
}

TEST(PlacedModels, ANodeThatCannotLoadTakesNothingFromTheOneThatServes) {
  std::atomic<int> loads{0};
  const auto on_load = [&](const std::string& node, const LoadModel&) -> std::optional<Error> {
    ++loads;
    if (node == "node-0") return std::nullopt;
    return Error(ErrorCode::resource_exhausted, "KV memory does not fit");
  };
  Placing house({.nodes = 2, .on_load = on_load});
  house.place({{p1, {"node-0"}}});
  ASSERT_TRUE(house.wait_for("node-0", "ready"));
  house.place({{p1, {"node-1"}}});
  ASSERT_TRUE(house.wait_for("node-1", "failed: KV memory does not fit"));
  const auto answer = house.ask("abc", 3);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  EXPECT_EQ(loads, 2) << "what failed is not tried again by itself";
  house.place({{p1, {"node-0"}}});
  ASSERT_TRUE(house.wait_for("node-1", "none"));
  EXPECT_EQ(house.replica("node-0"), "ready");
}

TEST(PlacedModels, WhatRunsOnAModelThatGoesEndsWithARetryableError) {
  Placing house({.step = std::chrono::microseconds(1000)});
  house.place({{p1, {}}});
  ASSERT_TRUE(house.wait_for("node-0", "ready"));
  const auto answer = house.ask("abc", 4000);
  ASSERT_TRUE(answer->wait_for_tokens(3));
  house.place({});
  ASSERT_TRUE(answer->wait());
  ASSERT_TRUE(answer->error);
  EXPECT_EQ(answer->error->code, ErrorCode::unavailable);
  EXPECT_GT(answer->error->retry_after_ms, 0U);
  ASSERT_TRUE(house.wait_for("node-0", "none"));
}

TEST(PlacedModels, AreLoadedByANodeThatJoinsLater) {
  Placing house({});
  house.place({{p1, {"node-9"}}});
  house.add_node("node-9", 1, {});
  ASSERT_TRUE(house.wait_for("node-9", "ready"));
  EXPECT_EQ(house.replica("node-0"), "none");
  caf::anon_send_exit(house.nodes.at(1), caf::exit_reason::kill);
  house.add_node("node-9", 2, {});
  ASSERT_TRUE(house.wait_for("node-9", "none"));
  ASSERT_TRUE(house.wait_for("node-9", "ready")) << "in its new epoch too";
}

TEST(PlacedModels, RequestsAreToldToComeAgainWhileTheyAreLoaded) {
  Gate gate;
  const auto on_load = [&](const std::string&, const LoadModel&) -> std::optional<Error> {
    gate.pass();
    return std::nullopt;
  };
  Placing house({.on_load = on_load});
  house.place({{p1, {}}});
  EXPECT_TRUE(house.wait_for("node-0", "loading"));
  const auto early = house.ask("abc", 3);
  EXPECT_TRUE(early->wait());
  gate.let();
  ASSERT_TRUE(early->error);
  EXPECT_EQ(early->error->code, ErrorCode::unavailable);
  EXPECT_GT(early->error->retry_after_ms, 0U);
  ASSERT_TRUE(house.wait_for("node-0", "ready"));
  const auto late = house.ask("abc", 3);
  ASSERT_TRUE(late->wait());
  EXPECT_FALSE(late->error);
}

TEST(PlacedModels, OneThatIsReplacedWhileItLoadsNeverServes) {
  Gate gate;
  std::atomic<int> loads{0}, at_once{0}, most{0};
  const auto on_load = [&](const std::string&, const LoadModel& request) -> std::optional<Error> {
    ++loads;
    most = std::max<int>(most, ++at_once);
    if (request.version == "p@1") gate.pass();
    --at_once;
    return std::nullopt;
  };
  Placing house({.on_load = on_load});
  house.place({{p1, {}}});
  EXPECT_TRUE(house.wait_for("node-0", "loading"));
  house.text_side("p", "p@2");
  house.place({{p2, {}}});
  house.settle();
  gate.let();
  EXPECT_TRUE(house.wait_for("node-0", "ready"));
  EXPECT_EQ(loads, 2) << "the first one was not taken for the second";
  EXPECT_EQ(most, 1) << "two at once could both find room that is there once";
}

TEST(PlacedModels, AReplicaOfAnotherVersionIsShownAndNotUsed) {
  Placing house({});
  house.text_side("m", "m@1");
  ASSERT_TRUE(house.wait_for("node-0", "failed", "m"));
  EXPECT_EQ(house.replica("node-0", "m"), "failed: the node has m@0, this router m@1");
  const auto answer = house.generate("abc", 3);
  ASSERT_TRUE(answer->wait());
  EXPECT_EQ(answer->error->code, ErrorCode::unavailable);
  house.text_side("m", "", ModelState::gone);
  EXPECT_TRUE(house.wait_for("node-0", "ready", "m")) << "no version is expected any more";
}

TEST(PlacedModels, ANodeThatDrainsIsLeftAlone) {
  Placing house({.nodes = 2});
  house.place({{p1, {"node-0"}}});
  ASSERT_TRUE(house.wait_for("node-0", "ready"));
  caf::anon_send(house.router, InRouter{[](auto& router, auto now, auto& actions) {
                   router.drain("node-1", Time(1e300), now, actions);
                 }});
  house.place({{p1, {}}});
  const auto answer = house.ask("abc", 300);  // some heartbeats
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  EXPECT_EQ(house.replica("node-1"), "none");
}

TEST(PlacedModels, ALoaderThatThrowsFailsItsModelOnly) {
  const auto on_load = [](const std::string&, const LoadModel&) -> std::optional<Error> {
    throw std::runtime_error("out of luck");
  };
  Placing house({.on_load = on_load});
  house.place({{p1, {}}});
  EXPECT_TRUE(house.wait_for("node-0", "failed: out of luck"));
}

}  // namespace
}  // namespace plimsoll
