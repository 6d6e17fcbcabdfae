#include "engine/models/model.h"

#include <cassert>
#include <string>
#include <system_error>
#include <utility>

#include "engine/formats/gguf.h"
#include "engine/models/bert.h"
#include "engine/models/decoder.h"
#include "engine/models/decoder_config.h"
#include "engine/models/model_folder.h"

namespace plimsoll {
namespace {

Result<void> must_exist(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return {};
  return fail(ErrorCode::not_found, path.string() + ": no such model file or folder");
}

bool is_folder(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

// transformers allows one template, or a list of named ones, of which "default" is the usual one.
std::string chat_template_of(const nlohmann::json& tokenizer_config) {
  const auto it = tokenizer_config.find("chat_template");
  if (it == tokenizer_config.end()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return {};
  for (const auto& entry : *it) {
    if (entry.is_object() && entry.value("name", nlohmann::json()) == "default" &&
        entry.contains("template") && entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return {};
}

}  // namespace

Result<ModelInfo> probe_model(const std::filesystem::path& path) {
  if (auto found = must_exist(path); !found) return fail(std::move(found.error()));
  if (is_folder(path)) return probe_bert(path);
  auto file = GgufFile::open(path);
  if (!file) return fail(std::move(file.error()));
  auto config = read_decoder_config(*file);
  if (!config) return fail(std::move(config.error()));
  return decoder_info(*file, *config);
}

Result<ModelText> load_model_text(const std::filesystem::path& path) {
  if (auto found = must_exist(path); !found) return fail(std::move(found.error()));
  ModelText text;
  if (is_folder(path)) {
    auto tokenizer = make_tokenizer(path / "tokenizer.json");
    if (!tokenizer) return fail(std::move(tokenizer.error()));
    text.tokenizer = std::move(*tokenizer);
    const auto config_path = path / "tokenizer_config.json";
    if (std::filesystem::exists(config_path)) {
      auto config = read_json_object(config_path);
      if (!config) return fail(std::move(config.error()));
      text.chat_template = chat_template_of(*config);
    }
    return text;
  }
  auto file = GgufFile::open(path);
  if (!file) return fail(std::move(file.error()));
  auto tokenizer = make_tokenizer(*file);
  if (!tokenizer) return fail(std::move(tokenizer.error()));
  text.tokenizer = std::move(*tokenizer);
  text.chat_template = file->string("tokenizer.chat_template").value_or("");
  return text;
}

Result<ModelMemory> model_memory(const std::filesystem::path& path, ComputeMode compute) {
  if (auto found = must_exist(path); !found) return fail(std::move(found.error()));
  if (is_folder(path)) return bert_memory(path, compute);
  auto file = GgufFile::open(path);
  if (!file) return fail(std::move(file.error()));
  return Decoder::memory(std::move(*file), compute);
}

Result<std::unique_ptr<CausalModel>> load_causal_model(const std::filesystem::path& path,
                                                       const LoadOptions& options) {
  assert(options.ledger != nullptr && options.pool != nullptr);
  if (auto found = must_exist(path); !found) return fail(std::move(found.error()));
  if (is_folder(path)) {
    return fail(ErrorCode::unsupported,
                path.string() + ": a language model is loaded from a .gguf file, not a folder");
  }
  auto file = GgufFile::open(path);
  if (!file) return fail(std::move(file.error()));
  return Decoder::load(std::move(*file), options);
}

Result<std::unique_ptr<EmbeddingModel>> load_embedding_model(const std::filesystem::path& path,
                                                             const LoadOptions& options) {
  assert(options.ledger != nullptr && options.pool != nullptr);
  if (auto found = must_exist(path); !found) return fail(std::move(found.error()));
  if (!is_folder(path)) {
    return fail(ErrorCode::unsupported, path.string() +
                                            ": an embedding model is loaded from a folder with "
                                            "model.safetensors, config.json and tokenizer.json");
  }
  return load_bert(path, options);
}

}  // namespace plimsoll
