// A scorecard of a run that never was.
#pragma once

#include "cli/scorecard/report.h"

namespace plimsoll::cli::scorecard {

struct Sample {
  double ttft_s = 0.2;
  std::uint64_t seed = 1;
  double kv_bytes = 64 << 20;
  std::vector<std::int32_t> answer = {1, 2, 3, 4};
};

inline Json sample_card(const Sample& sample = {}) {
  Card card;
  card.source = {{"mix", to_json(*named_mix("flood"))}};
  card.label = "two nodes";
  card.server_version = "1.2.3";
  card.client_version = "1.2.3";
  card.unix_seconds = 1'700'000'000;
  card.nodes = 2;
  card.machine = {"A Processor", "avx2", 2, 8ULL << 30};
  card.prices = {0.4, 0.02};
  card.quality =
      Quality{400, 20.5, 1.1, {{"The capital of France is", " Paris", sample.answer, true}}};

  RunOptions options;
  options.model.name = "m";
  options.model.version = "m@1";
  options.seed = sample.seed;
  options.traffic = 2;
  options.objectives = {1, 0.1};

  Measured m{Tally(options.objectives, 2), {}, 36, 3, sample.seed, {}};
  for (std::uint32_t i = 0; i < 10; ++i) {
    Request request;
    request.tenant = i % 5;
    request.traffic = request.tenant == 4 ? 1 : 0;
    Outcome o;
    o.first_token_s = sample.ttft_s * (i + 1);
    o.gaps = {{0.05, 1}};
    o.end_to_end_s = *o.first_token_s + 0.05;
    o.prompt_tokens = 100;
    o.generated_tokens = 2;
    if (i == 9) o = {};
    if (i == 9) o.refusal = "overloaded";
    m.tally.add(request, o);
  }
  m.tally.add_not_sent();
  client::Memory memory;
  memory.anonymous_bytes = 1 << 30;
  memory.rows.resize(2);
  memory.rows[0].component = "kv";
  memory.rows[0].tenant = "flooder";
  memory.rows[0].kind = "anonymous";
  memory.rows[0].bytes = static_cast<std::int64_t>(sample.kv_bytes);
  memory.rows[1] = memory.rows[0];
  memory.rows[1].tenant = "victim";
  memory.rows[1].bytes = 1 << 20;
  m.memory.add(0, memory, 2ULL << 30);
  m.memory.add(36, memory, 3ULL << 30);
  m.usage.resize(2);
  m.usage[0].tenant = "flooder";
  m.usage[0].requests = 2;
  m.usage[0].generated_tokens = 10;
  m.usage[0].kv_byte_seconds = 5e6;
  m.usage[0].rejections = {{"overloaded", 4}, {"quota", 1}};
  m.usage[1].tenant = "victim";
  m.usage[1].requests = 8;
  m.usage[1].prompt_tokens = 100;
  m.usage[1].kv_byte_seconds = 6e6;
  return report(card, options, m);
}

}  // namespace plimsoll::cli::scorecard
