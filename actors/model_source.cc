#include "actors/model_source.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "engine/formats/mapped_file.h"

namespace plimsoll {
namespace {

// SHA-256 over a file's size, its first MiB (a model's names, shapes and settings are there), and
// pages spread over the rest: all of a large file would have to be read from disk.
constexpr std::uint64_t head_bytes = 1_MiB;
constexpr std::uint64_t sample_bytes = 4_KiB;
constexpr std::uint64_t samples = 256;

Result<void> add_file(EVP_MD_CTX* digest, const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return fail(std::move(file.error()));
  const auto bytes = file->bytes();
  const auto size = static_cast<std::uint64_t>(bytes.size());
  EVP_DigestUpdate(digest, &size, sizeof(size));
  EVP_DigestUpdate(digest, bytes.data(), std::min(head_bytes, size));
  if (size <= head_bytes) return {};
  for (std::uint64_t i = 0; i < samples; ++i) {
    const std::uint64_t from = head_bytes + (size - head_bytes) / samples * i;
    EVP_DigestUpdate(digest, bytes.data() + from, std::min(sample_bytes, size - from));
  }
  return {};
}

Result<std::string> content_hash(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path)) {
    for (const char* name : {"model.safetensors", "config.json", "tokenizer.json"}) {
      files.push_back(path / name);
    }
    // Two models that pool otherwise are two models.
    const auto pooling = path / "1_Pooling" / "config.json";
    if (std::filesystem::exists(pooling)) files.push_back(pooling);
  } else {
    files.push_back(path);
  }
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(),
                                                                       EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr);
  for (const auto& file : files) {
    if (auto added = add_file(digest.get(), file); !added) return fail(std::move(added.error()));
  }
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_DigestFinal_ex(digest.get(), sum, &length);
  std::string hex;
  for (int i = 0; i < 6; ++i) hex += fmt::format("{:02x}", sum[i]);
  return hex;
}

}  // namespace

ModelSource model_files() {
  return {
      .probe = [](const ModelConfig& config) { return probe_model(config.path); },
      .content_hash = [](const ModelConfig& config) { return content_hash(config.path); },
      .text = [](const ModelConfig& config) { return load_model_text(config.path); },
      .memory = [](const ModelConfig& config) { return model_memory(config.path, config.compute); },
      .causal = [](const ModelConfig& config,
                   const LoadOptions& options) { return load_causal_model(config.path, options); },
      .embedding =
          [](const ModelConfig& config, const LoadOptions& options) {
            return load_embedding_model(config.path, options);
          },
  };
}

}  // namespace plimsoll
