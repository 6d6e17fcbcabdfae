// Models that compute, loaded and unloaded at run time: their memory is planned before and given
// back after.
#include "actors/model_loader.h"

#include <gtest/gtest.h>

#include "actors/node.h"
#include "bench/pretend/byte_tokenizer.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll {
namespace {

struct LoadingNode {
  // On a machine whose other processes leave it that much.
  explicit LoadingNode(std::uint64_t memory_limit_bytes) : limit_bytes(memory_limit_bytes) {
    make_tiny_model("llama", {}, TensorType::q8_0).write(file);
    config.engine.threads = 1;
    config.engine.context_tokens = 64;
    config.engine.step_tokens = 512;
    config.engine.kv_bytes = 3_MiB;
    config.engine.packed_directory = folder.path();
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
  const std::uint64_t limit_bytes;
  ModelLoader loader{
      config, source, ledger, inbox, {}, [this](std::uint64_t) -> Result<MemoryBase> {
        return MemoryBase{{{cluster::Scope::process, limit_bytes, 0}}, 0};
      }};
  ActorSystemConfig system_config{2};
  caf::actor_system system{system_config};
  caf::scoped_actor self{system};
  NodeListener listener;
  NodeActor node;
  std::vector<SequenceEvent> events;
};

TEST(ModelLoader, AnUnloadedModelGivesAllItsMemoryBack) {
  LoadingNode house(1_GiB);
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
  LoadingNode house(16_MiB);  // all else and the KV of two models, but not of three
  house.load("a");
  ASSERT_FALSE(house.settled("a").version.empty());
  house.load("b");
  house.load("c");
  house.settled("b");
  const auto refused = house.settled("c");
  for (const char* said : {"the plan needs", "of 16 MiB, memory_limit", "3.0 MiB of them KV memory",
                           "unload another model"}) {
    EXPECT_NE(refused.error.find(said), std::string::npos) << refused.error;
  }
  EXPECT_TRUE(house.held("c").empty());
  // Room is made.
  house.self->send(house.node, UnloadModel{"a"});
  house.self->send(house.node, UnloadModel{"b"});
  house.self->send(house.node, UnloadModel{"c"});
  house.load("c");
  const auto loaded = house.report("c", [](const auto& r) { return !r.version.empty(); });
  EXPECT_FALSE(loaded.version.empty()) << loaded.error;
}

struct Planned {
  explicit Planned(std::uint64_t limit_bytes) {
    make_tiny_model("llama", {}, TensorType::q8_0).write(file);
    config.engine.threads = 1;
    config.engine.context_tokens = 64;
    const auto read = [limit_bytes](std::uint64_t) -> Result<MemoryBase> {
      return MemoryBase{{{cluster::Scope::process, limit_bytes, 0}}, 2_MiB};
    };
    loader.emplace(config, source, ledger, std::make_shared<NodeInbox>(), ModelLoader::ShedSink(),
                   read);
  }
  Result<cluster::MemoryPlan> plan() {
    auto entry = loader->probe(model);
    EXPECT_TRUE(entry);
    return loader->plan({{model, *entry}});
  }
  TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "tiny.gguf";
  const ModelConfig model{"m", file, {}};
  Ledger ledger;
  ServerConfig config;
  const ModelSource source = model_files();
  std::optional<ModelLoader> loader;
};

void expect_what_the_plan_says(KvType type) {
  Planned house(1_GiB);
  house.config.engine.kv_type = type;
  house.config.engine.packed_directory = house.folder.path();
  const auto plan = house.plan();
  ASSERT_TRUE(plan) << to_string(plan.error());
  ASSERT_EQ(plan->kv.size(), 1U);
  EXPECT_GT(plan->mapped_bytes, std::filesystem::file_size(house.file)) << "the packed copy too";
  auto entry = house.loader->probe(house.model);
  const auto served = house.loader->load_engine(house.model, *entry);
  ASSERT_TRUE(served) << to_string(served.error());
  const auto info = entry->info;
  const KvLayout layout = kv_layout(info, 16, type);
  EXPECT_EQ(served->engine->stats().kv_blocks_total, plan->kv[0].bytes / layout.block_bytes());
  const auto charged = house.ledger.total_bytes(MemoryKind::anonymous);
  EXPECT_NEAR(static_cast<double>(served->promised.bytes()),
              static_cast<double>(charged) + static_cast<double>(plan->kv[0].bytes), 16_KiB)
      << "what the engine took is what the plan said";
  // What a tenant's quota counts for a token.
  const auto text = house.loader->serve_text(*entry, {pretend::byte_model_text(), Charge()});
  EXPECT_EQ(text.text->kv_bytes().token, layout.token_bytes());
}

TEST(ModelLoader, AModelThatWasPlannedGetsWhatThePlanSays) {
  for (const KvType type : {KvType::bf16, KvType::f16, KvType::int8, KvType::int4}) {
    SCOPED_TRACE(to_string(type));
    expect_what_the_plan_says(type);
  }
}

TEST(ModelLoader, APlanThatDoesNotFitNamesWhatToLower) {
  Planned house(24_MiB);
  house.config.engine.kv_bytes = 32_MiB;
  const auto plan = house.plan();
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::resource_exhausted);
  EXPECT_NE(plan.error().message.find("engine.kv_memory to "), std::string::npos)
      << plan.error().message;
  house.config.engine.kv_bytes = 1_MiB;
  EXPECT_TRUE(house.plan());
}

}  // namespace
}  // namespace plimsoll
