#include "tests/engine/models/tiny_model.h"

#include <cassert>
#include <cstring>
#include <fstream>
#include <random>
#include <stdexcept>

#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

constexpr std::size_t alignment = 32;
constexpr float step = 1.0F / 1024;

class Bytes {
 public:
  template <class T>
  void put(T value) {
    data_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put_text(const std::string& text) {
    put<std::uint64_t>(text.size());
    data_ += text;
  }
  void align() { data_.resize((data_.size() + alignment - 1) / alignment * alignment); }
  std::size_t size() const { return data_.size(); }
  const std::string& data() const { return data_; }
  void append(const Bytes& other) { data_ += other.data_; }

 private:
  std::string data_;
};

void put_values(const TinyTensor& tensor, Bytes& out) {
  switch (tensor.type) {
    case TensorType::f32:
      for (const float v : tensor.values) out.put(v);
      break;
    case TensorType::f16:
      for (const float v : tensor.values) out.put(float_to_half(v));
      break;
    case TensorType::q8_0:
      for (std::size_t i = 0; i < tensor.values.size(); i += 32) {
        out.put(float_to_half(step));
        for (std::size_t j = i; j < i + 32; ++j) {
          out.put(static_cast<std::int8_t>(std::lround(tensor.values[j] / step)));
        }
      }
      break;
    default: throw std::logic_error("type not written");
  }
}

}  // namespace

void TinyModel::write(const std::filesystem::path& path) const {
  enum : std::uint32_t { type_uint32 = 4, type_float32 = 6, type_string = 8 };
  Bytes head;
  head.put<std::uint32_t>(0x46554747);  // "GGUF"
  head.put<std::uint32_t>(3);
  head.put<std::uint64_t>(tensors.size());
  head.put<std::uint64_t>(parameters.size() + 1);
  head.put_text("general.architecture");
  head.put<std::uint32_t>(type_string);
  head.put_text(architecture);
  for (const auto& [key, value] : parameters) {
    head.put_text(key.starts_with("general.") ? key : architecture + "." + key);
    if (const auto* n = std::get_if<std::uint32_t>(&value)) {
      head.put<std::uint32_t>(type_uint32);
      head.put(*n);
    } else if (const auto* x = std::get_if<float>(&value)) {
      head.put<std::uint32_t>(type_float32);
      head.put(*x);
    } else {
      head.put<std::uint32_t>(type_string);
      head.put_text(std::get<std::string>(value));
    }
  }
  Bytes data;
  for (const auto& [name, tensor] : tensors) {
    head.put_text(name);
    head.put(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto it = tensor.shape.rbegin(); it != tensor.shape.rend(); ++it) head.put(*it);
    head.put(static_cast<std::uint32_t>(tensor.type));
    head.put<std::uint64_t>(data.size());
    put_values(tensor, data);
    data.align();
  }
  head.align();
  head.append(data);
  std::ofstream(path, std::ios::binary) << head.data();
}

TinyModel make_tiny_model(const std::string& architecture, TinyShape s, TensorType type) {
  std::mt19937 random(17);
  const bool gemma = architecture == "gemma3";
  TinyModel m;
  m.architecture = architecture;
  m.parameters = {{"block_count", s.layers},
                  {"embedding_length", s.hidden},
                  {"attention.head_count", s.heads},
                  {"attention.head_count_kv", s.kv_heads},
                  {"attention.key_length", s.head_dim},
                  {"attention.value_length", s.head_dim},
                  {"feed_forward_length", s.ffn},
                  {"context_length", std::uint32_t{512}},
                  {"attention.layer_norm_rms_epsilon", 1e-5F},
                  {"rope.freq_base", gemma ? 1e6F : 5e4F}};
  if (gemma) m.parameters["attention.sliding_window"] = std::uint32_t{8};

  const auto matrix = [&](const std::string& name, std::uint64_t rows, std::uint64_t cols) {
    TinyTensor t{.shape = {rows, cols}, .values = {}, .type = type};
    for (std::uint64_t i = 0; i < rows * cols; ++i) {
      t.values.push_back(step * static_cast<float>(static_cast<int>(random() % 255) - 127));
    }
    m.tensors[name] = std::move(t);
  };
  const auto vector = [&](const std::string& name, std::uint64_t n, float around) {
    TinyTensor t{.shape = {n}, .values = {}, .type = TensorType::f32};
    for (std::uint64_t i = 0; i < n; ++i) {
      t.values.push_back(around +
                         step * static_cast<float>(static_cast<int>(random() % 511) - 255));
    }
    m.tensors[name] = std::move(t);
  };
  const std::uint64_t q = std::uint64_t{s.heads} * s.head_dim;
  const std::uint64_t kv = std::uint64_t{s.kv_heads} * s.head_dim;
  matrix("token_embd.weight", s.vocab, s.hidden);
  vector("output_norm.weight", s.hidden, 1);
  for (std::uint32_t i = 0; i < s.layers; ++i) {
    const std::string p = "blk." + std::to_string(i) + ".";
    vector(p + "attn_norm.weight", s.hidden, 1);
    matrix(p + "attn_q.weight", q, s.hidden);
    matrix(p + "attn_k.weight", kv, s.hidden);
    matrix(p + "attn_v.weight", kv, s.hidden);
    matrix(p + "attn_output.weight", s.hidden, q);
    vector(p + "ffn_norm.weight", s.hidden, 1);
    matrix(p + "ffn_gate.weight", s.ffn, s.hidden);
    matrix(p + "ffn_up.weight", s.ffn, s.hidden);
    matrix(p + "ffn_down.weight", s.hidden, s.ffn);
    if (architecture == "qwen2") {
      vector(p + "attn_q.bias", q, 0);
      vector(p + "attn_k.bias", kv, 0);
      vector(p + "attn_v.bias", kv, 0);
    }
    if (architecture == "qwen3" || gemma) {
      vector(p + "attn_q_norm.weight", s.head_dim, 1);
      vector(p + "attn_k_norm.weight", s.head_dim, 1);
    }
    if (gemma) {
      vector(p + "post_attention_norm.weight", s.hidden, 1);
      vector(p + "post_ffw_norm.weight", s.hidden, 1);
    }
  }
  return m;
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "plimsoll-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace plimsoll
