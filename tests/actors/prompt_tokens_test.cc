#include "actors/prompt_tokens.h"

#include <gtest/gtest.h>

#include <future>

#include "tests/actors/testing.h"
#include "tests/storage/disk_cache_testing.h"

namespace plimsoll {
namespace {

using storage::test_deadline;
using storage::TokenTier;
using namespace std::chrono_literals;

class PromptTokensTest : public storage::DiskCacheTest {
 protected:
  PromptTokensTest()
      : shared_(std::move(storage::open_disk_cache(options_, ledger_).value())),
        tier_(shared_, std::make_shared<storage::TierBudget>(0, 1_MiB), ledger_) {}

  static std::unique_ptr<TextModel> make_model(const char* version,
                                               std::uint32_t context_tokens = 100'000) {
    return std::make_unique<TextModel>("m", testing::byte_model_text(), context_tokens,
                                       cluster::KvBytes{}, version);
  }
  static GenerateRequest prompt(std::string text) {
    GenerateRequest request;
    request.input = std::move(text);
    return request;
  }
  static GenerateRequest chat(std::string text) {
    GenerateRequest request;
    request.input = std::vector<ChatMessage>{{"user", std::move(text)}};
    return request;
  }
  // Whether the tokens, which are right, were there.
  bool known(const GenerateRequest& request, const char* tenant = "alice",
             const TextModel* model = nullptr) {
    if (model == nullptr) model = model_.get();
    const TenantId id(tenant);
    PromptTokens tokens(*model, &tier_, id, request);
    std::promise<void> woken;
    const auto asked = tokens.ask([&] { woken.set_value(); });
    EXPECT_TRUE(asked);
    if (*asked) woken.get_future().wait();
    const auto taken = tokens.take();
    EXPECT_TRUE(taken);
    EXPECT_TRUE(*taken == *model->encode(request));
    return *asked;
  }

  const std::string long_ = std::string(TokenTier::least_text_bytes, 'x');
  std::shared_ptr<storage::DiskCache> shared_;
  TokenTier tier_;
  const std::unique_ptr<TextModel> model_ = make_model("m@1");
};

TEST_F(PromptTokensTest, ALongTextIsTokenizedOnce) {
  EXPECT_FALSE(known(prompt(long_)));
  EXPECT_TRUE(known(prompt(long_)));
  EXPECT_FALSE(known(prompt(long_ + "y")));
  EXPECT_FALSE(known(prompt(long_), "bob")) << "another tenant";
  EXPECT_FALSE(known(prompt(long_), "alice", make_model("m@2").get())) << "another model";
  EXPECT_FALSE(known(chat(long_))) << "read otherwise";
  EXPECT_TRUE(known(chat(long_)));
}

TEST_F(PromptTokensTest, WhatShallNotBeStoredIsNot) {
  auto secret = prompt(long_);
  secret.no_store = true;
  EXPECT_FALSE(known(secret));
  EXPECT_FALSE(known(secret));
}

TEST_F(PromptTokensTest, AShortTextIsNotKept) {
  const auto text = long_.substr(1);
  EXPECT_FALSE(known(prompt(text)));
  EXPECT_FALSE(known(prompt(text)));
}

TEST_F(PromptTokensTest, WhatIsKnownIsCheckedToo) {
  EXPECT_FALSE(known(prompt(long_)));
  const auto request = prompt(long_);
  const TenantId alice("alice");
  const auto narrow = make_model("m@1", 16'000);
  PromptTokens tokens(*narrow, &tier_, alice, request);
  std::promise<void> woken;
  const auto asked = tokens.ask([&] { woken.set_value(); });
  ASSERT_TRUE(asked && *asked);
  woken.get_future().wait();
  const auto taken = tokens.take();
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().reason, "context_length_exceeded");
}

TEST_F(PromptTokensTest, WhatDoesNotComeIsMade) {
  EXPECT_FALSE(known(prompt(long_)));
  const auto request = prompt(long_);
  const TenantId alice("alice");
  PromptTokens tokens(*model_, &tier_, alice, request);
  EXPECT_TRUE(shared_->purge({alice, {}, 0ms}, test_deadline));
  const auto asked = tokens.ask([] {});
  ASSERT_TRUE(asked);
  EXPECT_FALSE(*asked);
  EXPECT_EQ(tokens.take()->size(), model_->encode(request)->size());
}

TEST_F(PromptTokensTest, WithoutACacheAllIsMade) {
  const auto request = prompt(long_);
  const TenantId alice("alice");
  PromptTokens tokens(*model_, nullptr, alice, request);
  const auto asked = tokens.ask([] { ADD_FAILURE(); });
  ASSERT_TRUE(asked);
  EXPECT_FALSE(*asked);
  EXPECT_EQ(tokens.take()->size(), model_->encode(request)->size());
}

}  // namespace
}  // namespace plimsoll
