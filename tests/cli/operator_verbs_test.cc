// The operator's verbs, run as from a command line, against a gateway with an Administration that
// has no cluster. What they print is compared with tests/cli/golden; PLIMSOLL_UPDATE_GOLDEN=1 in
// the environment writes those files anew.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "actors/gateway/rpc_gateway.h"
#include "cli/exit_codes.h"
#include "cli/top.h"
#include "cli/verbs.h"
#include "tests/actors/gateway/fake_administration.h"
#include "tests/actors/gateway/fake_frontend.h"

namespace plimsoll::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

struct Ran {
  int code = 0;
  std::string out;
  std::string err;
  std::string question;
};

class OperatorVerbsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    frontend_.administrator = &administration_;
    RpcConfig config;
    config.listen.port = 0;
    config.connections = 8;
    auto started = RpcGateway::start(config, frontend_, ledger_);
    ASSERT_TRUE(started) << started.error().message;
    gateway_ = std::move(*started);
  }

  // A person gives `answer`; without one, nobody is there.
  Ran run(const std::vector<std::string>& words, std::optional<std::string> answer = {}) {
    Ran ran;
    Ask ask;
    if (answer) {
      ask = [&](const std::string& question) {
        ran.question = question;
        return *answer;
      };
    }
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    ran.code = run_here(words, ask);
    std::fflush(stdout);
    ran.out = ::testing::internal::GetCapturedStdout();
    ran.err = ::testing::internal::GetCapturedStderr();
    return ran;
  }

  int run_here(std::vector<std::string> words, const Ask& ask = {}) {
    Context context;
    context.remote.options.addresses = {"127.0.0.1:" + std::to_string(gateway_->port())};
    context.remote.options.retry_ms = 0;
    context.ask = ask;
    CLI::App app{"", "plimsoll"};
    app.require_subcommand(1);
    add_inspect(app, context);
    add_memory(app, context);
    add_cache(app, context);
    add_events(app, context);
    add_top(app, context);
    add_cluster(app, context);
    add_tenant(app, context);
    add_chargeback(app, context);
    add_model(app, context);
    add_scorecard(app, context);
    add_completion(app, context);
    words.insert(words.begin(), "plimsoll");
    std::vector<const char*> argv;
    for (const auto& word : words) argv.push_back(word.c_str());
    return cli::run(app, context, static_cast<int>(argv.size()), argv.data());
  }

  Ledger ledger_;
  FakeAdministration administration_;
  FakeFrontend frontend_;
  std::unique_ptr<RpcGateway> gateway_;
};

// Standard input and output are a terminal of its own while it lives.
class Terminal {
 public:
  Terminal(unsigned short columns, unsigned short lines) {
    const winsize size{lines, columns, 0, 0};
    if (openpty(&ours_, &theirs_, nullptr, nullptr, &size) != 0) std::abort();
    for (int fd : {0, 1}) {
      saved_[fd] = dup(fd);
      dup2(theirs_, fd);
    }
  }
  ~Terminal() {
    for (int fd : {0, 1}) {
      dup2(saved_[fd], fd);
      close(saved_[fd]);
    }
    close(ours_);
    close(theirs_);
  }
  // What was shown, up to and with `text`.
  std::string read_until(const std::string& text) const {
    std::string shown;
    for (char c = 0; shown.find(text) == std::string::npos && read(ours_, &c, 1) == 1;) shown += c;
    return shown;
  }
  void type(const std::string& keys) const {
    [[maybe_unused]] const auto n = write(ours_, keys.data(), keys.size());
  }
  bool lines_are_cooked() const {
    termios mode{};
    tcgetattr(theirs_, &mode);
    return (mode.c_lflag & ICANON) != 0 && (mode.c_lflag & ECHO) != 0;
  }

 private:
  int ours_ = -1;
  int theirs_ = -1;
  int saved_[2] = {-1, -1};
};

std::string golden(const std::string& name, const std::string& actual) {
  const auto file = std::filesystem::path(PLIMSOLL_GOLDEN) / name;
  if (std::getenv("PLIMSOLL_UPDATE_GOLDEN") != nullptr) std::ofstream(file) << actual;
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(OperatorVerbsTest, PrintsTablesJsonAndYaml) {
  const std::pair<std::string, std::vector<std::string>> verbs[] = {
      {"cluster-status", {"cluster", "status"}},
      {"cluster-nodes", {"cluster", "nodes"}},
      {"cluster-rebalance", {"cluster", "rebalance", "--dry-run"}},
      {"cluster-drain", {"cluster", "drain", "node-a", "--deadline", "5s", "--yes"}},
      {"join-token-list", {"cluster", "join-token", "list"}},
      {"tenant-list", {"tenant", "list"}},
      {"tenant-show", {"tenant", "show", "acme"}},
      {"tenant-usage", {"tenant", "usage"}},
      {"tenant-set-quota",
       {"tenant", "set-quota", "acme", "--sequences", "8", "--kv-memory", "0", "--models", "all"}},
      {"model-list", {"model", "list"}},
      {"status", {"status"}},
      {"models", {"models"}},
      {"events", {"events"}},
      {"memory", {"memory"}},
      {"memory-endpoint", {"memory", "--by", "endpoint"}},
      {"memory-node", {"memory", "--by", "tenant", "--node", "node-a"}},
      {"top", {"top"}},
      {"cache-status", {"cache", "status"}},
  };
  for (const auto& [name, words] : verbs) {
    for (const std::string format : {"table", "json", "yaml"}) {
      auto all = words;
      all.insert(all.end(), {"-o", format});
      const auto ran = run(all);
      EXPECT_EQ(ran.code, exit_ok) << name << "\n" << ran.err;
      EXPECT_EQ(ran.out, golden(name + "." + format, ran.out)) << name << "." << format;
    }
  }
}

TEST_F(OperatorVerbsTest, EachVerbAsksTheClusterForOneThing) {
  const std::pair<std::vector<std::string>, std::string> verbs[] = {
      {{"cluster", "cordon", "n"}, "cordon n"},
      {{"cluster", "uncordon", "n"}, "uncordon n"},
      {{"cluster", "drain", "n", "-y"}, "drain n 60000"},
      {{"cluster", "remove", "n", "-y"}, "remove n"},
      {{"cluster", "remove", "n", "-y", "--force"}, "remove n force"},
      {{"cluster", "rebalance", "-y"}, "rebalance"},
      {{"cluster", "join-token", "create"}, "create_join_token 3600"},
      {{"cluster", "join-token", "create", "--ttl", "90s"}, "create_join_token 90"},
      {{"cluster", "join-token", "revoke", "plj-01", "-y"}, "revoke_join_token plj-01"},
      {{"tenant", "create", "t"}, "create_tenant t"},
      {{"tenant", "set-tier", "t", "guaranteed"}, "set_tier t"},
      {{"tenant", "set-cache", "t", "no-store"}, "set_no_store t"},
      {{"tenant", "set-cache", "t", "default"}, "set_no_store t off"},
      {{"tenant", "suspend", "t", "-y"}, "suspend t"},
      {{"tenant", "resume", "t"}, "resume t"},
      {{"tenant", "rotate-key", "t", "-y"}, "rotate_key t 3600"},
      {{"tenant", "rotate-key", "t", "-y", "--grace", "10m"}, "rotate_key t 600"},
      {{"model", "load", "m", "--source", "s", "--node", "a", "--node", "b"}, "load_model m s a b"},
      {{"model", "load", "--source", "s", "m"}, "load_model m s"},
      {{"model", "unload", "m", "-y"}, "unload_model m"},
      {{"model", "place", "--node", "a", "m"}, "place_model m a"},
      {{"cache", "status", "--node", "n"}, "look_at_caches at n"},
      {{"cache", "purge", "--tenant", "t", "--node", "n", "-y"}, "purge_caches t 0 at n"},
      {{"cache", "purge", "--all", "--kind", "tokens", "--older-than", "1h", "--node", "n", "-y"},
       "purge_caches all tokens 3600000 at n"},
      {{"cache", "set-quota", "--tenant", "t", "1GiB"}, "set_cache_quota t 1073741824"},
      {{"cache", "set-quota", "--tenant", "t", "default"}, "set_cache_quota t default"},
      {{"cache", "set-ttl", "--kind", "prefix", "--tenant", "t", "2h"},
       "set_cache_ttl t prefix 7200000"},
      {{"cache", "set-ttl", "--kind", "tokens", "--node", "n", "default"},
       "set_default_cache_ttl tokens default at n"},
      {{"events"}, "events after 0 limit 100"},
      {{"events", "--node", "a", "--tenant", "t", "--kind", "refuse", "--limit", "7"},
       "events after 0 limit 7 node a tenant t kind refuse"},
  };
  std::vector<std::string> expected;
  for (const auto& [words, call] : verbs) {
    const auto ran = run(words);
    EXPECT_EQ(ran.code, exit_ok) << call << "\n" << ran.err;
    EXPECT_FALSE(ran.out.empty()) << call;
    expected.push_back(call);
    EXPECT_EQ(administration_.asked(), expected);
  }
}

// What hurts, and a part of what the question must name.
const std::pair<std::vector<std::string>, std::string> harmful[] = {
    {{"cluster", "drain", "node-a", "--deadline", "10s"}, "Drain node-a: its 12 sequences"},
    {{"cluster", "remove", "node-b"}, "Remove node-b, which is lost"},
    {{"cluster", "rebalance"}, "acme    node-a  node-b          6"},
    {{"cluster", "join-token", "revoke", "plj-01"}, "token plj-01"},
    {{"tenant", "suspend", "acme"}, "It has 5 sequences"},
    {{"tenant", "rotate-key", "acme"}, "the 2 that it has end in 1h"},
    {{"model", "unload", "llama"}, "from node-a, node-b"},
    {{"cache", "purge", "--tenant", "acme", "--node", "node-a"},
     "Purge all kinds of entries of acme from the disks of node-a: 4000 entries, 768.0 MiB"},
};
const std::vector<std::string> changes = {
    "drain",   "remove",     "rebalance",    "revoke_join_token",
    "suspend", "rotate_key", "unload_model", "purge_caches"};
std::vector<std::string> changes_in(const std::vector<std::string>& asked) {
  std::vector<std::string> out;
  for (const auto& call : asked) {
    if (call == "rebalance dry") continue;
    const auto word = call.substr(0, call.find(' '));
    if (std::ranges::find(changes, word) != changes.end()) out.push_back(word);
  }
  return out;
}

TEST_F(OperatorVerbsTest, WhatHurtsIsRefusedWhereNobodyCanBeAsked) {
  for (const auto& [words, what] : harmful) {
    const auto ran = run(words);
    EXPECT_EQ(ran.code, exit_usage) << what;
    EXPECT_THAT(ran.err, HasSubstr("--yes"));
    EXPECT_THAT(ran.out, IsEmpty());
  }
  EXPECT_THAT(administration_.asked(), IsEmpty());
}

TEST_F(OperatorVerbsTest, WhatHurtsIsNamedAndDoneOnlyAfterYes) {
  for (const auto& [words, what] : harmful) {
    for (const std::string answer : {"", "n", "maybe"}) {
      const auto ran = run(words, answer);
      EXPECT_EQ(ran.code, exit_interrupted) << what;
      EXPECT_THAT(ran.question, HasSubstr(what));
    }
  }
  EXPECT_THAT(changes_in(administration_.asked()), IsEmpty());
  for (const auto& [words, what] : harmful) EXPECT_EQ(run(words, "y").code, exit_ok) << what;
  EXPECT_EQ(changes_in(administration_.asked()), changes);
}

TEST_F(OperatorVerbsTest, SecretsAreAloneOnStandardOutput) {
  const std::pair<std::vector<std::string>, std::string> verbs[] = {
      {{"tenant", "create", "t"}, "pl-first\n"},
      {{"tenant", "rotate-key", "t", "--yes"}, "pl-second\n"},
      {{"cluster", "join-token", "create"}, "plj-0123456789\n"},
  };
  for (const auto& [words, out] : verbs) {
    const auto ran = run(words);
    EXPECT_EQ(ran.out, out);
    EXPECT_FALSE(ran.err.empty()) << "the advice";
  }
  EXPECT_EQ(run({"tenant", "create", "t", "-o", "json"}).out,
            "{\n  \"name\": \"t\",\n  \"api_key\": \"pl-first\"\n}\n");
}

TEST_F(OperatorVerbsTest, EveryLimitHasAFlag) {
  const auto ran = run({"tenant",
                        "create",
                        "t",
                        "--tier",
                        "best-effort",
                        "--operator",
                        "--cache",
                        "no-store",
                        "--requests-per-second",
                        "2.5",
                        "--prompt-tokens-per-second",
                        "1000",
                        "--generated-tokens-per-second",
                        "200",
                        "--burst",
                        "1500ms",
                        "--sequences",
                        "7",
                        "--kv-memory",
                        "2GiB",
                        "--guaranteed-memory",
                        "64MiB",
                        "--burst-memory",
                        "1GiB",
                        "--cache-memory",
                        "512MiB",
                        "--prompt-tokens",
                        "4096",
                        "--generated-tokens",
                        "256",
                        "--request-tokens",
                        "5000",
                        "--deadline",
                        "30s",
                        "--models",
                        "a,b"});
  ASSERT_EQ(ran.code, exit_ok) << ran.err;
  cluster::Tenant expected;
  expected.name = "t";
  expected.tier = cluster::Tier::best_effort;
  expected.is_operator = true;
  expected.cache.no_store = true;
  expected.quota = {2.5,        1000,         200,  1.5, 7,    2ULL << 30, 64ULL << 20,
                    1ULL << 30, 512ULL << 20, 4096, 256, 5000, 30'000,     {"a", "b"}};
  EXPECT_THAT(administration_.created, ElementsAre(expected));
}

TEST_F(OperatorVerbsTest, SetQuotaChangesOnlyWhatIsGiven) {
  ASSERT_EQ(run({"tenant", "set-quota", "acme", "--sequences", "8"}).code, exit_ok);
  ASSERT_EQ(run({"tenant", "set-quota", "acme", "--deadline", "0", "--models", "all"}).code,
            exit_ok);
  auto first = FakeAdministration::acme().tenant.quota;
  auto second = first;
  first.sequences = 8;
  second.deadline_ms = 0;
  second.models.clear();
  EXPECT_THAT(administration_.quotas, ElementsAre(first, second));
}

TEST_F(OperatorVerbsTest, WrongUsageIsFoundBeforeAnythingIsAsked) {
  const std::vector<std::string> wrong[] = {
      {"cluster"},
      {"cluster", "drain"},
      {"cluster", "drain", "n", "--yes", "--deadline", "soon"},
      {"cluster", "join-token"},
      {"tenant", "create", "t", "--tier", "golden"},
      {"tenant", "create", "t", "--requests-per-second", "-1"},
      {"tenant", "create", "t", "--requests-per-second", "nan"},
      {"tenant", "create", "t", "--sequences", "0"},
      {"tenant", "create", "t", "--kv-memory", "2GB"},
      {"tenant", "create", "t", "--models", "a,,b"},
      {"tenant", "set-quota", "t"},
      {"tenant", "usage", "--csv", "-", "--watch"},
      {"model", "load", "m"},
      {"model", "place", "m"},
      {"tenant", "list", "-o", "xml"},
      {"tenant", "set-cache", "t", "sometimes"},
      {"cache", "purge", "--yes"},
      {"cache", "purge", "--yes", "--all", "--tenant", "t"},
      {"cache", "purge", "--yes", "--all", "--kind", "weights"},
      {"cache", "purge", "--yes", "--all", "--older-than", "old"},
      {"cache", "set-quota", "1GiB"},
      {"cache", "set-quota", "--tenant", "t", "much"},
      {"cache", "set-ttl", "1h"},
      {"cache", "set-ttl", "--kind", "prefix", "--tenant", "t", "--node", "n", "1h"},
  };
  for (const auto& words : wrong) {
    const auto ran = run(words);
    EXPECT_EQ(ran.code, exit_usage) << ::testing::PrintToString(words) << ran.err;
    EXPECT_FALSE(ran.err.empty()) << ::testing::PrintToString(words);
  }
  EXPECT_THAT(administration_.asked(), IsEmpty());
}

TEST_F(OperatorVerbsTest, ExitCodesTellRefusalsFromFailures) {
  administration_.fail_with(Error(ErrorCode::failed_precondition, "drain it first"));
  const auto refused = run({"cluster", "remove", "node-a", "--yes"});
  EXPECT_EQ(refused.code, exit_refused);
  EXPECT_THAT(refused.err, HasSubstr("drain it first"));
  administration_.fail_with(Error(ErrorCode::internal, "a bug"));
  EXPECT_EQ(run({"tenant", "list"}).code, exit_failure);
  administration_.fail_with(std::nullopt);
  EXPECT_EQ(run({"tenant", "list", "--api-key", "tenant"}).code, exit_refused);
  EXPECT_EQ(run({"tenant", "list", "--address", "127.0.0.1:1"}).code, exit_unavailable);
  EXPECT_EQ(run({"cluster", "drain", "no-such-node"}, "y").code, exit_refused);
}

TEST_F(OperatorVerbsTest, ANodeThatDidNotAnswerFailsAPurge) {
  const auto ran = run({"cache", "purge", "--tenant", "acme", "--yes"});
  EXPECT_EQ(ran.code, exit_failure);
  EXPECT_EQ(ran.out, "node-a: 12 entries removed\nnode-b: no answer\n");
  EXPECT_EQ(run({"cache", "set-ttl", "--kind", "prefix", "1h"}).code, exit_failure);
}

TEST_F(OperatorVerbsTest, FlagsWinOverTheEnvironment) {
  setenv("PLIMSOLL_ADDRESS", "127.0.0.1:1", 1);
  const auto address = "127.0.0.1:" + std::to_string(gateway_->port());
  const auto ran = run({"cluster", "status", "--address", address});
  unsetenv("PLIMSOLL_ADDRESS");
  EXPECT_EQ(ran.code, exit_ok) << ran.err;
}

TEST_F(OperatorVerbsTest, ChargebackPricesUsage) {
  const auto folder = std::filesystem::temp_directory_path() /
                      ("plimsoll-tariff-" + std::to_string(gateway_->port()));
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  };
  const auto tariff = write("tariff.yaml",
                            "currency: EUR\n"
                            "per_gib_hour: {kv: 0.02, cache: 0.01, weights: 0.004}\n"
                            "per_million_tokens: {prompt: 0.1, cached: 0.05, generated: 0.5}\n"
                            "tier_factor: {guaranteed: 2}\n");
  const std::string head = "tenant,tier,currency,kv,cache,weights,prompt,cached,generated,total\n";
  // acme is guaranteed; nobody's weights have no factor.
  const auto whole = run({"chargeback", "--tariff", tariff, "--csv"});
  EXPECT_EQ(whole.code, exit_ok) << whole.err;
  EXPECT_EQ(whole.out, head +
                           "(idle),,EUR,0.000000,0.000000,0.009313,0.000000,0.000000,0.000000,"
                           "0.009313\n"
                           "acme,guaranteed,EUR,0.015522,0.015522,0.012418,3999.999000,0.000500,"
                           "0.070000,4000.112962\n"
                           "ops,best-effort,EUR,0.000000,0.000000,0.000000,0.000000,0.000000,"
                           "0.000000,0.000000\n");
  // A period: from what was written down at its beginning.
  const auto before = write("before.json", run({"tenant", "usage", "-o", "json"}).out);
  const auto nothing = run({"chargeback", "--tariff", tariff, "--from", before, "-o", "json"});
  EXPECT_THAT(nothing.out, HasSubstr("\"total\": \"0.000000\""));
  EXPECT_THAT(nothing.out, Not(HasSubstr("0.012418")));
  EXPECT_THAT(run({"chargeback", "--tariff", tariff, "--to", before}).out,
              HasSubstr("4000.112962"));

  const auto refusal = [&](const std::string& text) {
    const auto ran = run({"chargeback", "--tariff", write("bad.yaml", text)});
    EXPECT_NE(ran.code, exit_ok) << text;
    return ran.err;
  };
  EXPECT_THAT(refusal("currency: EUR\nper_gib_hour:\n  kv: 0.1\n  disk: 1\n"),
              HasSubstr("bad.yaml:4: per_gib_hour.disk: is no key of a tariff"));
  EXPECT_THAT(refusal("currency: EUR\nper_gib_hour: {kv: -1}\n"), HasSubstr("bad.yaml:2: "));
  EXPECT_THAT(refusal("per_gib_hour: {kv: 1}\n"), HasSubstr("currency: is missing"));
  EXPECT_THAT(refusal("currency: [\n"), HasSubstr("bad.yaml:"));
  EXPECT_THAT(run({"chargeback", "--tariff", tariff, "--from", tariff}).err,
              HasSubstr("not what `plimsoll tenant usage -o json` writes"));
  std::filesystem::remove_all(folder);
}

TEST_F(OperatorVerbsTest, UsageAsCommaSeparatedValues) {
  const std::string head =
      "tenant,requests,prompt_tokens,cached_tokens,generated_tokens,kv_byte_seconds,"
      "cache_byte_seconds,weights_byte_seconds,rejections,rejections_by_reason\n";
  const std::string acme =
      "acme,1000,20000000000,5000,70000,1500000000000,3000000000000,"
      "6000000000000,17,tenant_rate=3;tenant_sequences=14\n";
  EXPECT_EQ(run({"tenant", "usage", "--csv", "-"}).out,
            head + "(idle),0,0,0,0,0,0,9000000000000,0,\n" + acme + "ops,0,0,0,0,0,0,0,0,\n");
  const auto file = std::filesystem::temp_directory_path() /
                    ("plimsoll-usage-" + std::to_string(gateway_->port()) + ".csv");
  EXPECT_EQ(run({"tenant", "usage", "acme", "--csv", file.string()}).code, exit_ok);
  std::ifstream in(file);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), head + acme);
  std::filesystem::remove(file);
  EXPECT_EQ(run({"tenant", "usage", "--csv", "/no/such/folder/x.csv"}).code, exit_failure);
  EXPECT_EQ(run({"tenant", "usage", "nobody"}).code, exit_refused);
}

TEST_F(OperatorVerbsTest, CompletionFollowsNestedVerbs) {
  const auto script = run({"completion", "bash"}).out;
  const auto complete = [&](const std::string& words) {
    const std::string command = script + "\nCOMP_WORDS=(" + words +
                                ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_plimsoll\n"
                                "echo \"${COMPREPLY[@]}\"\n";
    const auto file = std::filesystem::temp_directory_path() /
                      ("plimsoll-completion-" + std::to_string(gateway_->port()));
    std::ofstream(file) << command;
    std::string text;
    FILE* pipe = popen(("bash " + file.string()).c_str(), "r");
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
    pclose(pipe);
    std::filesystem::remove(file);
    return text;
  };
  EXPECT_EQ(complete("plimsoll cl"), "cluster\n");
  EXPECT_EQ(complete("plimsoll cluster join-token ''"), "create list revoke --help\n");
  EXPECT_EQ(complete("plimsoll cluster drain node-a --dead"), "--deadline\n");
  EXPECT_EQ(complete("plimsoll tenant list --output ''"), "table json yaml\n");
  EXPECT_EQ(complete("plimsoll tenant list -o y"), "yaml\n");
  EXPECT_EQ(complete("plimsoll tenant create acme --tier g"), "guaranteed\n");
  EXPECT_EQ(complete("plimsoll tenant set-tier acme b"), "best-effort\n");
  EXPECT_EQ(complete("plimsoll tenant usage --csv ''"), "\n") << "left to file names";
  const auto fish = run({"completion", "fish"}).out;
  EXPECT_THAT(fish, HasSubstr("-n '__fish_seen_subcommand_from cluster; and "
                              "__fish_seen_subcommand_from drain' -l deadline -r"));
  EXPECT_THAT(fish, HasSubstr("-l output -s o -x -a 'table json yaml'"));
}

TEST_F(OperatorVerbsTest, TopIsLiveUntilQAndLeavesTheTerminalAsItWas) {
  std::string shown;
  int code = -1;
  bool cooked = false;
  {
    const Terminal terminal(60, 9);
    std::jthread person([&] {
      shown = terminal.read_until("\033[J");
      terminal.read_until("\033[J");  // the second picture, a second later
      terminal.type("xq");
      terminal.read_until("\033[?1049l");
    });
    code = run_here({"top"});
    person.join();
    cooked = terminal.lines_are_cooked();
  }
  EXPECT_EQ(code, exit_ok);
  EXPECT_TRUE(cooked);
  EXPECT_THAT(shown, HasSubstr("\033[?1049h"));
  EXPECT_THAT(shown, HasSubstr("2 nodes (1 lost, 1 read\033[K")) << "the window has 60 columns";
  EXPECT_THAT(shown, HasSubstr("acme"));
  EXPECT_THAT(shown, Not(HasSubstr("suspended"))) << "the window has 9 lines";
}

TEST_F(OperatorVerbsTest, WatchShowsAgainUntilInterrupted) {
  std::string again;
  int code = -1;
  {
    const Terminal terminal(80, 24);
    std::jthread person([&] {
      terminal.read_until("---");
      again = terminal.read_until("---");
      std::raise(SIGINT);
    });
    code = run_here({"tenant", "usage", "--watch", "-o", "yaml"});
  }
  EXPECT_EQ(code, exit_ok);
  EXPECT_THAT(again, HasSubstr("tenant: acme"));
}

TEST(TopTest, CropsToTheWindowByCharacters) {
  EXPECT_EQ(crop("█░é123\nsecond\nthird\n", 4, 2), "█░é1\nseco");
  EXPECT_EQ(crop("a\nb\n", 10, 10), "a\nb\n");
}

}  // namespace
}  // namespace plimsoll::cli
