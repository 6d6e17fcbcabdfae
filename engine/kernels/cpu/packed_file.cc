#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/kernels/cpu/packed.h"

namespace plimsoll {
namespace {

// One more whenever the bytes that pack_panel makes change.
constexpr std::uint32_t layout_version = 4;
constexpr std::size_t alignment = 64;

std::uint64_t align(std::uint64_t n) { return (n + alignment - 1) / alignment * alignment; }

// What the whole file will be, up to the first panel.
struct Plan {
  struct Entry {
    const TensorView* source;
    PackedMatrix matrix;  // its data is not set
    std::uint64_t offset;
  };
  std::vector<Entry> entries;
  std::vector<std::byte> head;  // header and table
  std::uint64_t file_bytes = 0;
  std::string name;
};

// The address space of a hashed or packed part goes back to the kernel; the page cache keeps it.
void drop_pages(const std::byte* begin, const std::byte* end) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
  const auto last = reinterpret_cast<std::uintptr_t>(end) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

XXH128_canonical_t content_hash(std::span<const std::byte> bytes) {
  constexpr std::size_t step = 8 << 20;
  const auto free_state = [](XXH3_state_t* s) { XXH3_freeState(s); };
  const std::unique_ptr<XXH3_state_t, decltype(free_state)> state(XXH3_createState(), free_state);
  if (state == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    const auto part = bytes.subspan(at, std::min(step, bytes.size() - at));
    XXH3_128bits_update(state.get(), part.data(), part.size());
    drop_pages(part.data(), part.data() + part.size());
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state.get()));
  return canonical;
}

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  void bytes(const void* p, std::size_t n) {
    const auto* const first = static_cast<const std::byte*>(p);
    out_.insert(out_.end(), first, first + n);
  }
  void u32(std::uint32_t v) { bytes(&v, sizeof(v)); }
  void u64(std::uint64_t v) { bytes(&v, sizeof(v)); }

 private:
  std::vector<std::byte>& out_;
};

constexpr std::string_view magic = "PLIMPACK";

// Everything that does not depend on the model file's content.
Plan lay_out(std::span<const TensorView> matrices, PackedForm floats) {
  Plan plan;
  std::uint64_t table_bytes = 0;
  for (const TensorView& source : matrices) {
    const PackedForm form = packed_form(source, floats);
    if (form == PackedForm::none) continue;
    plan.entries.push_back({&source,
                            {form, static_cast<std::uint32_t>(source.rows()),
                             static_cast<std::uint32_t>(source.cols()), nullptr},
                            0});
    table_bytes += 4 + source.name.size() + 3 * 4 + 8;
  }
  constexpr std::size_t header_bytes = magic.size() + 2 * 4 + sizeof(XXH128_canonical_t) + 8;
  std::uint64_t offset = align(header_bytes + table_bytes);
  for (Plan::Entry& entry : plan.entries) {
    entry.offset = offset;
    offset = align(offset + entry.matrix.bytes());
  }
  plan.file_bytes = offset;
  return plan;
}

Plan plan_for(const MappedFile& model, std::span<const TensorView> matrices, PackedForm floats) {
  Plan plan = lay_out(matrices, floats);
  const XXH128_canonical_t hash = content_hash(model.bytes());
  Writer out(plan.head);
  out.bytes(magic.data(), magic.size());
  out.u32(layout_version);
  out.u32(static_cast<std::uint32_t>(plan.entries.size()));
  out.bytes(&hash, sizeof(hash));
  out.u64(plan.file_bytes);
  for (const Plan::Entry& entry : plan.entries) {
    out.u32(static_cast<std::uint32_t>(entry.source->name.size()));
    out.bytes(entry.source->name.data(), entry.source->name.size());
    out.u32(static_cast<std::uint32_t>(entry.matrix.form));
    out.u32(entry.matrix.rows);
    out.u32(entry.matrix.cols);
    out.u64(entry.offset);
  }
  plan.head.resize(align(plan.head.size()));

  std::string hex;
  for (const unsigned char byte : hash.digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  plan.name = model.path().stem().string() + "-" + hex + "-" + std::to_string(layout_version) +
              (floats == PackedForm::bf16 ? "-bf16" : "") + ".packed";
  return plan;
}

bool matches(const MappedFile& file, const Plan& plan) {
  return file.size() == plan.file_bytes &&
         std::memcmp(file.bytes().data(), plan.head.data(), plan.head.size()) == 0;
}

tl::unexpected<Error> io_error(int error, const std::string& what,
                               const std::filesystem::path& path) {
  ErrorCode code = ErrorCode::unavailable;
  if (error == EACCES || error == EPERM || error == EROFS) code = ErrorCode::permission_denied;
  if (error == ENOSPC || error == EDQUOT) code = ErrorCode::resource_exhausted;
  return fail(code, "cannot " + what + " '" + path.string() +
                        "': " + std::system_category().message(error) +
                        "; the cache of packed weights can be put elsewhere");
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// The temporary file, locked: by one process at a time, and let go of by a crash.
Result<Descriptor> lock_temporary(const std::filesystem::path& path) {
  for (;;) {
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (file.get() < 0) return io_error(errno, "create", path);
    while (::flock(file.get(), LOCK_EX) != 0) {
      if (errno != EINTR) return io_error(errno, "lock", path);
    }
    // Who held the lock before may have renamed the file away: then this is not the temporary one.
    struct stat mine, named;
    if (::fstat(file.get(), &mine) != 0) return io_error(errno, "inspect", path);
    if (::stat(path.c_str(), &named) == 0 && named.st_ino == mine.st_ino &&
        named.st_dev == mine.st_dev) {
      return file;
    }
  }
}

Result<void> write_at(int fd, const std::byte* data, std::size_t n, std::uint64_t offset,
                      const std::filesystem::path& path) {
  while (n > 0) {
    const ssize_t written = ::pwrite(fd, data, n, static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      return io_error(errno, "write", path);
    }
    data += written;
    n -= static_cast<std::size_t>(written);
    offset += static_cast<std::uint64_t>(written);
  }
  return {};
}

Result<void> write_file(const Plan& plan, int fd, const std::filesystem::path& path,
                        const Progress& progress) {
  // Room for all of it first: a disk that is too small is found in the first second.
  if (::ftruncate(fd, 0) != 0) return io_error(errno, "empty", path);
  if (const int error = ::posix_fallocate(fd, 0, static_cast<off_t>(plan.file_bytes)); error != 0) {
    struct statvfs disk;
    std::string room;
    if (::fstatvfs(fd, &disk) == 0) {
      room = ", of which " + std::to_string(std::uint64_t{disk.f_bavail} * disk.f_frsize) +
             " are free";
    }
    return io_error(error, "reserve " + std::to_string(plan.file_bytes) + " bytes" + room + ", for",
                    path);
  }
  if (auto done = write_at(fd, plan.head.data(), plan.head.size(), 0, path); !done) return done;
  constexpr std::size_t buffer_bytes = 4 << 20;
  std::vector<std::byte> buffer;
  for (const Plan::Entry& entry : plan.entries) {
    const std::size_t panel_bytes = entry.matrix.panel_bytes();
    const std::size_t together = std::max<std::size_t>(1, buffer_bytes / panel_bytes);
    const std::size_t source_bytes = PackedMatrix::panel_rows * entry.source->row_bytes();
    for (std::size_t first = 0; first < entry.matrix.panels(); first += together) {
      const std::size_t last = std::min(first + together, entry.matrix.panels());
      buffer.resize(std::max(buffer.size(), (last - first) * panel_bytes));
      for (std::size_t p = first; p < last; ++p) {
        pack_panel(*entry.source, entry.matrix.form, p, buffer.data() + (p - first) * panel_bytes);
      }
      const std::byte* const begin = entry.source->data + first * source_bytes;
      drop_pages(begin, std::min(begin + (last - first) * source_bytes,
                                 entry.source->data + entry.source->bytes));
      const std::uint64_t offset = entry.offset + first * panel_bytes;
      const std::size_t n = (last - first) * panel_bytes;
      if (auto done = write_at(fd, buffer.data(), n, offset, path); !done) return done;
      if (progress) progress(offset + n, plan.file_bytes);
    }
  }
  if (::fsync(fd) != 0) return io_error(errno, "sync", path);
  return {};
}

// Makes `path` unless another process has done so by the time the lock is held.
Result<void> make_file(const Plan& plan, const std::filesystem::path& path,
                       const Progress& progress) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  if (error) return io_error(error.value(), "create", path.parent_path());
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  auto file = lock_temporary(temporary);
  if (!file) return tl::unexpected(file.error());
  if (const auto other = MappedFile::open(path); other && matches(*other, plan)) {
    ::unlink(temporary.c_str());
    return {};
  }
  if (auto written = write_file(plan, file->get(), temporary, progress); !written) {
    ::unlink(temporary.c_str());
    return written;
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) return io_error(errno, "rename", temporary);
  const Descriptor folder(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || ::fsync(folder.get()) != 0) {
    return io_error(errno, "sync", path.parent_path());
  }
  return {};
}

}  // namespace

std::uint64_t PackedFile::required_bytes(std::span<const TensorView> matrices, PackedForm floats) {
  return lay_out(matrices, floats).file_bytes;
}

Result<PackedFile> PackedFile::open_or_make(const MappedFile& model,
                                            std::span<const TensorView> matrices, PackedForm floats,
                                            const std::filesystem::path& directory,
                                            const Progress& progress) {
  const Plan plan = plan_for(model, matrices, floats);
  const std::filesystem::path path = (directory.empty() ? "." : directory) / plan.name;
  auto file = MappedFile::open(path);
  if (!file || !matches(*file, plan)) {
    if (auto made = make_file(plan, path, progress); !made) return tl::unexpected(made.error());
    file = MappedFile::open(path);
    if (!file) return tl::unexpected(file.error());
    if (!matches(*file, plan)) {
      return fail(ErrorCode::unavailable,
                  "'" + path.string() + "' changed while it was made; try again");
    }
  }
  PackedFile packed;
  packed.file_ = std::move(*file);
  for (const Plan::Entry& entry : plan.entries) {
    PackedMatrix matrix = entry.matrix;
    matrix.data = packed.file_.bytes().data() + entry.offset;
    packed.matrices_[entry.source->name] = matrix;
  }
  return packed;
}

PackedMatrix PackedFile::find(const std::string& tensor_name) const {
  const auto found = matrices_.find(tensor_name);
  return found == matrices_.end() ? PackedMatrix{} : found->second;
}

}  // namespace plimsoll
