#include "actors/messages.h"

#include "actors/scheduler.h"

namespace plimsoll {

ActorSystemConfig::ActorSystemConfig(int threads) {
  add_message_type<SubmitStream>("SubmitStream");
  add_message_type<CancelSequences>("CancelSequences");
  add_message_type<AddCredit>("AddCredit");
  add_message_type<EngineEvents>("EngineEvents");
  add_message_type<NodeEvents>("NodeEvents");
  add_message_type<StreamEvents>("StreamEvents");
  add_message_type<RateLimits>("RateLimits");
  add_message_type<EmbedTokens>("EmbedTokens");
  add_message_type<EmbedResult>("EmbedResult");
  add_message_type<NodeUp>("NodeUp");
  add_message_type<NodeReport>("NodeReport");
  add_message_type<SetPressure>("SetPressure");
  add_message_type<LoadModel>("LoadModel");
  add_message_type<UnloadModel>("UnloadModel");
  add_message_type<Drain>("Drain");
  add_message_type<ModelEntry>("ModelEntry");
  add_message_type<Frame>("Frame");
  add_message_type<StreamSink>("StreamSink");
  add_message_type<EmbedSink>("EmbedSink");
  add_message_type<NodeListener>("NodeListener");
  add_message_type<NodeActor>("NodeActor");
  use_call_scheduler(*this);
  set("scheduler.max-threads", static_cast<std::size_t>(threads));
}

std::uint64_t heap_bytes(const std::vector<SequenceEvent>& events) {
  std::uint64_t bytes = events.capacity() * sizeof(SequenceEvent);
  for (const auto& event : events) {
    bytes += (event.prompt.capacity() + event.tokens.capacity()) * sizeof(SampledToken);
    for (const auto& token : event.prompt) bytes += token.top.capacity() * sizeof(TokenLogprob);
    for (const auto& token : event.tokens) bytes += token.top.capacity() * sizeof(TokenLogprob);
  }
  return bytes;
}

}  // namespace plimsoll
