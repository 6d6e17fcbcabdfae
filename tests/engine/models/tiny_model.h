// GGUF files of small decoders with random weights, for tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "engine/formats/tensor.h"

namespace plimsoll {

struct TinyTensor {
  std::vector<std::uint64_t> shape;  // outermost first
  std::vector<float> values;
  TensorType type = TensorType::f32;  // or q8_0, f16
};

// What goes into the file; tests change it at will before write().
struct TinyModel {
  std::string architecture;
  // Keys without the architecture's prefix, and whole ones for what stands outside of it.
  std::map<std::string, std::variant<std::uint32_t, float, std::string>> parameters;
  std::map<std::string, TinyTensor> tensors;

  std::uint32_t count(const std::string& key) const {
    return std::get<std::uint32_t>(parameters.at(key));
  }
  float number(const std::string& key, float fallback) const {
    const auto it = parameters.find(key);
    return it == parameters.end() ? fallback : std::get<float>(it->second);
  }

  void write(const std::filesystem::path& path) const;
};

struct TinyShape {
  std::uint32_t layers = 2;
  std::uint32_t hidden = 64;
  std::uint32_t heads = 4;
  std::uint32_t kv_heads = 2;
  std::uint32_t head_dim = 16;
  std::uint32_t ffn = 96;
  std::uint32_t vocab = 101;
};

// A model of the family with every tensor it needs, and a window of 8 for gemma3. Every weight is
// a multiple of 2^-10 and fits Q8_0 exactly, so that a file of either type means the same model.
TinyModel make_tiny_model(const std::string& architecture, TinyShape shape = {},
                          TensorType type = TensorType::f32);

// A folder that is gone when the test is.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace plimsoll
