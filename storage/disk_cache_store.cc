// The store of the cache on disk: found at the start, given up where it fails. Each store has a
// directory of its own, "store-N" with the file "format" in it; the newest is the one in use, and
// the others are on their way out.
#include <algorithm>
#include <fstream>
#include <utility>

#include "storage/disk_cache_impl.h"

namespace plimsoll::storage {
namespace {

constexpr std::string_view format_text = "plimsoll cache 1\n";
constexpr std::string_view store_prefix = "store-";
constexpr std::string_view unfinished_store = "new";

// The number in a store's directory name; 0: it is none.
std::uint64_t number_of_store(const std::filesystem::path& path) {
  const auto name = path.filename().string();
  if (!name.starts_with(store_prefix)) return 0;
  std::uint64_t number = 0;
  for (const char c : std::string_view(name).substr(store_prefix.size())) {
    if (c < '0' || c > '9' || number > 1'000'000'000) return 0;
    number = 10 * number + static_cast<std::uint64_t>(c - '0');
  }
  return number;
}

std::string version_of(const std::filesystem::path& store) {
  std::ifstream file(store / "format", std::ios::binary);
  std::string text(64, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return text;
}

}  // namespace

void DiskCacheImpl::open_store(Lock& lock) {
  lock.unlock();
  std::error_code ignored;
  std::uint64_t newest = store_number_;
  std::vector<std::string> troubles;
  std::shared_ptr<SegmentStore> store;
  for (const auto& entry : std::filesystem::directory_iterator(options_.directory, ignored)) {
    newest = std::max(newest, number_of_store(entry.path()));
  }
  // A store that was given up by this process is not tried again: it is below store_number_.
  if (newest > store_number_) {
    const auto directory =
        options_.directory / (std::string(store_prefix) + std::to_string(newest));
    if (const auto version = version_of(directory); version != format_text) {
      troubles.push_back("the store is of another version ('" +
                         version.substr(0, version.find('\n')) + "')");
    } else {
      std::filesystem::remove(directory / "incoming", ignored);  // that was never taken in
      auto opened = SegmentStore::open(directory, options_.table_bytes, options_.env);
      if (opened) {
        store = std::move(*opened);
      } else {
        troubles.push_back("the store is damaged: " + opened.error().message);
      }
    }
    if (store == nullptr) troubles.back() += "; it is deleted, and a fresh one is begun";
  }
  if (store == nullptr) {
    ++newest;
    const auto directory =
        options_.directory / (std::string(store_prefix) + std::to_string(newest));
    // By its name it has a format, whenever this process ends.
    const auto unfinished = options_.directory / unfinished_store;
    std::filesystem::remove_all(unfinished, ignored);
    std::filesystem::create_directory(unfinished, ignored);
    std::ofstream(unfinished / "format", std::ios::binary) << format_text;
    std::filesystem::rename(unfinished, directory, ignored);
    auto opened = version_of(directory) == format_text
                      ? SegmentStore::open(directory, options_.table_bytes, options_.env)
                      : fail(ErrorCode::internal, "nothing can be written");
    if (opened) {
      store = std::move(*opened);
    } else {
      troubles.push_back("no store can be made: " + opened.error().message);
    }
  }
  for (const auto& trouble : troubles) tell(trouble);
  lock.lock();
  store_number_ = newest;
  if (store != nullptr) {
    load(lock, *store);
    store_ = std::move(store);
    trouble_.clear();
  } else {
    failed(troubles.back());
  }
  sweep_at_ = {};
  charge();
}

// What the store holds, by its own files.
void DiskCacheImpl::load(Lock& lock, SegmentStore& store) {
  lock.unlock();
  std::vector<Segment> segments;
  std::vector<std::uint64_t> broken;
  for (const auto& listed : store.list()) {
    auto text = store.read(listed.id, nullptr);
    auto segment = text ? decode_segment(*text) : tl::unexpected(text.error());
    if (segment) {
      segment->id = listed.id;
      segment->file_bytes = listed.file_bytes;
      segments.push_back(std::move(*segment));
    } else {
      tell("a segment is damaged and dropped: " + segment.error().message);
      broken.push_back(listed.id);
    }
  }
  lock.lock();
  for (auto& segment : segments) {
    next_segment_ = std::max(next_segment_, segment.id + 1);
    if (segment.key_id != key_id_of(segment.owner.tenant)) broken.push_back(segment.id);
    index_.add(std::move(segment));
  }
  for (const auto id : broken) {
    next_segment_ = std::max(next_segment_, id + 1);
    if (const auto gone = index_.remove(id)) {
      counts(gone->owner.tenant, gone->owner.kind).purged_total += gone->entries.size();
    }
    damaged_.push_back(id);
  }
}

// The store cannot be changed any more. All that it held is lost, and its files go.
void DiskCacheImpl::replace_store(Lock& lock, const std::string& why) {
  for (const auto& [id, segment] : index_.segments()) {
    counts(segment->owner.tenant, segment->owner.kind).damaged_total += segment->entries.size();
  }
  index_ = SegmentIndex();
  damaged_.clear();
  store_ = nullptr;
  lock.unlock();
  tell("the store failed, and a fresh one is begun: " + why);
  lock.lock();
  delete_asides(lock);
  open_store(lock);
  delete_asides(lock);
}

// Stores that were given up.
void DiskCacheImpl::delete_asides(Lock& lock) {
  const auto current = store_ != nullptr ? store_number_ : 0;
  lock.unlock();
  std::error_code ignored;
  std::vector<std::filesystem::path> asides;
  for (const auto& entry : std::filesystem::directory_iterator(options_.directory, ignored)) {
    const auto number = number_of_store(entry.path());
    if (number != 0 && number != current) asides.push_back(entry.path());
  }
  for (const auto& aside : asides) std::filesystem::remove_all(aside, ignored);
  lock.lock();
}

}  // namespace plimsoll::storage
