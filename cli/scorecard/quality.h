// What a model makes of a fixed text and of a few fixed tasks: changes of weights, quantization,
// kernels or KV format show here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "client/client.h"

namespace plimsoll::cli::scorecard {

struct TaskAnswer {
  std::string prompt;
  std::string text;
  std::vector<std::int32_t> tokens;
  bool right = false;  // it begins as the task expects
};

struct Quality {
  std::uint32_t scored_tokens = 0;
  double perplexity = 0;     // of a token; comparable between models of one tokenizer
  double bits_per_byte = 0;  // comparable between all models
  std::vector<TaskAnswer> tasks;
};

// Generates greedily, one request at a time. Throws client::Error.
Quality measure_quality(client::Client& client, const std::string& model);

// From 0 to 1: of the answers' tokens, those before the first that differs, in the mean over the
// tasks that both have.
double agreement(const std::vector<TaskAnswer>& a, const std::vector<TaskAnswer>& b);

std::string_view quality_text();

}  // namespace plimsoll::cli::scorecard
