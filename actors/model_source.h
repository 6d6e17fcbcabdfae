// Where models come from: files, or whatever a test puts in their place.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/models/model.h"

namespace plimsoll {

struct ModelSource {
  std::function<Result<ModelInfo>(const ModelConfig&)> probe;
  // Names the content: the same on every machine that has the same files.
  std::function<Result<std::string>(const ModelConfig&)> content_hash;
  std::function<Result<ModelText>(const ModelConfig&)> text;
  std::function<Result<ModelMemory>(const ModelConfig&)> memory;  // absent: nothing is known
  std::function<Result<std::unique_ptr<CausalModel>>(const ModelConfig&, const LoadOptions&)>
      causal;
  std::function<Result<std::unique_ptr<EmbeddingModel>>(const ModelConfig&, const LoadOptions&)>
      embedding;
};

// By ModelConfig::path.
ModelSource model_files();

}  // namespace plimsoll
