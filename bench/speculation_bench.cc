// What drafts by prompt lookup gain, and what they cost where there is nothing to gain:
//
//   speculation_bench [--streams=1,8] [--rounds=3] [--tokens=200]
//
// Each model found in PLIMSOLL_MODELS writes texts that repeat their prompt and texts that do not,
// so many at a time, with drafts and without in turns. The figures are tokens a second of all
// streams, each from its first token on, the median of the rounds; the texts are compared.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/models_folder.h"
#include "engine/loop/engine.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::vector<std::uint32_t> streams = {1, 8};
  std::uint32_t rounds = 3;
  std::uint32_t tokens = 200;
};

struct Task {
  const char* name;
  float temperature;
  std::vector<std::string> prompts;
};

const char* const minutes =
    "Minutes of the meeting on Tuesday. Present were Anna Bergmann, Tom Okafor, Li Wei and Sofia "
    "Rossi. Tom reported that the new warehouse in Rotterdam will open in the second week of "
    "March, "
    "and that the old one in Antwerp is to be closed by the end of June. Li has asked three "
    "suppliers for offers; two of them have answered so far, and the third one wants to visit the "
    "site first. Anna reminded everybody that holidays have to be entered before Friday. Sofia "
    "will write to the insurance company about the damaged pallets, and she will report what they "
    "say in the next meeting, which is on Tuesday at ten o'clock, in the small room.";
const char* const code =
    "def read_settings(path):\n    settings = {}\n    with open(path) as lines:\n"
    "        for number, line in enumerate(lines, 1):\n            line = line.strip()\n"
    "            if not line or line.startswith('#'):\n                continue\n"
    "            name, separator, value = line.partition('=')\n"
    "            if not separator:\n"
    "                raise ValueError(f'{path}:{number}: no = in {line}')\n"
    "            settings[name.strip()] = value.strip()\n    return settings\n";

// In the words of each model's template: one was made to follow instructions, one to go on.
std::vector<Task> tasks(bool instructed) {
  const auto turn = [](const std::string& text) {
    return "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n";
  };
  const std::string free[] = {"Tell me a story about a lighthouse keeper and a storm.",
                              "Why do leaves change their colour in autumn? Explain it to a child.",
                              "Write a letter to a friend about a journey through the mountains."};
  Task repeat{"repeat", 0, {}}, edit{"edit", 0, {}}, invent{"invent", 0.8F, {}};
  if (instructed) {
    repeat.prompts = {turn("Repeat the following text word by word:\n\n" + std::string(minutes))};
    edit.prompts = {
        turn("Rewrite this code with the function named `load` and the variable "
             "`settings` named `result`. Change nothing else:\n\n" +
             std::string(code))};
    for (const auto& text : free) invent.prompts.push_back(turn(text));
  } else {
    repeat.prompts = {"The text:\n\n" + std::string(minutes) + "\n\nThe same text again:\n\n" +
                      std::string(minutes).substr(0, 60)};
    edit.prompts = {"# The code before:\n\n" + std::string(code) +
                    "\n# The same code, with the function renamed:\n\ndef load(path):\n"};
    for (const auto& text : free) invent.prompts.push_back(text + "\n\n");
  }
  return {repeat, edit, invent};
}

class Subject {
 public:
  Subject(const std::filesystem::path& path, const Tokenizer& tokenizer, bool speculation,
          std::uint32_t streams)
      : pool_(static_cast<int>(std::thread::hardware_concurrency())) {
    for (std::uint32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      const auto token = static_cast<TokenId>(id);
      if (tokenizer.is_end_of_generation(token)) stop_tokens_.push_back(token);
    }
    EngineConfig config;
    config.model_version = "bench";
    config.limits = {.tokens = 512, .sequences = 64, .logit_rows = 64, .context_tokens = 2048};
    config.speculation = speculation;
    auto model = load_causal_model(path, {.model_version = "bench",
                                          .cache_directory = path.parent_path(),
                                          .limits = config.limits,
                                          .ledger = &ledger_,
                                          .pool = &pool_,
                                          .progress = {}});
    if (!model) throw std::runtime_error(to_string(model.error()));
    const KvLayout layout = kv_layout((*model)->info(), config.block_tokens, config.kv_type);
    config.kv_budget_bytes =
        std::uint64_t{64} * streams * layout.layer_groups() * layout.block_bytes();
    auto engine = Engine::start(std::move(*model), config, ledger_,
                                [this](std::vector<SequenceEvent>&& events) { take(events); });
    if (!engine) throw std::runtime_error(to_string(engine.error()));
    engine_ = std::move(*engine);
  }

  struct Run {
    std::vector<std::vector<TokenId>> texts;
    double rate = 0;  // tokens a second
    std::uint64_t drafted = 0, accepted = 0;
  };
  Run run(const std::vector<std::vector<TokenId>>& prompts, float temperature, std::uint32_t tokens,
          std::uint32_t streams, std::uint32_t seed) {
    const auto before = engine_->stats();
    {
      const std::lock_guard lock(mutex_);
      texts_.clear();
    }
    for (std::uint32_t i = 0; i < streams; ++i) {
      SequenceRequest request;
      request.id = RequestId(i);
      request.tenant = TenantId("bench");
      request.prompt = prompts[i % prompts.size()];
      request.max_new_tokens = tokens;
      request.stop_tokens = stop_tokens_;
      request.sampling.temperature = temperature;
      request.sampling.seed = seed * 100 + i;
      if (auto ok = engine_->submit(std::move(request)); !ok) {
        throw std::runtime_error(to_string(ok.error()));
      }
    }
    Run out;
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] {
      return texts_.size() == streams &&
             std::ranges::all_of(texts_, [](const auto& text) { return text.second.done; });
    });
    for (const auto& [id, text] : texts_) {
      out.texts.push_back(text.tokens);
      const double seconds = std::chrono::duration<double>(text.last - text.first).count();
      out.rate += static_cast<double>(text.tokens.size() - 1) / seconds;
    }
    lock.unlock();
    const auto after = engine_->stats();
    out.drafted = after.drafted_tokens_total - before.drafted_tokens_total;
    out.accepted = after.accepted_draft_tokens_total - before.accepted_draft_tokens_total;
    return out;
  }

 private:
  struct Text {
    std::vector<TokenId> tokens;
    Clock::time_point first, last;
    bool done = false;
  };
  void take(const std::vector<SequenceEvent>& events) {
    const std::lock_guard lock(mutex_);
    for (const auto& event : events) {
      Text& text = texts_[event.id.get()];
      if (text.tokens.empty()) text.first = Clock::now();
      text.last = Clock::now();
      for (const auto& token : event.tokens) text.tokens.push_back(token.id);
      text.done = event.finish.has_value();
    }
    ended_.notify_all();
  }

  std::vector<TokenId> stop_tokens_;
  Ledger ledger_;
  ThreadPool pool_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<std::uint64_t, Text> texts_;
  std::unique_ptr<Engine> engine_;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void measure(const std::filesystem::path& path, bool instructed, const Options& options) {
  auto text = load_model_text(path);
  if (!text) throw std::runtime_error(to_string(text.error()));
  for (const std::uint32_t streams : options.streams) {
    Subject off(path, *text->tokenizer, false, streams);
    Subject on(path, *text->tokenizer, true, streams);
    for (const Task& task : tasks(instructed)) {
      std::vector<std::vector<TokenId>> prompts;
      for (const auto& prompt : task.prompts) {
        auto tokens = text->tokenizer->encode(prompt, {.add_special = true, .parse_special = true});
        if (!tokens) throw std::runtime_error(to_string(tokens.error()));
        prompts.push_back(std::move(*tokens));
      }
      std::vector<double> without, with, ratios;
      std::uint64_t drafted = 0, accepted = 0;
      bool same = true;
      for (std::uint32_t round = 0; round <= options.rounds; ++round) {
        // The first round of each is to warm up.
        const auto a = off.run(prompts, task.temperature, options.tokens, streams, round);
        const auto b = on.run(prompts, task.temperature, options.tokens, streams, round);
        same &= a.texts == b.texts;
        if (round == 0) continue;
        without.push_back(a.rate);
        with.push_back(b.rate);
        ratios.push_back(b.rate / a.rate);
        drafted += b.drafted;
        accepted += b.accepted;
      }
      std::printf("%-24s %-8s %7u %10.1f %10.1f %6.2f %8llu %8llu  %s\n",
                  path.parent_path().filename().c_str(), task.name, streams, median(without),
                  median(with), median(ratios), static_cast<unsigned long long>(drafted),
                  static_cast<unsigned long long>(accepted), same ? "same" : "DIFFERENT");
      std::fflush(stdout);
      if (!same) throw std::runtime_error("the texts are not the same");
    }
  }
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::string value = argument.substr(std::min(argument.size(), argument.find('=') + 1));
    const auto number = [&](const char* at, char** end) {
      const long n = std::strtol(at, end, 10);
      if (*end == at || n < 1) throw std::runtime_error(argument + ": give numbers over 0");
      return static_cast<std::uint32_t>(n);
    };
    char* end = nullptr;
    if (argument.starts_with("--streams=")) {
      options.streams.clear();
      for (const char* at = value.c_str(); *at != '\0'; at = *end == ',' ? end + 1 : end) {
        options.streams.push_back(number(at, &end));
      }
    } else if (argument.starts_with("--rounds=")) {
      options.rounds = number(value.c_str(), &end);
    } else if (argument.starts_with("--tokens=")) {
      options.tokens = number(value.c_str(), &end);
    } else {
      throw std::runtime_error("unknown option " + argument);
    }
  }
  return options;
}

void run(const Options& options) {
  const auto folder = models_folder();
  std::printf("%-24s %-8s %7s %10s %10s %6s %8s %8s\n", "model", "task", "streams", "off", "auto",
              "ratio", "drafted", "accepted");
  const std::pair<std::filesystem::path, bool> subjects[] = {
      {folder / "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf", true},
      {folder / "gemma-3-270m/gemma-3-270m-q4_k_m.gguf", false}};
  for (const auto& [path, instructed] : subjects) {
    if (std::filesystem::exists(path)) {
      measure(path, instructed, options);
    } else {
      std::printf("%s is absent: nothing measured\n", path.c_str());
    }
  }
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  try {
    plimsoll::run(plimsoll::parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "speculation_bench: %s\n", error.what());
    return 1;
  }
}
