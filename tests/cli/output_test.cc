#include "cli/output.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

namespace plimsoll::cli {
namespace {

TEST(TableTest, AlignsColumnsByDisplayedWidth) {
  Table table({{"NAME"}, {"BYTES", true}});
  table.add({"é", "1"});
  table.add({"longer", "12345"});
  EXPECT_EQ(table.text(),
            "NAME    BYTES\n"
            "é           1\n"
            "longer  12345\n");
}

TEST(HumanTest, BytesAndDurations) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(98'566'144), "94.0 MiB");
  EXPECT_EQ(human_bytes(-2048), "-2.0 KiB");
  EXPECT_EQ(human_duration(59.9), "59s");
  EXPECT_EQ(human_duration(312), "5m 12s");
  EXPECT_EQ(human_duration(3 * 86400 + 4 * 3600), "3d 4h");
}

TEST(DocumentTest, YamlIsReadBackAsWhatItWas) {
  const nlohmann::ordered_json document = {{"plain", "node-a"},
                                           {"empty", ""},
                                           {"words", {"true", "No", "null", "on", "1.5", "0x10"}},
                                           {"colon", "a: b # c"},
                                           {"lines", "one\ntwo"},
                                           {"number", 20'000'000'000},
                                           {"rate", 0.25},
                                           {"flag", true},
                                           {"nothing", nullptr},
                                           {"list", nlohmann::ordered_json::array()},
                                           {"map", nlohmann::ordered_json::object()}};
  const auto text = to_text(document, OutputFormat::yaml);
  const auto yaml = YAML::Load(text);
  for (const auto* key : {"plain", "number", "rate", "flag"}) {
    EXPECT_EQ(yaml[key].Tag(), "?") << key << " needs no quotes";
  }
  for (const auto* key : {"empty", "colon", "lines"}) EXPECT_EQ(yaml[key].Tag(), "!") << key;
  for (const auto& word : yaml["words"]) EXPECT_EQ(word.Tag(), "!") << word;
  EXPECT_EQ(yaml["colon"].as<std::string>(), "a: b # c");
  EXPECT_EQ(yaml["lines"].as<std::string>(), "one\ntwo");
  EXPECT_EQ(yaml["number"].as<std::uint64_t>(), 20'000'000'000U);
  EXPECT_EQ(yaml["rate"].as<double>(), 0.25);
  EXPECT_TRUE(yaml["flag"].as<bool>());
  EXPECT_TRUE(yaml["nothing"].IsNull());
  EXPECT_TRUE(yaml["list"].IsSequence() && yaml["list"].size() == 0);
  EXPECT_TRUE(yaml["map"].IsMap() && yaml["map"].size() == 0);
  EXPECT_EQ(text.back(), '\n');
}

}  // namespace
}  // namespace plimsoll::cli
