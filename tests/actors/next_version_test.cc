// This build and the next version read each other's frames, whatever they hold.
#include "tests/actors/next_version.h"

#include <capnp/pretty-print.h>
#include <gtest/gtest.h>

#include <vector>

#include "actors/wire.h"
#include "schema/cluster.capnp.h"

namespace plimsoll::wire {
namespace {

using testing::FrameReader;

// One of each kind, with something in each list.
std::vector<Message> messages() {
  Hello hello;
  hello.node = "n";
  hello.secret = "s";
  hello.weight = 2.5;

  NodeReport report;
  report.epoch = 3;
  report.draining = true;
  report.probe = 77;
  EngineStats stats;
  stats.running = 4;
  stats.step_seconds_total = 0.25;
  report.models = {{"a", stats}};
  report.replicas = {{"a", "a@1", ""}, {"b", "", "no such file"}};

  NodeEvents events;
  events.epoch = 9;
  events.events.resize(2);
  events.events[0].id = RequestId(1);
  events.events[0].tokens = {{5, -2.5F, {{1, -0.1F}}}, {6, -1.0F, {{3, -0.3F}}}};
  events.events[0].prompt = {{4, -0.5F, {}}};
  events.events[1].id = RequestId(2);
  events.events[1].finish = FinishReason::error;
  events.events[1].error = Error(ErrorCode::resource_exhausted, "full").retry_after(70);
  events.events[1].usage = {1, 2, 3, 4};

  EmbedResult embedded;
  embedded.id = RequestId(4);
  embedded.embeddings = {{0.5F, -0.5F}, {1.0F, 0.0F}};

  SubmitStream submit;
  submit.tenant = TenantId("acme");
  submit.model = "m";
  submit.prompt = {1, 2, 300'000};
  submit.sampling.temperature = 0.5F;
  submit.sampling.logit_bias = {{7, -1.0F}};
  submit.max_new_tokens = 11;
  submit.sequences = {{RequestId(1), 2, {8, 9}, 16, true}, {RequestId(2), 3, {}, 1, false}};

  EmbedTokens embed;
  embed.id = RequestId(4);
  embed.model = "e";
  embed.inputs = {{1, 2}, {3}};

  SetCachePolicies policies;
  policies.tenants["acme"] = {false, 5, {{1, {}, 3}}};
  TellCache told;
  told.id = 6;
  told.answer.report.rows.resize(2);

  return {hello,
          report,
          events,
          embedded,
          Welcome{1, "r", "0.1.0", 8, 200, "s"},
          Refused{Error(ErrorCode::permission_denied, "no")},
          submit,
          embed,
          CancelSequences{{RequestId(1), RequestId(2)}},
          AddCredit{RequestId(1), 5},
          Drain{100},
          LoadModel{"m", "/p", "m@1"},
          UnloadModel{"m"},
          Probe{5},
          policies,
          AskCache{6, storage::CachePurge{TenantId("acme"), storage::CacheKind::prefix}},
          told};
}

std::string without(std::string text, std::string_view part) {
  for (auto at = text.find(part); at != text.npos; at = text.find(part))
    text.erase(at, part.size());
  return text;
}

TEST(NextVersion, EveryKindIsTriedHere) {
  // All but std::monostate, which is what this build does not know.
  EXPECT_EQ(messages().size() + 1, std::variant_size_v<Message>);
}

TEST(NextVersion, ItsFramesAreReadWithoutWhatIsNew) {
  for (const auto& message : messages()) {
    const auto present = encode(message);
    const auto next = testing::as_next(present);
    ASSERT_GT(next.size(), present.size());
    const auto read = decode(next);
    ASSERT_TRUE(read) << to_string(read.error());
    EXPECT_EQ(read->index(), message.index());
    EXPECT_EQ(encode(*read), present) << "nothing that is known may change";
  }
}

TEST(NextVersion, ItReadsThePresentFrames) {
  for (const auto& message : messages()) {
    FrameReader frame(encode(message));
    const std::string here = kj::str(frame.as<schema::Frame>()).cStr();
    const std::string there = kj::str(frame.as<next::Frame>()).cStr();
    EXPECT_EQ(without(without(there, ", nextNumber = 0"), "nextNumber = 0"), here);
  }
}

TEST(NextVersion, ItsNewFramesAreNotKnown) {
  const auto read = decode(testing::unknown_frame());
  ASSERT_TRUE(read) << to_string(read.error());
  EXPECT_TRUE(std::holds_alternative<std::monostate>(*read));
}

}  // namespace
}  // namespace plimsoll::wire
