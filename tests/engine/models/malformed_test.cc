// Files that are well-formed GGUF or JSON but no model that can be run: each gives a typed error
// that names what is wrong, and nothing crashes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>

#include "tests/engine/models/model_runner.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll {
namespace {

using ::testing::HasSubstr;

struct Fault {
  std::string name;
  std::string architecture;
  std::function<void(TinyModel&)> make;
  ErrorCode code;
  std::string says;
};

TinyTensor matrix(std::uint64_t rows, std::uint64_t cols) {
  return {.shape = {rows, cols}, .values = std::vector<float>(rows * cols, 0.5F)};
}

std::vector<Fault> faults() {
  const auto set = [](std::string key, std::uint32_t value) {
    return [=](TinyModel& m) { m.parameters[key] = value; };
  };
  const auto drop = [](std::string name) {
    return [=](TinyModel& m) { ASSERT_EQ(m.tensors.erase(name), 1U); };
  };
  const auto replace = [](std::string name, TinyTensor t) {
    return [=](TinyModel& m) { m.tensors[name] = t; };
  };
  using enum ErrorCode;
  return {
      {"unknown_architecture", "mamba", [](TinyModel&) {}, unsupported, "architecture 'mamba'"},
      {"missing_tensor", "llama", drop("blk.1.ffn_up.weight"), malformed,
       "tensor 'blk.1.ffn_up.weight' [96, 64] is missing"},
      {"missing_norm", "llama", drop("output_norm.weight"), malformed, "'output_norm.weight' [64]"},
      {"missing_embedding", "llama", drop("token_embd.weight"), malformed, "'token_embd.weight'"},
      {"missing_bias", "qwen2", drop("blk.0.attn_q.bias"), malformed, "'blk.0.attn_q.bias'"},
      {"missing_later_bias", "qwen2", drop("blk.1.attn_k.bias"), malformed, "'blk.1.attn_k.bias'"},
      {"missing_head_norm", "qwen3", drop("blk.0.attn_q_norm.weight"), malformed,
       "[16] is missing"},
      {"missing_post_norm", "gemma3", drop("blk.1.post_ffw_norm.weight"), malformed,
       "'blk.1.post_ffw_norm.weight'"},
      {"wrong_shape", "llama", replace("blk.0.attn_k.weight", matrix(16, 64)), malformed,
       "tensor 'blk.0.attn_k.weight' is [16, 64], expected [32, 64]"},
      {"transposed", "llama", replace("blk.0.ffn_down.weight", matrix(96, 64)), malformed,
       "is [96, 64], expected [64, 96]"},
      {"flat_embedding", "llama",
       replace("token_embd.weight", {.shape = {64}, .values = std::vector<float>(64)}), malformed,
       "'token_embd.weight'"},
      {"left_over_tensor", "llama", replace("blk.0.ffn_gate_exps.weight", matrix(4, 4)),
       unsupported, "tensor 'blk.0.ffn_gate_exps.weight' belongs to a variant"},
      {"no_layers", "llama", set("block_count", 0), malformed, "'block_count' is 0"},
      {"absurd_layers", "llama", set("block_count", 4'000'000'000), malformed,
       "'block_count' is 4000000000; expected an integer from 1 to 1024"},
      {"one_layer_too_many", "llama", set("block_count", 3), malformed, "'blk.2.attn_norm.weight'"},
      {"one_layer_too_few", "llama", set("block_count", 1), unsupported, "'blk.1."},
      {"zero_heads", "llama", set("attention.head_count", 0), malformed,
       "'attention.head_count' is 0"},
      {"zero_kv_heads", "llama", set("attention.head_count_kv", 0), malformed,
       "'attention.head_count_kv' is 0"},
      {"uneven_kv_heads", "llama", set("attention.head_count_kv", 3), malformed,
       "4 heads cannot share 3 KV heads"},
      {"more_kv_heads", "llama", set("attention.head_count_kv", 8), malformed, "from 1 to 4"},
      {"odd_head", "llama", set("attention.key_length", 15), unsupported, "15 dimensions"},
      {"huge_head", "llama", set("attention.key_length", 4096), malformed, "4096"},
      {"values_of_another_length", "llama", set("attention.value_length", 8), unsupported,
       "attention.value_length"},
      {"more_heads_than_dimensions", "llama",
       [](TinyModel& m) {
         m.parameters.erase("attention.key_length");
         m.parameters["attention.head_count"] = std::uint32_t{128};
       },
       malformed, "128 heads"},
      {"zero_hidden", "llama", set("embedding_length", 0), malformed, "'embedding_length' is 0"},
      {"zero_ffn", "llama", set("feed_forward_length", 0), malformed, "'feed_forward_length' is 0"},
      {"no_context", "llama", [](TinyModel& m) { m.parameters.erase("context_length"); }, malformed,
       "'context_length' is missing"},
      {"text_for_a_number", "llama",
       [](TinyModel& m) { m.parameters["embedding_length"] = "many"; }, malformed,
       "'embedding_length' is no integer"},
      {"nan_epsilon", "llama",
       [](TinyModel& m) { m.parameters["attention.layer_norm_rms_epsilon"] = NAN; }, malformed,
       "layer_norm_rms_epsilon"},
      {"negative_rope_base", "llama", [](TinyModel& m) { m.parameters["rope.freq_base"] = -1.0F; },
       malformed, "'rope.freq_base'"},
      {"partial_rope", "llama", set("rope.dimension_count", 8), unsupported, "rope"},
      {"yarn", "llama", [](TinyModel& m) { m.parameters["rope.scaling.type"] = "yarn"; },
       unsupported, "rope scaling 'yarn'"},
      {"no_window", "gemma3", set("attention.sliding_window", 0), malformed,
       "'attention.sliding_window' is 0"},
      {"no_window_pattern", "gemma3", set("attention.sliding_window_pattern", 0), malformed,
       "'attention.sliding_window_pattern' is 0"},
  };
}

class MalformedModel : public ::testing::TestWithParam<Fault> {};

TEST_P(MalformedModel, IsRefusedWithATypedError) {
  TemporaryFolder folder;
  const auto path = folder.path() / "broken.gguf";
  TinyModel model = make_tiny_model(GetParam().architecture);
  GetParam().make(model);
  model.write(path);
  ModelRunner runner(path, {});
  ASSERT_EQ(runner.model(), nullptr);
  EXPECT_EQ(runner.error().code, GetParam().code) << to_string(runner.error());
  EXPECT_THAT(runner.error().message, HasSubstr(GetParam().says));
  EXPECT_THAT(runner.error().message, HasSubstr("broken.gguf"));
  for (const LedgerRow& row : runner.ledger().snapshot()) EXPECT_EQ(row.bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(All, MalformedModel, ::testing::ValuesIn(faults()),
                         [](const auto& info) { return info.param.name; });

TEST(Models, RefusesPathsThatAreNoModel) {
  TemporaryFolder folder;
  EXPECT_EQ(probe_model(folder.path() / "none.gguf").error().code, ErrorCode::not_found);
  EXPECT_EQ(load_model_text(folder.path() / "none").error().code, ErrorCode::not_found);
  EXPECT_EQ(probe_model(folder.path()).error().code, ErrorCode::not_found) << "no config.json";
  ModelRunner runner(folder.path(), {});
  EXPECT_EQ(runner.error().code, ErrorCode::unsupported);

  Ledger ledger;
  ThreadPool pool(1);
  LoadOptions options;
  options.ledger = &ledger;
  options.pool = &pool;
  const auto gguf = folder.path() / "model.gguf";
  make_tiny_model("llama").write(gguf);
  EXPECT_EQ(load_embedding_model(gguf, options).error().code, ErrorCode::unsupported);
}

TEST(Models, RefusesALimitOfZero) {
  TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  make_tiny_model("llama").write(path);
  ModelRunner runner(path, {.limits = {.tokens = 0}});
  EXPECT_EQ(runner.error().code, ErrorCode::invalid_argument);
}

// A folder with a config.json; its weights are never reached.
Error bert_error(const std::string& config) {
  TemporaryFolder folder;
  std::ofstream(folder.path() / "config.json") << config;
  return probe_model(folder.path()).error();
}

TEST(Models, RefusesBrokenBertConfigs) {
  const std::string shape =
      R"("num_hidden_layers":2,"hidden_size":32,"intermediate_size":64,"vocab_size":10,)"
      R"("max_position_embeddings":16,"type_vocab_size":2,"layer_norm_eps":1e-12)";
  EXPECT_EQ(bert_error("{").code, ErrorCode::malformed);
  EXPECT_EQ(bert_error("[]").code, ErrorCode::malformed);
  EXPECT_EQ(bert_error(R"({"model_type":"llama"})").code, ErrorCode::unsupported);
  EXPECT_EQ(bert_error(R"({"model_type":7})").code, ErrorCode::unsupported);
  const Error none = bert_error(R"({"model_type":"bert"})");
  EXPECT_EQ(none.code, ErrorCode::malformed);
  EXPECT_THAT(none.message, HasSubstr("'num_hidden_layers' is missing"));
  const Error heads = bert_error(R"({"model_type":"bert","num_attention_heads":5,)" + shape + "}");
  EXPECT_EQ(heads.code, ErrorCode::malformed);
  EXPECT_THAT(heads.message, HasSubstr("32 dimensions cannot be split into 5 heads"));
  const Error act = bert_error(
      R"({"model_type":"bert","num_attention_heads":4,"hidden_act":"relu",)" + shape + "}");
  EXPECT_EQ(act.code, ErrorCode::unsupported);
  EXPECT_THAT(act.message, HasSubstr("relu"));
}

}  // namespace
}  // namespace plimsoll
