#include "actors/wire.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include "schema/cluster.capnp.h"

namespace plimsoll::wire {
namespace {

template <class T>
T through(const T& in) {
  auto out = decode(encode(in));
  EXPECT_TRUE(out) << to_string(out.error());
  EXPECT_TRUE(std::holds_alternative<T>(*out));
  return std::get<T>(std::move(*out));
}

TEST(Wire, Submissions) {
  SubmitStream in;
  in.tenant = TenantId("acme");
  in.model = "m";
  in.prompt = {1, 2, 300'000};
  in.sampling.temperature = 0.5F;
  in.sampling.top_p = 0.9F;
  in.sampling.top_k = 40;
  in.sampling.min_p = 0.1F;
  in.sampling.presence_penalty = 1;
  in.sampling.frequency_penalty = -1;
  in.sampling.top_logprobs = 5;
  in.sampling.logit_bias = {{7, -1.0F}, {8, 2.0F}};
  in.max_new_tokens = 11;
  in.stop_tokens = {4, 5};
  in.deadline_ms = 5000;
  in.weight = 4;
  in.cache_bytes = 1 << 20;
  in.capacity_class = CapacityClass::batch;
  in.worst_case = true;
  in.guaranteed_bytes = 5 << 20;
  in.endpoint = Endpoint::chat_completions;
  in.no_store = true;
  in.sequences = {{RequestId(~0ULL), ~0ULL - 1, {8, 9}, 16, true}, {RequestId(2), 3, {}, 0, false}};
  const auto out = through(in);
  EXPECT_EQ(out.tenant, in.tenant);
  EXPECT_EQ(out.model, in.model);
  EXPECT_EQ(out.prompt, in.prompt);
  EXPECT_EQ(out.sampling.temperature, 0.5F);
  EXPECT_EQ(out.sampling.top_p, 0.9F);
  EXPECT_EQ(out.sampling.top_k, 40);
  EXPECT_EQ(out.sampling.min_p, 0.1F);
  EXPECT_EQ(out.sampling.presence_penalty, 1);
  EXPECT_EQ(out.sampling.frequency_penalty, -1);
  EXPECT_EQ(out.sampling.top_logprobs, 5);
  EXPECT_EQ(out.sampling.logit_bias, in.sampling.logit_bias);
  EXPECT_EQ(out.max_new_tokens, 11U);
  EXPECT_EQ(out.stop_tokens, in.stop_tokens);
  EXPECT_EQ(out.deadline_ms, 5000U);
  EXPECT_EQ(out.weight, 4);
  EXPECT_EQ(out.cache_bytes, 1U << 20);
  EXPECT_EQ(out.capacity_class, CapacityClass::batch);
  EXPECT_TRUE(out.worst_case);
  EXPECT_EQ(out.guaranteed_bytes, 5U << 20);
  EXPECT_EQ(out.endpoint, Endpoint::chat_completions);
  EXPECT_TRUE(out.no_store);
  EXPECT_FALSE(through(SubmitStream{}).no_store);
  ASSERT_EQ(out.sequences.size(), 2U);
  EXPECT_EQ(out.sequences[0].id, RequestId(~0ULL));
  EXPECT_EQ(out.sequences[0].seed, ~0ULL - 1);
  EXPECT_EQ(out.sequences[0].resumed, in.sequences[0].resumed);
  EXPECT_EQ(out.sequences[0].credit, 16U);
  EXPECT_TRUE(out.sequences[0].prompt_logprobs);
  EXPECT_FALSE(out.sequences[1].prompt_logprobs);
}

TEST(Wire, MemoryReports) {
  MemoryReport memory;
  memory.rows = {
      {Component::kv, "m@1", "acme", MemoryKind::anonymous, 7, 9, 6, Endpoint::completions},
      {Component::weights, "m@1", "shared", MemoryKind::mapped, 70, 90, 60}};
  memory.process = {5, 4, 3, 2, 1};
  memory.cgroup = CgroupMemory{CgroupVersion::v1, "", 8, 9, {}, 1, 2, {}, {}, true};
  memory.pressure = MemoryPressure{1, 2, 3, 4, 5, 6, true};
  memory.host_pressure = MemoryPressure{7, 8, 9, 10, 11, 12, false};
  memory.allocator = {1, 2, 3, 4};
  memory.phases = MemoryPhases{1.5, 2, 3, {}, -4.5};
  memory.ledger_anonymous_bytes = 7;
  memory.ledger_touched_bytes = 6;
  memory.ledger_mapped_bytes = 70;
  memory.unattributed_bytes = -3;
  NodeReport in;
  in.memory = std::make_shared<const MemoryReport>(memory);
  in.routers = 2;
  const auto report = through(in);
  EXPECT_EQ(report.routers, 2U);
  ASSERT_TRUE(report.memory);
  const auto& out = *report.memory;
  ASSERT_EQ(out.rows.size(), 2U);
  EXPECT_EQ(out.rows[0].component, Component::kv);
  EXPECT_EQ(out.rows[0].model, "m@1");
  EXPECT_EQ(out.rows[0].tenant, "acme");
  EXPECT_EQ(out.rows[0].endpoint, Endpoint::completions);
  EXPECT_EQ(out.rows[0].bytes, 7);
  EXPECT_EQ(out.rows[0].peak_bytes, 9);
  EXPECT_EQ(out.rows[0].resident_bytes, 6);
  EXPECT_EQ(out.rows[1].kind, MemoryKind::mapped);
  EXPECT_EQ(out.process.rss_bytes, 5U);
  EXPECT_EQ(out.process.pss_bytes, 4U);
  EXPECT_EQ(out.process.anonymous_bytes, 3U);
  EXPECT_EQ(out.process.file_bytes, 2U);
  EXPECT_EQ(out.process.swap_bytes, 1U);
  ASSERT_TRUE(out.cgroup);
  EXPECT_EQ(out.cgroup->version, CgroupVersion::v1);
  EXPECT_EQ(out.cgroup->current_bytes, 8U);
  EXPECT_EQ(out.cgroup->limit_bytes, 9U);
  EXPECT_FALSE(out.cgroup->high_bytes);
  EXPECT_EQ(out.cgroup->oom_kills, 1U);
  EXPECT_EQ(out.cgroup->limit_hits, 2U);
  EXPECT_EQ(out.cgroup->under_oom, true);
  EXPECT_TRUE(out.pressure->cgroup_scoped);
  EXPECT_EQ(out.pressure->full_avg60, 4);
  EXPECT_EQ(out.host_pressure->some_avg10, 7);
  EXPECT_EQ(out.host_pressure->full_total_us, 12U);
  EXPECT_EQ(out.allocator->metadata_bytes, 4U);
  EXPECT_EQ(out.phases, memory.phases);
  EXPECT_EQ(out.ledger_touched_bytes, 6);
  EXPECT_EQ(out.unattributed_bytes, -3);
  EXPECT_FALSE(through(NodeReport{}).memory) << "most reports have none";
}

TEST(Wire, Events) {
  NodeEvents in;
  in.epoch = 9;
  in.events.resize(3);
  in.events[0].id = RequestId(1);
  in.events[0].tokens = {{5, -2.5F, {{1, -0.1F}, {2, -0.2F}}}, {6, -1.0F, {{3, -0.3F}}}};
  in.events[0].prompt = {{3, 0, {}}, {4, -0.5F, {{9, -1.5F}}}};
  in.events[1].id = RequestId(2);
  in.events[1].tokens = {{7, 0, {}}};
  in.events[1].finish = FinishReason::stop;
  in.events[1].usage = {1, 2, 3, 4};
  in.events[2].id = RequestId(3);
  in.events[2].finish = FinishReason::error;
  in.events[2].error = Error(ErrorCode::resource_exhausted, "full")
                           .with_reason("queue")
                           .with_param("p")
                           .retry_after(70);
  const auto out = through(in);
  EXPECT_EQ(out.epoch, 9U);
  ASSERT_EQ(out.events.size(), 3U);
  const auto& first = out.events[0];
  EXPECT_EQ(first.id, RequestId(1));
  ASSERT_EQ(first.tokens.size(), 2U);
  EXPECT_EQ(first.tokens[0].id, 5);
  EXPECT_EQ(first.tokens[0].logprob, -2.5F);
  ASSERT_EQ(first.tokens[0].top.size(), 2U);
  EXPECT_EQ(first.tokens[0].top[1].id, 2);
  EXPECT_EQ(first.tokens[0].top[1].logprob, -0.2F);
  ASSERT_EQ(first.tokens[1].top.size(), 1U) << "fewer alternatives than its neighbour";
  ASSERT_EQ(first.prompt.size(), 2U);
  EXPECT_EQ(first.prompt[1].top[0].id, 9);
  EXPECT_FALSE(first.finish);
  EXPECT_EQ(out.events[1].finish, FinishReason::stop);
  EXPECT_FALSE(out.events[1].error);
  EXPECT_EQ(out.events[1].usage.preemptions, 4U);
  EXPECT_EQ(out.events[2].finish, FinishReason::error);
  ASSERT_TRUE(out.events[2].error);
  EXPECT_EQ(out.events[2].error->code, ErrorCode::resource_exhausted);
  EXPECT_EQ(out.events[2].error->message, "full");
  EXPECT_EQ(out.events[2].error->reason, "queue");
  EXPECT_EQ(out.events[2].error->retry_after_ms, 70U);
}

TEST(Wire, Reports) {
  NodeReport in;
  in.epoch = 3;
  in.draining = true;
  in.pressure = PressureLevel::orange;
  in.memory_used_bytes = 1;
  in.memory_limit_bytes = 2;
  in.probe = 77;
  EngineStats stats;
  stats.running = 4;
  stats.generated_tokens_total = 1ULL << 40;
  stats.step_seconds_total = 0.25;
  stats.restored_tokens_total = 1ULL << 41;
  stats.drafted_tokens_total = 1ULL << 42;
  stats.accepted_draft_tokens_total = 1ULL << 43;
  in.models = {{"a", stats}};
  in.replicas = {{"a", "a@1", ""}, {"b", "", "", true}, {"c", "", "no such file"}};
  const auto out = through(in);
  EXPECT_EQ(out.epoch, 3U);
  EXPECT_TRUE(out.draining);
  EXPECT_EQ(out.pressure, PressureLevel::orange);
  EXPECT_EQ(out.probe, 77U);
  ASSERT_EQ(out.models.size(), 1U) << "what is loading has no figures";
  EXPECT_EQ(out.models[0].first, "a");
  EXPECT_EQ(out.models[0].second.running, 4U);
  EXPECT_EQ(out.models[0].second.generated_tokens_total, 1ULL << 40);
  EXPECT_EQ(out.models[0].second.step_seconds_total, 0.25);
  EXPECT_EQ(out.models[0].second.restored_tokens_total, 1ULL << 41);
  EXPECT_EQ(out.models[0].second.drafted_tokens_total, 1ULL << 42);
  EXPECT_EQ(out.models[0].second.accepted_draft_tokens_total, 1ULL << 43);
  ASSERT_EQ(out.replicas.size(), 3U);
  EXPECT_EQ(out.replicas[0].version, "a@1");
  EXPECT_EQ(out.replicas[2].error, "no such file");
  EXPECT_FALSE(out.replicas[0].placed);
  EXPECT_TRUE(out.replicas[1].placed);
}

TEST(Wire, ANeighbourThatDoesNotSayWhatIsPlacedHasNothingPlaced) {
  capnp::MallocMessageBuilder builder;
  auto model = builder.initRoot<schema::Frame>().initReport().initModels(1)[0];
  model.setModel("a");
  model.setVersion("a@1");
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  const auto out = decode({reinterpret_cast<const char*>(bytes.begin()), bytes.size()});
  ASSERT_TRUE(out);
  const auto report = std::get<NodeReport>(*out);
  EXPECT_EQ(report.replicas.at(0).version, "a@1");
  EXPECT_FALSE(report.replicas.at(0).placed);
}

TEST(Wire, TheRest) {
  Hello hello;
  hello.protocols = {2, 3};
  hello.node = "n";
  hello.software = "0.1.0";
  hello.secret = "s";
  hello.join_token = "t";
  hello.weight = 2.5;
  const auto back = through(hello);
  EXPECT_EQ(back.protocols.oldest, 2);
  EXPECT_EQ(back.protocols.newest, 3);
  EXPECT_EQ(back.node + back.software + back.secret + back.join_token, "n0.1.0st");
  EXPECT_EQ(back.weight, 2.5);
  const auto welcome = through(Welcome{1, "r", "0.1.0", 8, 200, "s"});
  EXPECT_EQ(welcome.epoch, 8U);
  EXPECT_EQ(welcome.heartbeat_ms, 200U);
  EXPECT_EQ(welcome.secret, "s");
  EXPECT_EQ(through(Refused{Error(ErrorCode::permission_denied, "no")}).error.code,
            ErrorCode::permission_denied);
  EXPECT_EQ(through(CancelSequences{{RequestId(1), RequestId(2)}}).ids.size(), 2U);
  EXPECT_EQ(through(AddCredit{RequestId(1), 5}).tokens, 5U);
  EXPECT_EQ(through(Drain{100}).deadline_ms, 100U);
  EXPECT_EQ(through(LoadModel{"m", "/p", "m@1"}).source, "/p");
  EXPECT_EQ(through(UnloadModel{"m"}).name, "m");
  EXPECT_EQ(through(Probe{5}).clock, 5U);
  EmbedTokens embed;
  embed.id = RequestId(4);
  embed.model = "e";
  embed.inputs = {{1, 2}, {}, {3}};
  EXPECT_EQ(through(embed).inputs, embed.inputs);
  EXPECT_FALSE(through(embed).no_store);
  embed.no_store = true;
  EXPECT_TRUE(through(embed).no_store);
  EmbedResult result;
  result.id = RequestId(4);
  result.embeddings = {{0.5F, -0.5F}};
  result.cached_tokens = 9;
  EXPECT_EQ(through(result).embeddings, result.embeddings);
  EXPECT_EQ(through(result).cached_tokens, 9U);
  EXPECT_FALSE(through(result).error);
}

TEST(Wire, CallsToTheCacheOnDisk) {
  SetCachePolicies policies;
  policies.tenants["acme"] = {false, 0, {{0, 1U << 31, {}}}};
  policies.tenants["globex"] = {false, 5ULL << 40, {{{}, {}, 7}}};
  EXPECT_EQ(through(policies).tenants, policies.tenants);
  EXPECT_TRUE(through(SetCachePolicies{}).tenants.empty());

  EXPECT_TRUE(std::holds_alternative<LookAtCache>(through(AskCache{9, LookAtCache()}).call));
  EXPECT_EQ(through(AskCache{9, LookAtCache()}).id, 9U);
  using std::chrono::milliseconds;
  using storage::CacheKind;
  const storage::CachePurge one{TenantId("acme"), CacheKind::tokens, milliseconds(60'000)};
  const auto purge = std::get<storage::CachePurge>(through(AskCache{1, one}).call);
  EXPECT_EQ(purge.tenant, one.tenant);
  EXPECT_EQ(purge.kind, one.kind);
  EXPECT_EQ(purge.older_than, one.older_than);
  const auto all = std::get<storage::CachePurge>(through(AskCache{1, storage::CachePurge()}).call);
  EXPECT_FALSE(all.tenant);
  EXPECT_FALSE(all.kind);
  const auto ttl = std::get<SetCacheTtl>(
      through(AskCache{1, SetCacheTtl{CacheKind::embedding, milliseconds(0)}}).call);
  EXPECT_EQ(ttl.kind, CacheKind::embedding);
  EXPECT_EQ(ttl.ttl, milliseconds(0));
  EXPECT_FALSE(
      std::get<SetCacheTtl>(through(AskCache{1, SetCacheTtl{CacheKind::prefix, {}}}).call).ttl);

  TellCache told;
  told.id = 3;
  told.answer.purged_entries = 4;
  told.answer.report = {1, 2, 3, 4, 5, "full", {}};
  CacheRow row;
  row.tenant = "acme";
  row.kind = CacheKind::embedding;
  row.quota_bytes = 6ULL << 40;
  row.ttl = milliseconds(7);
  row.counts.bytes = 8;
  row.counts.entries = 9;
  row.counts.hits_total = 10;
  row.counts.misses_total = 11;
  row.counts.evicted_total = 12;
  row.counts.expired_total = 13;
  row.counts.purged_total = 14;
  row.counts.damaged_total = 15;
  row.counts.refused_total = 16;
  row.counts.dropped_total = 17;
  told.answer.report.rows = {row};
  const auto out = through(told);
  EXPECT_EQ(out.id, 3U);
  EXPECT_FALSE(out.answer.error);
  EXPECT_EQ(out.answer.purged_entries, 4U);
  const auto& report = out.answer.report;
  EXPECT_EQ(report.bytes, 1U);
  EXPECT_EQ(report.limit_bytes, 2U);
  EXPECT_EQ(report.buffered_bytes, 3U);
  EXPECT_EQ(report.index_bytes, 4U);
  EXPECT_EQ(report.table_bytes, 5U);
  EXPECT_EQ(report.trouble, "full");
  ASSERT_EQ(report.rows.size(), 1U);
  EXPECT_EQ(report.rows[0].tenant, "acme");
  EXPECT_EQ(report.rows[0].kind, CacheKind::embedding);
  EXPECT_EQ(report.rows[0].quota_bytes, 6ULL << 40);
  EXPECT_EQ(report.rows[0].ttl, milliseconds(7));
  const auto& counts = report.rows[0].counts;
  EXPECT_EQ(counts.bytes, 8U);
  EXPECT_EQ(counts.entries, 9U);
  EXPECT_EQ(counts.hits_total, 10U);
  EXPECT_EQ(counts.misses_total, 11U);
  EXPECT_EQ(counts.evicted_total, 12U);
  EXPECT_EQ(counts.expired_total, 13U);
  EXPECT_EQ(counts.purged_total, 14U);
  EXPECT_EQ(counts.damaged_total, 15U);
  EXPECT_EQ(counts.refused_total, 16U);
  EXPECT_EQ(counts.dropped_total, 17U);
  told.answer.error = Error(ErrorCode::failed_precondition, "there is none");
  EXPECT_EQ(through(told).answer.error->code, ErrorCode::failed_precondition);
}

TEST(Wire, APurgeThatDoesNotSayOfWhomIsRefused) {
  capnp::MallocMessageBuilder builder;
  builder.initRoot<schema::Frame>().initAskCache().getWhat().initPurge();
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  const auto out = decode({reinterpret_cast<const char*>(bytes.begin()), bytes.size()});
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, ErrorCode::malformed);
}

TEST(Wire, WhatIsNoFrameIsRefused) {
  EXPECT_FALSE(decode("abc")) << "not in whole words";
  EXPECT_FALSE(decode(std::string(64, '\xff')));
  const auto whole = encode(Hello{});
  for (std::size_t words = 1; words < whole.size() / 8; ++words) {
    const auto cut = decode(std::string_view(whole).substr(0, 8 * words));
    if (!cut) {
      EXPECT_EQ(cut.error().code, ErrorCode::malformed);
    }
  }
}

TEST(Wire, ListsThatDoNotBelongTogetherAreRefused) {
  capnp::MallocMessageBuilder builder;
  auto event = builder.initRoot<schema::Frame>().initEvents().initEvents(1)[0];
  event.initTokens().initIds(2);
  event.getTokens().initLogprobs(1);
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  const auto out = decode({reinterpret_cast<const char*>(bytes.begin()), bytes.size()});
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, ErrorCode::malformed);
}

TEST(Wire, ABytesViewNeedNotBeAligned) {
  const auto bytes = "x" + encode(Drain{7});
  const auto out = decode(std::string_view(bytes).substr(1));
  ASSERT_TRUE(out);
  EXPECT_EQ(std::get<Drain>(*out).deadline_ms, 7U);
}

}  // namespace
}  // namespace plimsoll::wire
