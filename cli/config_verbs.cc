// plimsoll config check|show, plimsoll key.
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>

#include "cli/config.h"
#include "cli/exit_codes.h"
#include "cli/serve.h"
#include "cli/verbs.h"

namespace plimsoll::cli {

namespace {

std::string hex(const unsigned char* bytes, std::size_t length) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

void make_key() {
  std::array<unsigned char, 24> random{};
  if (RAND_bytes(random.data(), random.size()) != 1) {
    throw std::runtime_error("the system gives no random numbers");
  }
  const std::string key = "pk-" + hex(random.data(), random.size());
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  EVP_Digest(key.data(), key.size(), digest.data(), &length, EVP_sha256(), nullptr);
  fmt::print("key:    {}\nsha256: {}\n", key, hex(digest.data(), length));
  fmt::print(stderr,
             "Give the key to the tenant, and put the sha256 under the tenant's api_key_sha256.\n");
}

}  // namespace

void add_config(CLI::App& app, Context& context) {
  auto* config = app.add_subcommand("config", "check or show the configuration");
  config->require_subcommand(1);

  auto* check = config->add_subcommand("check", "read a configuration file and say what is wrong");
  auto check_options = std::make_shared<ServeOptions>();
  add_serve_options(*check, *check_options);
  check->callback([check_options, &context] {
    if (auto made = make_config(*check_options); !made) {
      fmt::print(stderr, "plimsoll: {}\n", made.error().message);
      context.exit_code = exit_usage;
    } else {
      fmt::print("the configuration is good\n");
    }
  });

  auto* show = config->add_subcommand("show", "print every key, its value and its meaning");
  auto show_options = std::make_shared<ServeOptions>();
  auto effective = std::make_shared<bool>(false);
  add_serve_options(*show, *show_options);
  show->add_flag("--effective", *effective, "with the file, the flags and what follows from them");
  show->callback([show_options, effective, &context] {
    Config defaults;
    auto made = *effective ? make_config(*show_options) : Result<Config>(defaults);
    if (!made) {
      fmt::print(stderr, "plimsoll: {}\n", made.error().message);
      context.exit_code = exit_usage;
    } else {
      fmt::print("{}", show_config(*made));
    }
  });

  app.add_subcommand("key", "make an API key and the hash that the configuration keeps")
      ->callback(make_key);
}

}  // namespace plimsoll::cli
