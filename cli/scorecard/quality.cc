#include "cli/scorecard/quality.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace plimsoll::cli::scorecard {

namespace {

// Changing a word of it makes older scorecards incomparable.
constexpr std::string_view text =
    "In the morning the harbour was quiet. Two fishing boats lay against the wall, and a man with "
    "a "
    "grey cap was mending a net on the deck of the smaller one. He had been at sea for thirty "
    "years, "
    "first on his father's boat and later on his own, and he knew every rock along that coast. "
    "When "
    "the wind came from the west he stayed at home, because the waves broke over the bar at the "
    "mouth "
    "of the river and no boat of that size could cross it safely.\n\n"
    "His daughter studied engineering in the city. She had told him once how the marks on the side "
    "of "
    "a large ship show how much cargo it may carry. The line is higher in summer and lower in "
    "winter, "
    "and it is different in fresh water, since fresh water is lighter and the ship sinks deeper "
    "into "
    "it. Before there was such a law, owners sent out old ships with far too much on board. Many "
    "of "
    "them never came back. The idea behind the mark is simple: everyone on the quay can see at a "
    "glance whether the ship is safe, and nobody has to take the owner's word for it.\n\n"
    "The old man liked that idea. On his own boat he had painted a small white line many years "
    "ago. "
    "When the fish in the hold pressed the boat down so far that the line touched the water, he "
    "stopped, even if the sea was still full of fish and the other boats went on. Some of the "
    "neighbours laughed at him. But on the evening of the great storm, when the wind turned within "
    "an "
    "hour and the rain hid the lighthouse, his boat came home slowly and steadily, and two of the "
    "others did not.\n\n"
    "A good rule is like that. It costs a little every day, and most days it seems to be of no "
    "use. "
    "You can count what you have lost by it, the fish that you did not catch and the money that "
    "you "
    "did not earn. What it has saved you cannot be counted in the same way, because it is made of "
    "things that have not happened. It takes some wisdom to keep a rule for the sake of a day that "
    "may never come, and it takes a clear line, drawn in advance, to keep it when the catch is "
    "good.";

struct Task {
  const char* prompt;
  const char* expected;
};
constexpr std::array tasks = {
    Task{"The capital of France is", "Paris"},
    Task{"The capital of Italy is", "Rome"},
    Task{"The opposite of hot is", "cold"},
    Task{"The opposite of up is", "down"},
    Task{"One, two, three, four,", "five"},
    Task{"Monday, Tuesday, Wednesday,", "Thursday"},
    Task{"January, February, March,", "April"},
    Task{"2, 4, 6, 8,", "10"},
    Task{"A B C D E F", "G"},
    Task{"The sun rises in the east and sets in the", "west"},
    Task{"Water freezes at zero degrees", "Celsius"},
    Task{"Roses are red, violets are", "blue"},
    Task{"The chemical formula of water is", "H2O"},
    Task{"Shakespeare wrote the play Romeo and", "Juliet"},
    Task{"dog: dogs\ncat: cats\nbird:", "birds"},
    Task{"Q: How many legs does a spider have?\nA:", "8"},
};
constexpr std::uint32_t task_tokens = 16;

client::GenerateRequest greedy(const std::string& model, std::string prompt) {
  client::GenerateRequest request;
  request.model = model;
  request.prompt = std::move(prompt);
  request.max_tokens = task_tokens;
  request.temperature = 0;
  request.seed = 0;
  request.ignore_eos = true;
  return request;
}

}  // namespace

std::string_view quality_text() { return text; }

Quality measure_quality(client::Client& client, const std::string& model) {
  Quality quality;
  auto request = greedy(model, std::string(text));
  request.max_tokens = 1;
  request.echo = true;
  request.top_logprobs = 0;
  double sum = 0;  // of the logarithms
  std::size_t bytes = 0;
  client.generate(request, [&](const client::Delta& delta) {
    if (!delta.is_prompt) return true;
    for (std::size_t i = 1; i < delta.tokens.size(); ++i) {  // nothing comes before the first
      sum += delta.tokens[i].logprob;
      bytes += delta.tokens[i].bytes.size();
      ++quality.scored_tokens;
    }
    return true;
  });
  if (quality.scored_tokens > 0 && bytes > 0) {
    quality.perplexity = std::exp(-sum / quality.scored_tokens);
    quality.bits_per_byte = -sum / std::log(2.0) / static_cast<double>(bytes);
  }
  for (const auto& task : tasks) {
    auto& answer = quality.tasks.emplace_back();
    answer.prompt = task.prompt;
    client.generate(greedy(model, task.prompt), [&](const client::Delta& delta) {
      answer.text += delta.text;
      answer.tokens.insert(answer.tokens.end(), delta.ids.begin(), delta.ids.end());
      return true;
    });
    const auto begin = answer.text.find_first_not_of(" \n");
    answer.right =
        begin != std::string::npos && answer.text.substr(begin).starts_with(task.expected);
  }
  return quality;
}

double agreement(const std::vector<TaskAnswer>& a, const std::vector<TaskAnswer>& b) {
  double sum = 0;
  int count = 0;
  for (const auto& one : a) {
    const auto other = std::ranges::find(b, one.prompt, &TaskAnswer::prompt);
    if (other == b.end()) continue;
    ++count;
    const auto longest = std::max(one.tokens.size(), other->tokens.size());
    const auto [end, _] = std::ranges::mismatch(one.tokens, other->tokens);
    sum += longest == 0
               ? 1.0
               : static_cast<double>(end - one.tokens.begin()) / static_cast<double>(longest);
  }
  return count == 0 ? 0 : sum / count;
}

}  // namespace plimsoll::cli::scorecard
