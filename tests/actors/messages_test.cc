#include "actors/messages.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

template <class T>
T through_the_wire(T in) {
  std::vector<char> buffer;
  caf::binary_serializer sink(nullptr, buffer);
  EXPECT_FALSE(sink(in));
  T out;
  caf::binary_deserializer source(nullptr, buffer);
  EXPECT_FALSE(source(out));
  EXPECT_EQ(source.remaining(), 0U);
  return out;
}

TEST(Messages, EventsSurviveTheWire) {
  SequenceEvent event;
  event.id = RequestId(~0ULL - 7);
  event.prompt = {{3, 0, {}}, {4, -0.5F, {{9, -1.5F}}}};
  event.tokens = {{5, -2.5F, {{1, -0.1F}, {2, -0.2F}}}};
  event.finish = FinishReason::error;
  event.error = Error(ErrorCode::resource_exhausted, "full").with_reason("r").retry_after(70);
  event.usage = {1, 2, 3, 4};
  SequenceEvent running;
  running.id = RequestId(1);
  running.tokens = {{6, 0, {}}};
  const auto out = through_the_wire(NodeEvents{"n", 8, {event, running}, nullptr});
  EXPECT_EQ(out.node, "n");
  EXPECT_EQ(out.epoch, 8U);
  ASSERT_EQ(out.events.size(), 2U);
  const auto& first = out.events[0];
  EXPECT_EQ(first.id, event.id);
  EXPECT_EQ(first.prompt[1].top[0].id, 9);
  EXPECT_EQ(first.tokens[0].top[1].logprob, -0.2F);
  EXPECT_EQ(first.finish, FinishReason::error);
  EXPECT_EQ(first.error->message, "full");
  EXPECT_EQ(first.error->reason, "r");
  EXPECT_EQ(first.error->retry_after_ms, 70U);
  EXPECT_EQ(first.usage.cached_tokens, 2U);
  EXPECT_FALSE(out.events[1].finish);
  EXPECT_FALSE(out.events[1].error);
  EXPECT_EQ(out.events[1].tokens[0].id, 6);
}

TEST(Messages, SubmissionsSurviveTheWire) {
  SubmitStream in;
  in.tenant = TenantId("t");
  in.model = "m";
  in.prompt = {1, 2, 3};
  in.sampling.temperature = 0.5F;
  in.sampling.logit_bias = {{7, -1.0F}};
  in.max_new_tokens = 11;
  in.stop_tokens = {4};
  in.deadline_ms = 5000;
  in.weight = 4;
  in.cache_bytes = 1 << 20;
  in.capacity_class = CapacityClass::batch;
  in.guaranteed_bytes = 5 << 20;
  in.sequences = {{RequestId(1), ~0ULL, {8, 9}, 16, true}};
  const auto out = through_the_wire(in);
  EXPECT_EQ(out.tenant, in.tenant);
  EXPECT_EQ(out.prompt, in.prompt);
  EXPECT_EQ(out.sampling.temperature, 0.5F);
  EXPECT_EQ(out.sampling.logit_bias, in.sampling.logit_bias);
  EXPECT_EQ(out.sampling.top_logprobs, -1);
  EXPECT_EQ(out.weight, 4);
  EXPECT_EQ(out.cache_bytes, 1U << 20);
  EXPECT_EQ(out.capacity_class, CapacityClass::batch);
  EXPECT_EQ(out.guaranteed_bytes, 5U << 20);
  ASSERT_EQ(out.sequences.size(), 1U);
  EXPECT_EQ(out.sequences[0].seed, ~0ULL);
  EXPECT_EQ(out.sequences[0].resumed, in.sequences[0].resumed);
  EXPECT_EQ(out.sequences[0].credit, 16U);
  EXPECT_TRUE(out.sequences[0].prompt_logprobs);
}

TEST(Messages, ReportsSurviveTheWire) {
  NodeReport in{"n", 3, {{"m", {}}}};
  in.models[0].second.steps_total = 12;
  in.models[0].second.step_seconds_total = 1.5;
  const auto out = through_the_wire(in);
  EXPECT_EQ(out.models.at(0).second.steps_total, 12U);
  EXPECT_EQ(out.models.at(0).second.step_seconds_total, 1.5);
  const auto result = through_the_wire(EmbedResult{RequestId(4), {{1.0F, 2.0F}}, {}, nullptr});
  EXPECT_EQ(result.embeddings.at(0).at(1), 2.0F);
  EXPECT_FALSE(result.error);
}

}  // namespace
}  // namespace plimsoll
