#include "engine/models/weights.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "engine/quantize/dequantize.h"

namespace plimsoll {
namespace {

std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

bool is_float(TensorType type) {
  return type == TensorType::f32 || type == TensorType::f16 || type == TensorType::bf16;
}

PackedForm form_of_floats(ComputeMode compute) {
  return compute == ComputeMode::bf16 ? PackedForm::bf16 : PackedForm::u8;
}

std::vector<TensorView> sources_of(std::span<WeightMatrix* const> matrices) {
  std::vector<TensorView> sources;
  for (const WeightMatrix* w : matrices) sources.push_back(w->source);
  return sources;
}

}  // namespace

WeightSummary summarize_weights(std::span<const TensorView> tensors) {
  WeightSummary summary;
  std::map<TensorType, std::uint64_t> by_type;
  for (const TensorView& t : tensors) {
    if (t.type == TensorType::i64) continue;
    summary.parameters += t.elements();
    by_type[t.type] += t.elements();
  }
  std::uint64_t most = 0;
  for (const auto& [type, elements] : by_type) {
    if (elements > most) summary.main_type = type;
    most = std::max(most, elements);
  }
  return summary;
}

Weights::Weights(MappedFile file, std::vector<TensorView> tensors, const LoadOptions& options)
    : file_(std::move(file)), tensors_(std::move(tensors)), used_(tensors_.size(), false) {
  for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
  anonymous_ = &options.ledger->account(Component::weights, options.model_version, shared_tenant);
  file_charge_ = MappedCharge(*options.ledger, Component::weights, options.model_version,
                              file_.bytes().data(), file_.size());
}

const TensorView* Weights::take(const std::string& name, std::span<const std::uint64_t> shape) {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) {
    reject(ErrorCode::malformed, "tensor '" + name + "' " + shape_text(shape) + " is missing");
    return nullptr;
  }
  used_[it->second] = true;
  const TensorView& t = tensors_[it->second];
  const std::span<const std::uint64_t> found(t.shape.data(), t.rank);
  if (!std::ranges::equal(found, shape)) {
    reject(ErrorCode::malformed,
           "tensor '" + name + "' is " + shape_text(found) + ", expected " + shape_text(shape));
    return nullptr;
  }
  if (t.type == TensorType::i64) {
    reject(ErrorCode::malformed, "tensor '" + name + "' holds integers, expected weights");
    return nullptr;
  }
  return &t;
}

WeightMatrix Weights::matrix(const std::string& name, std::uint64_t rows, std::uint64_t cols) {
  WeightMatrix w;
  const std::array shape{rows, cols};
  if (const TensorView* t = take(name, shape)) w.source = *t;
  return w;
}

const float* Weights::vector(const std::string& name, std::uint64_t length) {
  const std::array shape{length};
  const TensorView* t = take(name, shape);
  if (t == nullptr) return nullptr;
  const bool aligned = reinterpret_cast<std::uintptr_t>(t->data) % alignof(float) == 0;
  if (t->type == TensorType::f32 && aligned) return reinterpret_cast<const float*>(t->data);
  auto memory = Arena::make(*anonymous_, length * sizeof(float));
  if (!memory) {
    if (!error_) error_ = memory.error();
    return nullptr;
  }
  float* const values = memory->take<float>(length).data();
  dequantize(t->type, t->data, values, length);
  expanded_.push_back(std::move(*memory));
  return values;
}

void Weights::reject_unused(std::initializer_list<std::string_view> ignored) {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const std::string& name = tensors_[i].name;
    if (used_[i] || std::ranges::find(ignored, name) != ignored.end()) continue;
    reject(ErrorCode::unsupported,
           "tensor '" + name + "' belongs to a variant of this architecture that is not handled");
  }
}

bool Weights::packs(ComputeMode compute) const {
  return compute == ComputeMode::int8 || compute == ComputeMode::bf16 ||
         (compute == ComputeMode::automatic && !is_float(summarize_weights(tensors_).main_type));
}

std::uint64_t Weights::packed_bytes(std::span<WeightMatrix* const> matrices,
                                    ComputeMode compute) const {
  return packs(compute) ? PackedFile::required_bytes(sources_of(matrices), form_of_floats(compute))
                        : 0;
}

Result<void> Weights::prepare(std::span<WeightMatrix* const> matrices, const LoadOptions& options) {
  if (!packs(options.compute)) return {};
  const auto sources = sources_of(matrices);
  const auto directory =
      options.cache_directory.empty() ? file_.path().parent_path() : options.cache_directory;
  auto packed = PackedFile::open_or_make(file_, sources, form_of_floats(options.compute), directory,
                                         options.progress);
  if (!packed) return fail(std::move(packed.error()));
  packed_ = std::move(*packed);
  packed_charge_ = MappedCharge(*options.ledger, Component::weights, options.model_version,
                                packed_.file().bytes().data(), packed_.file().size());
  for (WeightMatrix* w : matrices) w->packed = packed_.find(w->source.name);
  return {};
}

void Weights::reject(ErrorCode code, std::string message) {
  if (error_) return;
  const std::string where = file_.path().string();
  error_ = Error(code, (where.empty() ? "model" : where) + ": " + std::move(message));
}

}  // namespace plimsoll
