// An answer that goes on at another server is the answer that the first one would have given,
// wherever it was cut.
#include <gtest/gtest.h>

#include <future>
#include <variant>

#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using testing::ByteTokenizer;
using testing::House;

using ChoiceEnd = std::pair<std::uint32_t, FinishReason>;
using Event = std::variant<GenerationDelta, ChoiceEnd>;

// Keeps every event, to be cut between any two of them.
class Recorder final : public GenerationListener {
 public:
  void on_delta(GenerationDelta&& delta) override { events.emplace_back(std::move(delta)); }
  void on_choice_end(std::uint32_t choice, FinishReason reason) override {
    events.emplace_back(ChoiceEnd{choice, reason});
  }
  void on_end(const GenerationUsage& u, std::optional<Error> e) override {
    usage = u;
    error = std::move(e);
    ended.set_value();
  }
  std::vector<Event> events;
  GenerationUsage usage;
  std::optional<Error> error;
  std::promise<void> ended;
};

// What a client has in its hands.
struct Received {
  struct Choice {
    std::string prompt, text;
    std::vector<TokenId> ids;
    std::vector<std::string> logprobs;  // the tokens that have one
    std::optional<FinishReason> reason;
    bool operator==(const Choice&) const = default;
  };
  std::vector<Choice> choices;

  void add(const Event& event) {
    if (const auto* end = std::get_if<ChoiceEnd>(&event)) {
      choices.at(end->first).reason = end->second;
      return;
    }
    const auto& delta = std::get<GenerationDelta>(event);
    Choice& choice = choices.at(delta.choice);
    if (delta.is_prompt) {
      choice.prompt = delta.text;
      return;
    }
    choice.text += delta.text;
    choice.ids.insert(choice.ids.end(), delta.ids.begin(), delta.ids.end());
    for (const auto& token : delta.tokens) choice.logprobs.push_back(token.bytes);
    EXPECT_TRUE(delta.tokens.empty() || delta.tokens.size() == delta.ids.size());
  }
};

std::shared_ptr<Recorder> record(House& house, GenerateRequest request) {
  auto recorder = std::make_shared<Recorder>();
  const auto stream = house.frontend->generate(house.caller, std::move(request), recorder);
  EXPECT_EQ(recorder->ended.get_future().wait_for(std::chrono::seconds(20)),
            std::future_status::ready);
  return recorder;
}

// Runs the request whole, then cut at each place, and compares.
void expect_resumable(House& house, const GenerateRequest& request) {
  const auto whole = record(house, request);
  ASSERT_FALSE(whole->error) << to_string(*whole->error);
  Received expected{std::vector<Received::Choice>(request.choices)};
  for (const auto& event : whole->events) expected.add(event);
  for (std::size_t cut = 0; cut <= whole->events.size(); ++cut) {
    SCOPED_TRACE("cut before event " + std::to_string(cut));
    Received got{std::vector<Received::Choice>(request.choices)};
    for (std::size_t i = 0; i < cut; ++i) got.add(whole->events[i]);
    GenerateRequest again = request;
    std::size_t resumed = 0;
    for (const auto& choice : got.choices) {
      again.resumed.push_back({choice.ids, choice.text.size()});
      resumed += choice.ids.size();
    }
    const auto rest = record(house, again);
    ASSERT_FALSE(rest->error) << to_string(*rest->error);
    for (const auto& event : rest->events) got.add(event);
    for (std::uint32_t i = 0; i < request.choices; ++i) {
      EXPECT_EQ(got.choices[i].text, expected.choices[i].text);
      EXPECT_EQ(got.choices[i].ids, expected.choices[i].ids);
      EXPECT_EQ(got.choices[i].logprobs, expected.choices[i].logprobs);
      EXPECT_EQ(got.choices[i].reason, expected.choices[i].reason);
      EXPECT_EQ(got.choices[i].prompt, expected.choices[i].prompt);
    }
    EXPECT_EQ(rest->usage.prompt_tokens, whole->usage.prompt_tokens);
    EXPECT_EQ(rest->usage.completion_tokens, whole->usage.completion_tokens);
    EXPECT_GE(rest->usage.completion_tokens, resumed);
  }
  EXPECT_EQ(house.held(Component::requests), 0);
}

// With and without log-probabilities, once and twice, whole and cut short.
void expect_resumable_in_all_ways(const std::string& text, const std::vector<std::string>& stops) {
  House house;
  const auto tokens = static_cast<std::uint32_t>(
      ByteTokenizer().encode(text, {.add_special = true, .parse_special = false})->size());
  for (const int top : {-1, 0}) {
    for (const std::uint32_t choices : {1U, 2U}) {
      for (const std::uint32_t most : {tokens / 2, tokens, 3 * tokens}) {
        auto request = House::text(text);
        request.stop = stops;
        request.choices = choices;
        request.seed = 7;
        request.sampling.top_logprobs = top;
        request.max_tokens = most;
        SCOPED_TRACE(::testing::Message()
                     << "top_logprobs " << top << " choices " << choices << " max_tokens " << most);
        request.ignore_eos = most > tokens;
        expect_resumable(house, request);
      }
    }
  }
}

TEST(Resume, PlainText) { expect_resumable_in_all_ways("one two three", {}); }

TEST(Resume, MultiByteCharacters) { expect_resumable_in_all_ways("aö漢🎉z", {}); }

TEST(Resume, AStopStringAcrossTheCut) {
  // "STOP" lies in two tokens, "xST" and "OPx": the "x" of the first is text before it is done.
  expect_resumable_in_all_ways("abxSTOPxyz", {"STOP"});
  expect_resumable_in_all_ways("ab\n\ncd", {"\n\n"});
  expect_resumable_in_all_ways("eins→zwei", {"→"});
}

TEST(Resume, WhatWasHeldBackForNothing) {
  expect_resumable_in_all_ways("abxSTaSTObST", {"STOP"});
  expect_resumable_in_all_ways("eins⇒zwei", {"→"});
}

TEST(Resume, AStopStringWithinOneToken) { expect_resumable_in_all_ways("abxSTcd", {"S"}); }

TEST(Resume, AnUnfinishedCharacterAtTheEnd) {
  House house;
  GenerateRequest request;
  request.model = "m";
  request.input = std::vector<TokenId>{'a', 'b', 0xE6, 0xBC};
  request.seed = 1;
  for (const int top : {-1, 0}) {
    request.sampling.top_logprobs = top;
    expect_resumable(house, request);
  }
}

TEST(Resume, Echo) {
  House house;
  auto request = House::text("abc");
  request.echo = true;
  request.seed = 1;
  for (const int top : {-1, 0}) {
    request.sampling.top_logprobs = top;
    expect_resumable(house, request);
  }
}

TEST(Resume, TheEngineGoesOnBehindTheTokens) {
  House house;
  auto request = House::text("abcdef");
  request.seed = 40;
  request.choices = 2;
  request.resumed = {{{'a', 'b'}, 2}, {{'a', 'b', 'c', 'd'}, 4}};
  const auto rest = record(house, request);
  ASSERT_FALSE(rest->error);
  const auto requests = house.engines[0]->requests();
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].resumed, (std::vector<TokenId>{'a', 'b'}));
  EXPECT_EQ(requests[1].resumed, (std::vector<TokenId>{'a', 'b', 'c', 'd'}));
  EXPECT_EQ(requests[1].sampling.seed, 41U);
  EXPECT_EQ(rest->usage.completion_tokens, 12U);
  const auto metrics = house.frontend->metrics();
  EXPECT_NE(
      metrics.find("plimsoll_tokens_total{kind=\"generated\",model=\"m\",tenant=\"local\"} 6"),
      std::string::npos)
      << "the server counts what it generated\n"
      << metrics;
}

TEST(Resume, ANodeMayBeLostAfterwards) {
  House house({.nodes = 2, .step = std::chrono::microseconds(2000)});
  auto request = House::text("abcdefgh");
  request.max_tokens = 100;
  request.ignore_eos = true;
  request.resumed = {{{'a', 'b', 'c', 'd'}, 4}};
  const auto answer = house.generate(std::move(request));
  ASSERT_TRUE(answer->wait_for_tokens(10));
  const std::size_t busy = house.engines[0]->idle() ? 1 : 0;
  caf::anon_send_exit(house.nodes[busy], caf::exit_reason::kill);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
  std::string expected = "efgh";
  while (expected.size() < 96) expected += "abcdefgh";
  EXPECT_EQ(answer->text.at(0), expected.substr(0, 96));
}

TEST(Resume, WhatTheClientLostIsEnded) {
  House house;
  house.engines[0]->hold = true;
  auto request = House::text("abc");
  request.id = "trip-1";
  const auto lost = house.generate(request);
  const auto another = house.generate(request);  // of the same name: the client's own affair
  auto named = request;
  named.id = "trip-2";
  const auto other = house.generate(named);
  request.resumed = {{{'a'}, 1}};
  const auto rest = house.generate(request);
  ASSERT_TRUE(another->wait());
  EXPECT_EQ(another->error->code, ErrorCode::cancelled);
  house.caller.tenant = TenantId("slow");  // a stranger's request may have the same name
  const auto strangers = house.generate(request);
  house.engines[0]->hold = false;
  for (const auto& answer : {lost, other, rest, strangers}) {
    ASSERT_TRUE(answer->wait());
    EXPECT_FALSE(answer->error) << to_string(*answer->error);
  }
  EXPECT_EQ(rest->text.at(0), "bc");
}

TEST(Resume, TextTheClientLacksIsGivenOut) {
  House house;
  auto request = House::text("aöb");
  request.resumed = {{{'a', 0xC3, 0xB6}, 2}};  // in the middle of a character: it has that
  EXPECT_EQ(std::get<GenerationDelta>(record(house, request)->events.at(0)).text, "b");
  request.resumed = {{{'a', 0xC3, 0xB6}, 1}};
  EXPECT_EQ(std::get<GenerationDelta>(record(house, request)->events.at(0)).text, "ö");
  request.resumed = {{{'a', 0xC3, 0xB6}, ~std::uint64_t{0}}};
  for (const auto& event : record(house, request)->events) {
    EXPECT_TRUE(std::holds_alternative<ChoiceEnd>(event));
  }
}

TEST(Resume, WhatCannotBeIsRefused) {
  House house;
  const auto refused = [&](GenerateRequest request, const std::string& param) {
    const auto answer = record(house, std::move(request));
    ASSERT_TRUE(answer->error);
    EXPECT_EQ(answer->error->code, ErrorCode::invalid_argument) << to_string(*answer->error);
    EXPECT_EQ(answer->error->param, param);
    EXPECT_TRUE(answer->events.empty());
  };
  auto request = House::text("abc");
  request.max_tokens = 3;
  request.resumed = {{{'a', 'b', 'c', 'a'}, 4}};
  refused(request, "resume");  // more than max_tokens
  request.resumed = {{{'a', 100'000}, 2}};
  refused(request, "resume");  // outside the vocabulary
  request.resumed = {{{'a', -1}, 2}};
  refused(request, "resume");
  request.resumed = {{{'a'}, 1}, {{'a'}, 1}};
  refused(request, "resume");  // of one choice
  request.resumed = {{std::vector<TokenId>(100'000, 'a'), 1}};
  refused(request, "resume");
  request.resumed.clear();
  request.id = "a b";
  refused(request, "requestId");
  request.id = std::string(129, 'a');
  refused(request, "requestId");
  request.id = "0b5c:trip_1.a-Z";
  EXPECT_FALSE(record(house, request)->error);
}

}  // namespace
}  // namespace plimsoll
