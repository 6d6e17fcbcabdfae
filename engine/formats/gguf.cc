#include "engine/formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace plimsoll {

namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");

constexpr std::uint32_t magic = 0x46554747;  // "GGUF"
constexpr std::uint64_t max_tensors = 65'536;
constexpr std::uint64_t max_metadata = 65'536;
constexpr std::uint64_t max_name_bytes = 1024;
constexpr std::uint64_t max_alignment = 1 << 20;

enum class ValueType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

// The smallest encoding of one value, to bound an array's count by what is left of the file.
std::uint64_t least_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean: return 1;
    case ValueType::u16:
    case ValueType::i16: return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32: return 4;
    default: return 8;
  }
}

bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t& product) {
  return !__builtin_mul_overflow(a, b, &product);
}

// Reads forward through the file. The first failure sticks; values read after it are zero.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool ok() const { return !error_; }
  Error take_error() { return std::move(*error_); }
  std::uint64_t offset() const { return offset_; }
  std::uint64_t left() const { return bytes_.size() - offset_; }

  void malformed(std::uint64_t at, std::string message) {
    if (!error_) error_ = Error(ErrorCode::malformed, std::move(message)).at(at);
  }
  void unsupported(std::uint64_t at, std::string message) {
    if (!error_) error_ = Error(ErrorCode::unsupported, std::move(message)).at(at);
  }

  template <class T>
  T value(const char* what) {
    T result{};
    if (!ok()) return result;
    if (left() < sizeof(T)) {
      malformed(offset_, std::string("the file ends inside ") + what);
      return result;
    }
    std::memcpy(&result, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return result;
  }

  std::string_view string(const char* what, std::uint64_t limit) {
    const std::uint64_t at = offset_;
    const auto length = value<std::uint64_t>(what);
    if (!ok()) return {};
    if (length > limit || length > left()) {
      malformed(at, std::string(what) + " has " + std::to_string(length) + " bytes; " +
                        std::to_string(std::min(limit, left())) + " are possible");
      return {};
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + offset_), length);
    offset_ += length;
    return text;
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t offset_ = 0;
  std::optional<Error> error_;
};

std::int64_t read_integer(Reader& in, ValueType type, const char* what) {
  switch (type) {
    case ValueType::u8: return in.value<std::uint8_t>(what);
    case ValueType::i8: return in.value<std::int8_t>(what);
    case ValueType::u16: return in.value<std::uint16_t>(what);
    case ValueType::i16: return in.value<std::int16_t>(what);
    case ValueType::u32: return in.value<std::uint32_t>(what);
    case ValueType::i32: return in.value<std::int32_t>(what);
    case ValueType::i64: return in.value<std::int64_t>(what);
    case ValueType::u64: {
      const std::uint64_t at = in.offset();
      const auto value = in.value<std::uint64_t>(what);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        in.malformed(at, std::string(what) + " is over 2^63");
        return 0;
      }
      return static_cast<std::int64_t>(value);
    }
    default: {  // boolean
      const std::uint64_t at = in.offset();
      const auto value = in.value<std::uint8_t>(what);
      if (value > 1) in.malformed(at, "a boolean is " + std::to_string(value));
      return value;
    }
  }
}

ValueType read_type(Reader& in) {
  const std::uint64_t at = in.offset();
  const auto type = in.value<std::uint32_t>("a value's type");
  if (type > static_cast<std::uint32_t>(ValueType::f64)) {
    in.malformed(at, "no metadata value type has the number " + std::to_string(type));
    return ValueType::u8;
  }
  return static_cast<ValueType>(type);
}

GgufArray read_array(Reader& in) {
  GgufArray array;
  const std::uint64_t type_at = in.offset();
  const ValueType type = read_type(in);
  const std::uint64_t count_at = in.offset();
  const auto count = in.value<std::uint64_t>("an array's length");
  if (!in.ok()) return array;
  if (type == ValueType::array) {
    in.unsupported(type_at, "an array of arrays");
    return array;
  }
  if (count > in.left() / least_bytes(type)) {
    in.malformed(count_at,
                 "an array of " + std::to_string(count) + " elements does not fit the file");
    return array;
  }
  if (type == ValueType::string) {
    auto& values = array.values.emplace<std::vector<std::string_view>>();
    values.reserve(count);
    for (std::uint64_t i = 0; i < count && in.ok(); ++i) {
      values.push_back(in.string("an array's string", in.left()));
    }
  } else if (type == ValueType::f32 || type == ValueType::f64) {
    auto& values = array.values.emplace<std::vector<double>>();
    values.reserve(count);
    for (std::uint64_t i = 0; i < count && in.ok(); ++i) {
      values.push_back(type == ValueType::f32 ? in.value<float>("an array")
                                              : in.value<double>("an array"));
    }
  } else {
    auto& values = array.values.emplace<std::vector<std::int64_t>>();
    values.reserve(count);
    for (std::uint64_t i = 0; i < count && in.ok(); ++i) {
      values.push_back(read_integer(in, type, "an array"));
    }
  }
  return array;
}

GgufValue read_value(Reader& in) {
  const ValueType type = read_type(in);
  if (!in.ok()) return false;
  switch (type) {
    case ValueType::string: return in.string("a metadata string", in.left());
    case ValueType::array: return read_array(in);
    case ValueType::f32: return static_cast<double>(in.value<float>("a number"));
    case ValueType::f64: return in.value<double>("a number");
    case ValueType::boolean: return read_integer(in, type, "a boolean") != 0;
    case ValueType::u64: return in.value<std::uint64_t>("a number");
    case ValueType::i8:
    case ValueType::i16:
    case ValueType::i32:
    case ValueType::i64: return read_integer(in, type, "a number");
    default: return static_cast<std::uint64_t>(read_integer(in, type, "a number"));
  }
}

// One entry of the tensor table. `data` holds the offset from the data section until the section's
// place is known.
struct TensorEntry {
  TensorView view;
  std::uint64_t offset = 0;
  std::uint64_t at = 0;
};

TensorEntry read_tensor(Reader& in) {
  TensorEntry entry;
  entry.at = in.offset();
  TensorView& view = entry.view;
  view.name = in.string("a tensor's name", max_name_bytes);
  const std::uint64_t rank_at = in.offset();
  const auto rank = in.value<std::uint32_t>("a tensor's rank");
  if (!in.ok()) return entry;
  const std::string quoted = "tensor '" + view.name + "'";
  if (rank == 0 || rank > 4) {
    in.malformed(rank_at,
                 quoted + " has " + std::to_string(rank) + " dimensions; 1 to 4 are possible");
    return entry;
  }
  view.rank = rank;
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < rank; ++i) {
    const std::uint64_t dim_at = in.offset();
    const auto dim = in.value<std::uint64_t>("a tensor's shape");
    if (!in.ok()) return entry;
    if (dim == 0 || !multiply(elements, dim, elements) || elements > (1ULL << 48)) {
      in.malformed(dim_at, quoted + " has an impossible dimension " + std::to_string(dim));
      return entry;
    }
    view.shape[rank - 1 - i] = dim;  // GGUF lists the contiguous dimension first
  }
  const std::uint64_t type_at = in.offset();
  const auto type = in.value<std::uint32_t>("a tensor's type");
  entry.offset = in.value<std::uint64_t>("a tensor's offset");
  if (!in.ok()) return entry;
  const auto type_info = tensor_type_info(type);
  if (!type_info) {
    in.unsupported(type_at, quoted + " has the type number " + std::to_string(type) +
                                ", which this build does not know");
    return entry;
  }
  if (view.cols() % type_info->block_elements != 0) {
    in.malformed(rank_at, quoted + " has " + std::to_string(view.cols()) +
                              " columns, no multiple of " + std::string(type_info->name) +
                              "'s block of " + std::to_string(type_info->block_elements));
    return entry;
  }
  view.type = static_cast<TensorType>(type);
  view.bytes = elements / type_info->block_elements * type_info->block_bytes;
  return entry;
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
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

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes) {
  Reader in(bytes);
  GgufFile gguf;
  if (in.value<std::uint32_t>("the magic number") != magic) {
    in.malformed(0, "this is no GGUF file: it does not begin with 'GGUF'");
  }
  gguf.version_ = in.value<std::uint32_t>("the version");
  if (in.ok() && (gguf.version_ < 2 || gguf.version_ > 3)) {
    const bool swapped = __builtin_bswap32(gguf.version_) <= 3;
    in.unsupported(4, swapped
                          ? "a big-endian file"
                          : "GGUF version " + std::to_string(gguf.version_) + "; 2 and 3 are read");
  }
  const auto tensor_count = in.value<std::uint64_t>("the tensor count");
  const auto metadata_count = in.value<std::uint64_t>("the metadata count");
  if (tensor_count > max_tensors) {
    in.malformed(8, std::to_string(tensor_count) + " tensors are over the limit of " +
                        std::to_string(max_tensors));
  }
  if (metadata_count > max_metadata) {
    in.malformed(16, std::to_string(metadata_count) + " metadata entries are over the limit of " +
                         std::to_string(max_metadata));
  }

  for (std::uint64_t i = 0; i < metadata_count && in.ok(); ++i) {
    const std::uint64_t at = in.offset();
    std::string key(in.string("a metadata key", max_name_bytes));
    GgufValue value = read_value(in);
    if (in.ok() && !gguf.metadata_.try_emplace(key, std::move(value)).second) {
      in.malformed(at, "metadata key '" + key + "' is there twice");
    }
  }
  const std::uint64_t alignment = gguf.uint("general.alignment").value_or(32);
  if (alignment == 0 || alignment > max_alignment || !std::has_single_bit(alignment)) {
    in.malformed(in.offset(), "general.alignment is " + std::to_string(alignment) +
                                  ", no power of two up to 2^20");
  }

  std::vector<TensorEntry> entries;
  for (std::uint64_t i = 0; i < tensor_count && in.ok(); ++i) {
    entries.push_back(read_tensor(in));
    if (in.ok() && !gguf.by_name_.try_emplace(entries.back().view.name, i).second) {
      in.malformed(entries.back().at, "tensor '" + entries.back().view.name + "' is there twice");
    }
  }
  if (!in.ok()) return fail(in.take_error());

  const std::uint64_t section = (in.offset() + alignment - 1) / alignment * alignment;
  const std::uint64_t section_bytes = bytes.size() > section ? bytes.size() - section : 0;
  for (auto& entry : entries) {
    const std::string quoted = "tensor '" + entry.view.name + "'";
    if (entry.offset % alignment != 0) {
      in.malformed(entry.at, quoted + " starts at " + std::to_string(entry.offset) +
                                 ", no multiple of the alignment " + std::to_string(alignment));
    } else if (entry.offset > section_bytes || entry.view.bytes > section_bytes - entry.offset) {
      in.malformed(entry.at, quoted + " needs bytes " + std::to_string(entry.offset) + " to " +
                                 std::to_string(entry.offset + entry.view.bytes) +
                                 " of the data, which has " + std::to_string(section_bytes));
    }
    if (!in.ok()) return fail(in.take_error());
    entry.view.data = bytes.data() + section + entry.offset;
  }
  std::vector<const TensorEntry*> by_offset;
  for (const auto& entry : entries) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i - 1]->offset + by_offset[i - 1]->view.bytes > by_offset[i]->offset) {
      in.malformed(by_offset[i]->at, "tensors '" + by_offset[i - 1]->view.name + "' and '" +
                                         by_offset[i]->view.name + "' overlap");
      return fail(in.take_error());
    }
  }
  for (auto& entry : entries) gguf.tensors_.push_back(std::move(entry.view));
  return gguf;
}

const TensorView* GgufFile::find_tensor(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

namespace {

template <class T>
const T* find_as(const std::map<std::string, GgufValue, std::less<>>& metadata,
                 std::string_view key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? nullptr : std::get_if<T>(&found->second);
}

template <class T>
std::span<const T> find_array(const std::map<std::string, GgufValue, std::less<>>& metadata,
                              std::string_view key) {
  const auto* array = find_as<GgufArray>(metadata, key);
  const auto* values = array == nullptr ? nullptr : std::get_if<std::vector<T>>(&array->values);
  return values == nullptr ? std::span<const T>() : std::span<const T>(*values);
}

}  // namespace

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const auto* value = find_as<std::string_view>(metadata_, key);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<std::uint64_t> GgufFile::uint(std::string_view key) const {
  if (const auto* value = find_as<std::uint64_t>(metadata_, key)) return *value;
  if (const auto* value = find_as<std::int64_t>(metadata_, key); value != nullptr && *value >= 0) {
    return static_cast<std::uint64_t>(*value);
  }
  return std::nullopt;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  if (const auto* value = find_as<double>(metadata_, key)) return *value;
  if (const auto* value = find_as<std::uint64_t>(metadata_, key))
    return static_cast<double>(*value);
  if (const auto* value = find_as<std::int64_t>(metadata_, key)) return static_cast<double>(*value);
  return std::nullopt;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const auto* value = find_as<bool>(metadata_, key);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::span<const std::string_view> GgufFile::strings(std::string_view key) const {
  return find_array<std::string_view>(metadata_, key);
}
std::span<const std::int64_t> GgufFile::ints(std::string_view key) const {
  return find_array<std::int64_t>(metadata_, key);
}
std::span<const double> GgufFile::numbers(std::string_view key) const {
  return find_array<double>(metadata_, key);
}

std::uint64_t GgufFile::heap_bytes() const {
  constexpr std::uint64_t node = 96;  // of a std::map, with a short key
  std::uint64_t total = (metadata_.size() + by_name_.size()) * node;
  for (const auto& [key, value] : metadata_) {
    total += key.capacity();
    if (const auto* array = std::get_if<GgufArray>(&value)) {
      total += std::visit([](const auto& values) { return values.capacity() * sizeof(values[0]); },
                          array->values);
    }
  }
  for (const auto& tensor : tensors_) total += sizeof tensor + 2 * tensor.name.capacity();
  return total;
}

}  // namespace plimsoll
