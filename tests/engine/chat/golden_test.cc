// Every template and expression of golden/ renders, or is refused, as Jinja2 does it. The files are
// made by tests/golden/make_chat_templates.py.
#include <ctime>
#include <fstream>
#include <sstream>

#include "tests/engine/chat/render.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

const std::string folder = std::string(PLIMSOLL_TEST_DATA) + "/engine/chat/";

std::string read(const std::string& name) {
  std::ifstream file(folder + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << "cannot read " << folder << name;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The time that the golden files were made with.
std::time_t golden_now() {
  std::tm local{};
  local.tm_year = 125;
  local.tm_mon = 2;
  local.tm_mday = 4;
  local.tm_hour = 9;
  local.tm_min = 26;
  local.tm_sec = 53;
  local.tm_isdst = -1;
  return std::mktime(&local);
}

void check(const std::string& source, const Json& context, const Json& expected) {
  const auto parsed = ChatTemplate::parse(source);
  const auto parts = parsed ? parsed->render(context, golden_now()) : fail(parsed.error());
  if (expected.is_null()) {
    ASSERT_FALSE(parts) << "should be refused, but gives: " << join(*parts);
    EXPECT_NE(parts.error().code, ErrorCode::internal);
    EXPECT_FALSE(parts.error().message.empty());
    return;
  }
  ASSERT_TRUE(parts) << to_string(parts.error());
  EXPECT_EQ(join(*parts), expected.get<std::string>());
  for (std::size_t i = 0; i < parts->size(); ++i) {
    EXPECT_FALSE((*parts)[i].text.empty());
    EXPECT_TRUE(i == 0 || (*parts)[i].from_template != (*parts)[i - 1].from_template);
  }
}

TEST(ChatTemplateGolden, Templates) {
  const Json golden = Json::parse(read("golden/templates.json"));
  std::size_t count = 0;
  for (const Json& test : golden["cases"]) {
    const auto name = test["template"].get<std::string>();
    SCOPED_TRACE(name + " with " + test["context"].get<std::string>() +
                 (test["prompt"].get<bool>() ? " and prompt" : ""));
    Json context = {
        {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"add_generation_prompt", test["prompt"]}};
    context.update(test.contains("extra") ? test["extra"]
                                          : golden["contexts"][test["context"].get<std::string>()]);
    check(read("templates/" + name + ".jinja"), context, test["output"]);
    ++count;
  }
  EXPECT_GE(count, 150u);
}

TEST(ChatTemplateGolden, Expressions) {
  const Json golden = Json::parse(read("golden/expressions.json"));
  std::size_t count = 0;
  for (const Json& test : golden["cases"]) {
    SCOPED_TRACE(test[0].get<std::string>());
    check(test[0].get<std::string>(), golden["values"], test[1]);
    ++count;
  }
  EXPECT_GE(count, 200u);
}

}  // namespace
}  // namespace plimsoll
