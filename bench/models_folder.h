// Where the models are that are measured: PLIMSOLL_MODELS, or where the product keeps them.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace plimsoll {

inline std::filesystem::path models_folder() {
  if (const char* folder = std::getenv("PLIMSOLL_MODELS")) return folder;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : ".") / ".cache/plimsoll/models";
}

}  // namespace plimsoll
