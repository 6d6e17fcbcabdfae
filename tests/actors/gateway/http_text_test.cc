#include "actors/gateway/http_text.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(HttpText, PathLosesQueryAndEscapes) {
  EXPECT_EQ(path_of_target("/v1/models?x=/y"), "/v1/models");
  EXPECT_EQ(path_of_target("/v1/models/org%2Fname%20x"), "/v1/models/org/name x");
  EXPECT_EQ(path_of_target("http://host:80/health"), "/health");
  EXPECT_EQ(path_of_target("HTTPS://host?x"), "/");
}

TEST(HttpText, BrokenEscapesStay) {
  EXPECT_EQ(path_of_target("/%"), "/%");
  EXPECT_EQ(path_of_target("/%4"), "/%4");
  EXPECT_EQ(path_of_target("/%-1"), "/%-1");
  EXPECT_EQ(path_of_target("/%zz%41"), "/%zzA");
}

TEST(HttpText, BearerToken) {
  EXPECT_EQ(bearer_token("Bearer abc"), "abc");
  EXPECT_EQ(bearer_token("bearer   abc "), "abc");
  EXPECT_EQ(bearer_token("Basic abc"), "");
  EXPECT_EQ(bearer_token("Bearer "), "");
  EXPECT_EQ(bearer_token("Bearer"), "");
  EXPECT_EQ(bearer_token(""), "");
}

TEST(HttpText, MediaType) {
  EXPECT_EQ(media_type("Application/JSON ; charset=utf-8"), "application/json");
  EXPECT_EQ(media_type(""), "");
}

TEST(HttpText, LogWordCannotForgeALine) {
  EXPECT_EQ(log_word("/a\nevent=x \"\xff"), "/a?event=x???");
  EXPECT_EQ(log_word(""), "-");
  EXPECT_LE(log_word(std::string(1000, 'a')).size(), 128U);
}

}  // namespace
}  // namespace plimsoll
