// The weights of one loaded model: mapped from its file, with the packed copy that fast
// kernels read (mapped too) where one of their paths is taken.
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/formats/mapped_file.h"
#include "engine/formats/tensor.h"
#include "engine/kernels/cpu/matmul.h"
#include "engine/kernels/cpu/packed.h"
#include "engine/memory/arena.h"
#include "engine/memory/ledger.h"
#include "engine/models/model.h"

namespace plimsoll {

struct WeightSummary {
  std::uint64_t parameters = 0;
  TensorType main_type = TensorType::f32;  // holds most of the parameters
};
WeightSummary summarize_weights(std::span<const TensorView> tensors);

class Weights {
 public:
  // `tensors` point into `file`. The mapping is charged to the ledger.
  Weights(MappedFile file, std::vector<TensorView> tensors, const LoadOptions& options);

  // Look-ups by name. The first error is kept, and an empty result given, so that a loader reads
  // as the list of a model's tensors; it checks error() before it uses anything.
  // A matrix of any float or quantized type; [rows, cols] as in the papers.
  WeightMatrix matrix(const std::string& name, std::uint64_t rows, std::uint64_t cols);
  // A vector as float32: where it lies, or expanded once.
  const float* vector(const std::string& name, std::uint64_t length);
  bool has(std::string_view name) const { return by_name_.contains(name); }

  // A tensor that no look-up asked for means a variant of the model that is not handled here.
  // Those named are known to be of no use.
  void reject_unused(std::initializer_list<std::string_view> ignored = {});
  const std::optional<Error>& error() const { return error_; }

  // Whether this mode computes with packed weights.
  bool packs(ComputeMode compute) const;
  // What prepare() maps beside the file.
  std::uint64_t packed_bytes(std::span<WeightMatrix* const> matrices, ComputeMode compute) const;

  // Chooses the path of options.compute and, unless it is float32, packs the matrices or maps what
  // an earlier load packed. Errors: as PackedFile::open_or_make.
  Result<void> prepare(std::span<WeightMatrix* const> matrices, const LoadOptions& options);

 private:
  const TensorView* take(const std::string& name, std::span<const std::uint64_t> shape);
  void reject(ErrorCode code, std::string message);

  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::vector<bool> used_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  Account* anonymous_;
  std::deque<Arena> expanded_;
  PackedFile packed_;
  MappedCharge file_charge_;
  MappedCharge packed_charge_;
  std::optional<Error> error_;
};

}  // namespace plimsoll
