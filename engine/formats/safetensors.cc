#include "engine/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

namespace plimsoll {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the reference implementation's limit
constexpr int max_depth = 8;

tl::unexpected<Error> malformed(std::uint64_t at, std::string message) {
  return fail(Error(ErrorCode::malformed, std::move(message)).at(at));
}

std::optional<TensorType> type_of(std::string_view name) {
  if (name == "F32") return TensorType::f32;
  if (name == "F16") return TensorType::f16;
  if (name == "BF16") return TensorType::bf16;
  if (name == "I64") return TensorType::i64;
  return std::nullopt;
}

// One entry of the header; `data` is the section that its offsets count from.
Result<TensorView> read_tensor(const std::string& name, const Json& entry,
                               std::span<const std::byte> data, std::uint64_t header_at) {
  const std::string quoted = "tensor '" + name + "'";
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
      !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
    return malformed(header_at, quoted + " needs dtype, shape and two data_offsets");
  }
  TensorView view;
  view.name = name;
  const auto& dtype = entry["dtype"].get_ref<const std::string&>();
  const auto type = type_of(dtype);
  if (!type) {
    return fail(Error(ErrorCode::unsupported,
                      quoted + " has dtype " + dtype + "; F32, F16, BF16 and I64 are read")
                    .at(header_at));
  }
  view.type = *type;
  const auto& shape = entry["shape"];
  if (shape.size() > 4) return malformed(header_at, quoted + " has more than 4 dimensions");
  view.rank = static_cast<std::uint32_t>(shape.size());
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < view.rank; ++i) {
    if (!shape[i].is_number_unsigned() ||
        __builtin_mul_overflow(elements, shape[i].get<std::uint64_t>(), &elements) ||
        elements > (1ULL << 48)) {
      return malformed(header_at, quoted + " has an impossible shape");
    }
    view.shape[i] = shape[i].get<std::uint64_t>();
  }
  const auto& offsets = entry["data_offsets"];
  if (!offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    return malformed(header_at, quoted + " has data_offsets that are no positions");
  }
  const auto begin = offsets[0].get<std::uint64_t>();
  const auto end = offsets[1].get<std::uint64_t>();
  if (begin > end || end > data.size()) {
    return malformed(header_at, quoted + " lies at " + std::to_string(begin) + " to " +
                                    std::to_string(end) + " of " + std::to_string(data.size()) +
                                    " bytes");
  }
  view.bytes = end - begin;
  if (view.bytes != elements * info(view.type).block_bytes) {
    return malformed(header_at, quoted + " has " + std::to_string(view.bytes) +
                                    " bytes, its shape and dtype ask for " +
                                    std::to_string(elements * info(view.type).block_bytes));
  }
  view.data = data.data() + begin;
  return view;
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return fail(file.error());
  auto parsed = parse(file->bytes());
  if (!parsed) {
    Error error = parsed.error();
    error.message = path.string() + ": " + error.message;
    return fail(std::move(error));
  }
  parsed->file_ = std::move(*file);
  return parsed;
}

Result<SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> bytes) {
  std::uint64_t header_bytes = 0;
  constexpr std::uint64_t header_at = sizeof header_bytes;
  if (bytes.size() < header_at) return malformed(0, "the file is shorter than a header's length");
  std::memcpy(&header_bytes, bytes.data(), header_at);
  if (header_bytes > max_header_bytes || header_bytes > bytes.size() - header_at) {
    return malformed(0, "a header of " + std::to_string(header_bytes) +
                            " bytes does not fit; this is no safetensors file");
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data() + header_at);
  const auto data = bytes.subspan(header_at + header_bytes);
  bool too_deep = false;
  const Json header = Json::parse(
      text, text + header_bytes,
      [&](int depth, Json::parse_event_t, Json&) {
        too_deep |= depth > max_depth;
        return !too_deep;
      },
      /*allow_exceptions=*/false);
  if (too_deep) return malformed(header_at, "the header's JSON is nested too deep");
  if (!header.is_object()) return malformed(header_at, "the header is no JSON object");

  SafetensorsFile file;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    auto view = read_tensor(name, entry, data, header_at);
    if (!view) return fail(view.error());
    file.tensors_.push_back(std::move(*view));
  }
  // The format allows neither overlaps nor holes.
  std::sort(file.tensors_.begin(), file.tensors_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.data, a.bytes) < std::pair(b.data, b.bytes);
  });
  const std::byte* expected = data.data();
  for (std::size_t i = 0; i < file.tensors_.size(); ++i) {
    const TensorView& view = file.tensors_[i];
    if (view.data != expected) {
      return malformed(header_at, "tensor '" + view.name + "' overlaps another, or leaves a hole");
    }
    expected += view.bytes;
    file.by_name_.emplace(view.name, i);
  }
  if (expected != data.data() + data.size()) {
    return malformed(header_at + header_bytes, "the data goes on after the last tensor");
  }
  return file;
}

const TensorView* SafetensorsFile::find_tensor(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace plimsoll
