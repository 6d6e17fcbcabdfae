// Models that compute, loaded and unloaded at run time: their memory is planned before and given
// back after.
#include "actors/model_loader.h"

#include <gtest/gtest.h>

#include "actors/node.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll {
namespace {

struct LoadingNode {
  explicit LoadingNode(std::uint64_t memory_limit_bytes) {
    make_tiny_model("llama", {}, TensorType::q8_0).write(file);
    config.engine.threads = 1;
    config.engine.context_tokens = 64;
    config.engine.kv_bytes = 1_MiB;
    config.engine.packed_directory = folder.path();
    config.memory_limit_bytes = memory_limit_bytes;
    NodeConfig node_config;
    node_config.name = "n";
    node_config.epoch = 1;
    node_config.inbox = inbox;
    node_config.ledger = &ledger;
    node_config.heartbeat = std::chrono::milliseconds(10);
    node_config.load = [this](const LoadModel& request) -> Result<ServedEngine> {
      const ModelConfig model{request.name, request.source, {}};
      auto entry = loader.probe(model);
      if (!entry) return fail(std::move(entry.error()));
      return loader.load_engine(model, *entry);
    };
    node = spawn_node(system, std::move(node_config));
    listener = caf::actor_cast<NodeListener>(self);
    self->send(node, StartAtom::value, listener);
  }
  ~LoadingNode() {
    caf::anon_send_exit(node, caf::exit_reason::user_shutdown);
    self->send_exit(self, caf::exit_reason::user_shutdown);
  }

  // The model's replica, once `until` is true of it.
  ReplicaReport report(const std::string& model,
                       const std::function<bool(const ReplicaReport&)>& until) {
    ReplicaReport found;
    bool done = false;
    self->receive_while([&] { return !done; })(
        [&](const NodeReport& report) {
          found = {};
          for (const auto& replica : report.replicas) {
            if (replica.model == model) found = replica;
          }
          done = until(found);
        },
        [&](NodeEvents& message) {
          for (auto& event : message.events) events.push_back(std::move(event));
        },
        caf::after(std::chrono::seconds(20)) >> [&] { done = true; });
    return found;
  }
  ReplicaReport settled(const std::string& model) {
    return report(model, [](const auto& r) { return !r.version.empty() || !r.error.empty(); });
  }
  void load(const std::string& model) { self->send(node, LoadModel{model, file.string(), {}}); }

  void submit(const std::string& model) {
    SubmitStream request;
    request.tenant = TenantId("t");
    request.model = model;
    request.prompt = {1, 2, 3, 4, 5};
    request.max_new_tokens = 50;
    request.deadline_ms = 60'000;
    SequenceSpec sequence;
    sequence.id = RequestId(7);
    sequence.credit = 3;
    request.sequences = {sequence};
    self->send(node, std::move(request), listener);
  }

  std::map<Component, std::int64_t> held(const std::string& version) const {
    std::map<Component, std::int64_t> out;
    for (const auto& row : ledger.snapshot()) {
      if (row.model == version && row.bytes != 0) out[row.component] += row.bytes;
    }
    return out;
  }

  TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "tiny.gguf";
  Ledger ledger;
  ServerConfig config;
  const ModelSource source = model_files();
  std::shared_ptr<NodeInbox> inbox = std::make_shared<NodeInbox>();
  ModelLoader loader{config, source, ledger, inbox};
  ActorSystemConfig system_config{2};
  caf::actor_system system{system_config};
  caf::scoped_actor self{system};
  NodeListener listener;
  NodeActor node;
  std::vector<SequenceEvent> events;
};

TEST(ModelLoader, AnUnloadedModelGivesAllItsMemoryBack) {
  LoadingNode house(0);
  house.load("m");
  const auto ready = house.settled("m");
  ASSERT_FALSE(ready.version.empty()) << ready.error;
  EXPECT_TRUE(ready.placed);
  house.submit("m");
  while (house.events.empty() || house.events.back().tokens.empty()) {
    house.report("m", [](const auto&) { return true; });
  }
  const auto loaded = house.held(ready.version);
  EXPECT_GT(loaded.at(Component::weights), 0);
  EXPECT_GT(loaded.at(Component::activations), 0);
  EXPECT_GT(loaded.at(Component::kv), 0);

  house.self->send(house.node, UnloadModel{"m"});
  house.report("m", [](const auto& replica) { return replica.model.empty(); });
  while (!house.events.back().finish) house.report("m", [](const auto&) { return true; });
  ASSERT_TRUE(house.events.back().error) << "it goes on elsewhere, and has not been cancelled";
  EXPECT_EQ(house.events.back().error->code, ErrorCode::unavailable);
  house.load("other");  // comes after the end of the first
  EXPECT_FALSE(house.settled("other").version.empty());
  for (const auto& [component, bytes] : house.held(ready.version)) {
    ADD_FAILURE() << to_string(component) << " still has " << bytes;
  }
}

TEST(ModelLoader, RefusesKvMemoryThatDoesNotFit) {
  LoadingNode house(3_MiB);  // the KV of one model and all else, but not of three
  house.load("a");
  ASSERT_FALSE(house.settled("a").version.empty());
  house.load("b");
  house.load("c");
  house.settled("b");
  const auto refused = house.settled("c");
  EXPECT_NE(refused.error.find("1048576 bytes of KV memory do not fit: of 3145728 bytes"),
            std::string::npos)
      << refused.error;
  EXPECT_TRUE(house.held("c").empty());
  // Room is made.
  house.self->send(house.node, UnloadModel{"a"});
  house.self->send(house.node, UnloadModel{"b"});
  house.self->send(house.node, UnloadModel{"c"});
  house.load("c");
  const auto loaded = house.report("c", [](const auto& r) { return !r.version.empty(); });
  EXPECT_FALSE(loaded.version.empty()) << loaded.error;
}

}  // namespace
}  // namespace plimsoll
