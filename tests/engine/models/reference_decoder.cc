#include "tests/engine/models/reference_decoder.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class Reference {
 public:
  explicit Reference(const TinyModel& m) : m_(m), gemma_(m.architecture == "gemma3") {}

  std::vector<float> logits(std::span<const TokenId> tokens) {
    const std::uint32_t hidden = m_.count("embedding_length");
    const TinyTensor& embedding = m_.tensors.at("token_embd.weight");
    Rows x;
    for (const TokenId id : tokens) {
      Row row(hidden);
      for (std::uint32_t i = 0; i < hidden; ++i) {
        row[i] = embedding.values[static_cast<std::size_t>(id) * hidden + i];
        if (gemma_) row[i] *= std::sqrt(static_cast<double>(hidden));
      }
      x.push_back(row);
    }
    for (std::uint32_t layer = 0; layer < m_.count("block_count"); ++layer) {
      const std::string p = "blk." + std::to_string(layer) + ".";
      add(x, attention(x, p, gemma_ && (layer + 1) % 6 != 0), p + "post_attention_norm.weight");
      add(x, feed_forward(x, p), p + "post_ffw_norm.weight");
    }
    const bool untied = m_.tensors.contains("output.weight");
    const double cap = m_.number("final_logit_softcapping", 0);
    std::vector<float> out;
    for (const Row& row : x) {
      for (const double v : multiply(untied ? "output.weight" : "token_embd.weight",
                                     norm(row, "output_norm.weight"))) {
        out.push_back(static_cast<float>(cap > 0 ? cap * std::tanh(v / cap) : v));
      }
    }
    return out;
  }

 private:
  Row multiply(const std::string& name, const Row& x) const {
    const TinyTensor& w = m_.tensors.at(name);
    Row y(w.shape[0], 0);
    for (std::size_t r = 0; r < y.size(); ++r) {
      for (std::size_t c = 0; c < x.size(); ++c) y[r] += w.values[r * x.size() + c] * x[c];
    }
    return y;
  }
  Row norm(const Row& x, const std::string& name) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double size = static_cast<double>(x.size());
    const double rms = std::sqrt(squares / size + m_.number("attention.layer_norm_rms_epsilon", 0));
    Row y = x;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] *= m_.tensors.at(name).values[i] / rms;
    return y;
  }
  void add(Rows& x, const Rows& branch, const std::string& post_norm) const {
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row row = gemma_ ? norm(branch[t], post_norm) : branch[t];
      for (std::size_t i = 0; i < row.size(); ++i) x[t][i] += row[i];
    }
  }

  // One head's query or key: normalised if the family does, then turned by its position.
  void turn(double* head, std::size_t position, const std::string& norm_name, bool local) const {
    const std::size_t d = m_.count("attention.key_length");
    if (m_.tensors.contains(norm_name)) {
      const Row normed = norm(Row(head, head + d), norm_name);
      std::copy(normed.begin(), normed.end(), head);
    }
    const double base = local ? 10000.0 : m_.number("rope.freq_base", 0);
    const double scaled =
        static_cast<double>(position) / (local ? 1.0 : m_.number("rope.scaling.factor", 1));
    for (std::size_t i = 0; i < d / 2; ++i) {
      double angle =
          scaled * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(d));
      const auto factors = m_.tensors.find("rope_freqs.weight");
      if (factors != m_.tensors.end()) angle /= factors->second.values[i];
      const bool adjacent = m_.architecture == "llama";
      double& a = head[adjacent ? 2 * i : i];
      double& b = head[adjacent ? 2 * i + 1 : i + d / 2];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
  }

  Row project(const std::string& name, const Row& x) const {
    Row y = multiply(name + ".weight", x);
    const auto bias = m_.tensors.find(name + ".bias");
    if (bias == m_.tensors.end()) return y;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias->second.values[i];
    return y;
  }

  Rows attention(const Rows& x, const std::string& p, bool local) const {
    const std::size_t d = m_.count("attention.key_length");
    const std::size_t heads = m_.count("attention.head_count");
    const std::size_t kv_heads = m_.count("attention.head_count_kv");
    const double cap = m_.number("attn_logit_softcapping", 0);
    Rows q, k, v, out;
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row h = norm(x[t], p + "attn_norm.weight");
      q.push_back(project(p + "attn_q", h));
      k.push_back(project(p + "attn_k", h));
      v.push_back(project(p + "attn_v", h));
      for (std::size_t i = 0; i < heads; ++i) {
        turn(&q[t][i * d], t, p + "attn_q_norm.weight", local);
      }
      for (std::size_t i = 0; i < kv_heads; ++i) {
        turn(&k[t][i * d], t, p + "attn_k_norm.weight", local);
      }
      for (Row* row : {&k[t], &v[t]}) {
        for (double& value : *row) {
          value = half_to_float(float_to_half(static_cast<float>(value)));
        }
      }
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      const std::size_t window = local ? m_.count("attention.sliding_window") : x.size();
      const std::size_t first = t + 1 > window ? t + 1 - window : 0;
      Row attended(heads * d, 0);
      for (std::size_t i = 0; i < heads; ++i) {
        const std::size_t kv = i / (heads / kv_heads);
        Row weights;
        double sum = 0;
        for (std::size_t s = first; s <= t; ++s) {
          double score = 0;
          for (std::size_t j = 0; j < d; ++j) score += q[t][i * d + j] * k[s][kv * d + j];
          score /= std::sqrt(static_cast<double>(d));
          if (cap > 0) score = cap * std::tanh(score / cap);
          weights.push_back(std::exp(score));
          sum += weights.back();
        }
        for (std::size_t s = first; s <= t; ++s) {
          for (std::size_t j = 0; j < d; ++j) {
            attended[i * d + j] += weights[s - first] / sum * v[s][kv * d + j];
          }
        }
      }
      out.push_back(multiply(p + "attn_output.weight", attended));
    }
    return out;
  }

  Rows feed_forward(const Rows& x, const std::string& p) const {
    Rows out;
    for (const Row& row : x) {
      const Row h = norm(row, p + "ffn_norm.weight");
      Row gate = multiply(p + "ffn_gate.weight", h);
      const Row up = multiply(p + "ffn_up.weight", h);
      for (std::size_t i = 0; i < gate.size(); ++i) {
        const double g = gate[i];
        const double inner = std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
        gate[i] = up[i] * (gemma_ ? 0.5 * g * (1 + std::tanh(inner)) : g / (1 + std::exp(-g)));
      }
      out.push_back(multiply(p + "ffn_down.weight", gate));
    }
    return out;
  }

  const TinyModel& m_;
  bool gemma_;
};

}  // namespace

std::vector<float> reference_logits(const TinyModel& model, std::span<const TokenId> tokens) {
  return Reference(model).logits(tokens);
}

}  // namespace plimsoll
