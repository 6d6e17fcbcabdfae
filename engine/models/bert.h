// BERT (Devlin et al. 2018) as a sentence encoder: sentence-transformers folders.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/base/result.h"
#include "engine/models/model.h"

namespace plimsoll {

Result<ModelInfo> probe_bert(const std::filesystem::path& folder);
Result<ModelMemory> bert_memory(const std::filesystem::path& folder, ComputeMode compute);
Result<std::unique_ptr<EmbeddingModel>> load_bert(const std::filesystem::path& folder,
                                                  LoadOptions options);

}  // namespace plimsoll
