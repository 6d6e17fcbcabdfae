// A router or a node whose model only pretends to compute: real processes, engines, gateways and
// networks, whose steps take the time that is asked for and little of the processor's.
//
// Its answers depend on every token before them, as a real model's do: a token that was lost,
// doubled or changed on the way to another node changes all that follow.
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>

#include "actors/gateway/http_gateway.h"
#include "actors/gateway/rpc_gateway.h"
#include "actors/server.h"
#include "bench/pretend/byte_tokenizer.h"
#include "tests/engine/loop/fake_model.h"

namespace plimsoll {
namespace {

constexpr std::uint32_t context_tokens = 4096;

// The tests' model, held to lower-case letters: a token is a character of the answer.
class LettersModel final : public CausalModel {
 public:
  LettersModel(const StepLimits& limits, std::chrono::microseconds step)
      : model_({.vocab = vocab, .limits = limits, .step_time = step, .on_forward = {}}) {}
  const ModelInfo& info() const override { return model_.info(); }
  void forward(std::span<const SequenceChunk> chunks, BlockPool& kv, float* logits) override {
    model_.forward(chunks, kv, logits);
    std::size_t rows = 0;
    for (const auto& chunk : chunks) rows += chunk.logit_rows;
    for (float* row = logits; row < logits + rows * vocab; row += vocab) {
      std::fill(row, row + 'a', never);
      std::fill(row + 'z' + 1, row + vocab, never);
    }
  }

 private:
  static constexpr std::uint32_t vocab = 260;
  static constexpr float never = -std::numeric_limits<float>::infinity();
  plimsoll::testing::FakeModel model_;
};

ModelSource pretended(std::chrono::microseconds step) {
  ModelSource source;
  source.probe = [](const ModelConfig&) -> Result<ModelInfo> {
    ModelInfo info;
    info.architecture = "pretended";
    info.context_tokens = context_tokens;
    return info;
  };
  source.content_hash = [](const ModelConfig&) { return std::string("0123456789ab"); };
  source.text = [](const ModelConfig&) -> Result<ModelText> { return pretend::byte_model_text(); };
  source.causal = [step](const ModelConfig&,
                         const LoadOptions& options) -> Result<std::unique_ptr<CausalModel>> {
    return std::make_unique<LettersModel>(options.limits, step);
  };
  return source;
}

int run(const ServerConfig& config, std::chrono::milliseconds step) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  auto logger = spdlog::stderr_logger_mt("pretend");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));

  const auto refuse = [](const Error& error) {
    std::fprintf(stderr, "%s\n", to_string(error).c_str());
    return 1;
  };
  auto server = Server::start(config, {}, pretended(step));
  if (!server) return refuse(server.error());
  auto http = HttpGateway::start(config.http, (*server)->frontend(), process_ledger());
  if (!http) return refuse(http.error());
  auto rpc = RpcGateway::start(config.rpc, (*server)->frontend(), process_ledger());
  if (!rpc) return refuse(rpc.error());
  spdlog::info("event=listening http={} rpc={} nodes={}", (*http)->port(), (*rpc)->port(),
               (*server)->cluster_port());
  int signal = 0;
  sigwait(&signals, &signal);
  (*server)->drain();
  (*http)->stop(config.drain_deadline);
  (*rpc)->stop(config.drain_deadline);
  (*server)->stop(config.drain_deadline);
  return 0;
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  plimsoll::ServerConfig config;
  config.http.listen.port = config.rpc.listen.port = 0;
  config.models = {{"m", "m", {}}};
  config.engine.threads = 1;
  config.engine.kv_bytes = 64 << 20;
  auto& cluster = config.cluster;
  std::string role;
  std::uint32_t step_ms = 1, heartbeat_ms = 200, node_timeout_ms = 1000, drain_ms = 10'000;
  CLI::App app;
  app.add_option("role", role)->required()->check(CLI::IsMember({"router", "node"}));
  app.add_option("--step-ms", step_ms);
  app.add_option("--name", cluster.name);
  app.add_option("--listen", cluster.listen_host);
  app.add_option("--join", cluster.join);
  app.add_option("--join-token", cluster.join_token);
  app.add_option("--ca-file", cluster.ca_file);
  app.add_option("--certificate", cluster.certificate);
  app.add_option("--key", cluster.key);
  app.add_option("--state-directory", cluster.state_directory);
  app.add_option("--heartbeat-ms", heartbeat_ms);
  app.add_option("--node-timeout-ms", node_timeout_ms);
  app.add_option("--drain-ms", drain_ms);
  CLI11_PARSE(app, argc, argv);
  config.role = role == "router" ? plimsoll::Role::router : plimsoll::Role::node;
  cluster.heartbeat = std::chrono::milliseconds(heartbeat_ms);
  cluster.node_timeout = std::chrono::milliseconds(node_timeout_ms);
  config.drain_deadline = std::chrono::milliseconds(drain_ms);
  return plimsoll::run(config, std::chrono::milliseconds(step_ms));
}
