#include "cli/catalogue.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace plimsoll::cli {
namespace {

TEST(CatalogueTest, EveryEntryIsComplete) {
  bool has_default = false;
  for (const auto& model : catalogue()) {
    has_default |= model.is_default;
    EXPECT_FALSE(model.packages.empty()) << model.name;
    EXPECT_FALSE(model.licence.empty()) << model.name;
    for (const auto& package : model.packages) {
      EXPECT_NE(package.find("=="), std::string::npos) << package << " is not pinned";
    }
    for (const auto& file : model.files) {
      EXPECT_EQ(file.sha256.size(), 64U) << file.name;
      EXPECT_GT(file.bytes, 0U) << file.name;
      EXPECT_FALSE(file.from.empty()) << file.name;
    }
  }
  EXPECT_TRUE(has_default);
}

TEST(CatalogueTest, AModelIsPresentOnlyWithAllItsBytes) {
  namespace fs = std::filesystem;
  std::string pattern = (fs::temp_directory_path() / "plimsoll-models-XXXXXX").string();
  const fs::path folder = mkdtemp(pattern.data());
  const char* before = std::getenv("PLIMSOLL_MODELS");
  const std::string saved = before != nullptr ? before : "";
  setenv("PLIMSOLL_MODELS", folder.c_str(), 1);

  const auto* model = find_in_catalogue("smollm2-135m-instruct");
  ASSERT_NE(model, nullptr);
  EXPECT_FALSE(is_present(*model));
  fs::create_directories(model_path(*model).parent_path());
  std::ofstream(model_path(*model)) << "half a download";
  EXPECT_FALSE(is_present(*model));
  fs::resize_file(model_path(*model), model->files[0].bytes);
  EXPECT_TRUE(is_present(*model));

  fs::remove_all(folder);
  if (before != nullptr) {
    setenv("PLIMSOLL_MODELS", saved.c_str(), 1);
  } else {
    unsetenv("PLIMSOLL_MODELS");
  }
}

TEST(CatalogueTest, UnknownModel) { EXPECT_EQ(find_in_catalogue("no-such-model"), nullptr); }

}  // namespace
}  // namespace plimsoll::cli
