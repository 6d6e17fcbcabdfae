// Packed weights: the layout that the fast kernels read, made once from a model file, kept in a
// cache file and mapped, so that processes share it and the kernel can reclaim it.
//
// One layout for every instruction set. Rows go in panels of 16 (one SIMD lane a row); columns in
// blocks of 32. Every source type becomes quants u of 4, 5 or 8 bits that are affine per row and
// block, or, where the source has no mins, centred:
//   affine (u4, u5, u8)    w = factor * (scale * u + min)
//   centred (c4, c5, c8)   w = factor * scale * (u - 2^(bits - 1))
// A panel holds 16 factors, one f32 a row: powers of two that bring the greatest of the row's
// scales and mins to between 2^12 and 2^13. There an f16 keeps 11 bits of a scale whatever its
// magnitude, and a min is an i16. Then, each part on a 64-byte border and in the order in which it
// is read:
//   affine: mins, for each two blocks 16 rows x 2 numbers (the last may be alone, beside zeros)
//   for each two blocks (the last may be alone): their scales, 2 x 16 x f16, and the quants of both
// Quants are, for each group g of 4 columns, 16 rows x 4 bytes:
//   8 bits: g = 0..7, 512 bytes
//   4 bits: g = 0..3, 256 bytes, the low nibble from column 4g+j, the high one from 16+4g+j
//   5 bits: as 4 bits, then 64 bytes: bit g of byte (row, j) is the fifth of column 4g+j
// Weights of float files may be kept as bfloat16 instead: a panel then holds, for each pair of
// columns, 16 rows x 2 numbers, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "engine/base/result.h"
#include "engine/formats/mapped_file.h"
#include "engine/formats/tensor.h"

namespace plimsoll {

enum class PackedForm : std::uint32_t {
  none = 0,
  u4 = 4,
  u5 = 5,
  u8 = 8,
  c4 = 0x14,
  c5 = 0x15,
  c8 = 0x18,
  bf16 = 0x20,
};
// Of quantized forms.
constexpr std::uint32_t bits_of(PackedForm form) { return static_cast<std::uint32_t>(form) & 0xF; }
constexpr bool is_centred(PackedForm form) { return static_cast<std::uint32_t>(form) > 0xF; }
// Of one block's quants.
constexpr std::size_t quant_bytes(PackedForm form) { return 64 * std::size_t{bits_of(form)}; }

struct PackedMatrix {
  static constexpr std::size_t panel_rows = 16;
  static constexpr std::size_t block_cols = 32;
  static constexpr std::size_t factors_bytes = panel_rows * sizeof(float);
  // Of two blocks: their scales, and as much again their mins.
  static constexpr std::size_t header_bytes = 2 * panel_rows * sizeof(std::uint16_t);
  static constexpr std::int16_t most_min = 8192;
  // With these, sums of mins times activations stay within 32 bits over a whole row (matmul.h).
  static constexpr std::size_t most_cols = 65536;
  PackedForm form = PackedForm::none;
  std::uint32_t rows = 0;  // as in the source; the last panel is padded with zeros
  std::uint32_t cols = 0;  // a multiple of 32, most_cols at most
  const std::byte* data = nullptr;

  bool empty() const { return form == PackedForm::none; }
  std::size_t panels() const { return (rows + panel_rows - 1) / panel_rows; }
  std::size_t blocks() const { return cols / block_cols; }
  std::size_t block_pairs() const { return (blocks() + 1) / 2; }
  bool quantized() const { return form != PackedForm::none && form != PackedForm::bf16; }
  std::size_t panel_bytes() const {
    if (form == PackedForm::bf16) return panel_rows * cols * sizeof(std::uint16_t);
    const std::size_t headers = block_pairs() * (is_centred(form) ? 1 : 2);
    return factors_bytes + headers * header_bytes + blocks() * quant_bytes(form);
  }
  std::size_t bytes() const { return panels() * panel_bytes(); }
};

// The form a type is packed to; none for i64, and for matrices whose columns are no multiple of 32
// or more than most_cols.
//
// Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K and Q8_0 keep their quants; only their scales are rounded to
// 11 bits, and their mins to 2^-14 of the row's greatest. Float types become what `floats` says, u8
// or bf16. What becomes u8, these and Q6_K (scales of 16 columns), is quantized anew, to 255 steps
// between the least and the greatest value of a row's block; bf16 is rounded to the nearest.
PackedForm packed_form(const TensorView& source, PackedForm floats = PackedForm::u8);
// Packs one matrix into dst (PackedMatrix::bytes() long).
void pack_matrix(const TensorView& source, PackedForm form, std::byte* dst);
// Packs one panel (PackedMatrix::panel_bytes() long).
void pack_panel(const TensorView& source, PackedForm form, std::size_t panel, std::byte* dst);

// Called with (bytes done, bytes in all); from the calling thread.
using Progress = std::function<void(std::uint64_t, std::uint64_t)>;

// The cache file of one model file: a header, a table of the matrices, and their panels, each
// matrix on a 64-byte border. Header and table follow from the model alone.
class PackedFile {
 public:
  // Opens `<directory>/<stem>-<content hash>-<layout version>.packed` (of bf16, `-bf16.packed`), or
  // makes it. `floats` as in packed_form(). A file whose
  // header, table or size is not exactly what this model gives is made again. It is written under
  // a temporary name, synced, then renamed, so that a crash leaves no half file; a second process
  // waits for the first and uses its file. Memory use is bounded by a panel, not by the model.
  // Errors: resource_exhausted (disk full), permission_denied (directory not writable),
  // unavailable (other input or output errors).
  static Result<PackedFile> open_or_make(const MappedFile& model,
                                         std::span<const TensorView> matrices, PackedForm floats,
                                         const std::filesystem::path& directory,
                                         const Progress& progress);

  // How large that file is, or will be.
  static std::uint64_t required_bytes(std::span<const TensorView> matrices, PackedForm floats);

  PackedMatrix find(const std::string& tensor_name) const;  // empty if it was not packed
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  std::map<std::string, PackedMatrix> matrices_;
};

}  // namespace plimsoll
