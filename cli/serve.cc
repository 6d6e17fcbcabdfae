// plimsoll serve: the whole cluster in one process.
#include "cli/serve.h"

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <optional>

#include "actors/gateway/http_gateway.h"
#include "actors/gateway/listen_address.h"
#include "actors/gateway/rpc_gateway.h"
#include "actors/server.h"
#include "cli/exit_codes.h"
#include "cli/verbs.h"
#include "engine/base/thread_slice.h"

namespace plimsoll::cli {

namespace {

void start_logging(const std::string& level) {
  auto logger = spdlog::stderr_logger_mt("plimsoll");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z level=%l %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
  spdlog::flush_every(std::chrono::seconds(1));
}

std::string address(const ListenConfig& listen, std::uint16_t port) {
  return to_string(Address{listen.host, port});
}

void print_welcome(const Config& config, const Frontend& frontend, std::uint16_t http_port,
                   std::uint16_t rpc_port, std::uint16_t cluster_port) {
  const auto& http = config.server.http.listen;
  const std::string url = fmt::format("{}://{}", http.tls_certificate.empty() ? "http" : "https",
                                      address(http, http_port));
  const std::string rpc = address(config.server.rpc.listen, rpc_port);
  std::string chat;
  fmt::print("\nPlimsoll {} is ready.\n\n", PLIMSOLL_VERSION);
  for (const auto& model : frontend.models()) {
    fmt::print("  model   {:<24} {} {}, {} tokens of context\n", model.name,
               model.info.architecture, model.info.quantization, model.context_tokens);
    if (model.info.kind == ModelKind::causal && chat.empty()) chat = model.name;
  }
  if (config.server.role == Role::node) {
    fmt::print("  joins   {}\n  status  {}\n  RPC     {}\n\nCtrl-C ends it.\n",
               fmt::join(config.server.cluster.join, ", "), url, rpc);
    std::fflush(stdout);
    return;
  }
  if (cluster_port != 0) {
    ListenConfig nodes = config.cluster_listen;
    fmt::print("  nodes   {}\n", address(nodes, cluster_port));
  }
  fmt::print("  OpenAI  {}/v1\n  RPC     {}\n\nTry it, in another terminal:\n\n", url, rpc);
  const bool default_rpc = rpc == client::Options{}.addresses.front();
  const std::string at = default_rpc ? "" : " --address " + rpc;
  fmt::print("  plimsoll chat{0}\n  plimsoll memory{0}\n", at);
  if (!chat.empty()) {
    fmt::print(
        "  curl {}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        "    -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": "
        "\"Hello!\"}}]}}'\n",
        url, chat);
  }
  fmt::print("\nCtrl-C ends it.\n");
  std::fflush(stdout);
}

// Blocks until SIGINT or SIGTERM, which must be blocked in every thread.
int wait_for_signal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  int signal = 0;
  sigwait(&signals, &signal);
  return signal;
}

std::vector<cluster::PlanRow> gateway_memory(const HttpConfig& http, const RpcConfig& rpc,
                                             std::uint64_t limit_bytes) {
  const auto row = [](const char* what, std::uint32_t count, std::uint64_t each, const char* key,
                      std::uint32_t wanted) {
    return cluster::PlanRow{
        "rpc", what, count * each,
        fmt::format("{} of {} {}, {} KiB each", count, key, wanted, each / 1_KiB)};
  };
  return {row("HTTP connections", HttpGateway::fitting_connections(http, limit_bytes),
              HttpGateway::connection_bytes(http), "http.connections", http.connections),
          row("RPC connections", RpcGateway::fitting_connections(rpc, limit_bytes),
              RpcGateway::connection_bytes(), "rpc.connections", rpc.connections)};
}

int serve(const Config& config) {
  // Before any thread starts, so that all inherit it: only wait_for_signal() takes them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  set_short_slice();  // of all threads but those that compute, which take the usual one
  start_logging(config.log_level);

  const auto refuse = [](const Error& error) {
    spdlog::error("event=start_failed error=\"{}\"", to_string(error));
    fmt::print(stderr, "plimsoll: {}\n", error.message);
    return exit_failure;
  };
  // What libraries and the command line have taken by now, nobody else will charge.
  const auto heap = read_allocator_memory();
  const Charge before(process_ledger().account(Component::runtime, "", shared_tenant),
                      heap ? heap->allocated_bytes : 0);
  std::optional<ProgressBar> bar;
  std::string packing;
  auto server_config = config.server;
  server_config.gateway_memory = gateway_memory;
  std::uint64_t limit_bytes = 0;
  server_config.on_plan = [&](const cluster::MemoryPlan& plan) {
    limit_bytes = plan.limit.limit_bytes;
    fmt::print("{}", plan_table(plan));
    std::fflush(stdout);
  };
  auto server = Server::start(
      server_config, [&](const std::string& model, std::uint64_t done, std::uint64_t total) {
        if (packing != model) bar.emplace("packing " + model);
        packing = model;
        bar->update(done, total);
      });
  bar.reset();
  if (!server) return refuse(server.error());
  Frontend& frontend = (*server)->frontend();
  auto http_config = config.server.http;
  http_config.connections = HttpGateway::fitting_connections(http_config, limit_bytes);
  auto http = HttpGateway::start(http_config, frontend, process_ledger());
  if (!http) return refuse(http.error());
  auto rpc_config = config.server.rpc;
  rpc_config.connections = RpcGateway::fitting_connections(rpc_config, limit_bytes);
  auto rpc = RpcGateway::start(rpc_config, frontend, process_ledger());
  if (!rpc) return refuse(rpc.error());
  print_welcome(config, frontend, (*http)->port(), (*rpc)->port(), (*server)->cluster_port());

  const int signal = wait_for_signal();
  spdlog::info("event=stopping signal={} deadline_ms={}", signal,
               config.server.drain_deadline.count());
  // A second signal does not wait for what still runs.
  std::thread([] {
    wait_for_signal();
    _exit(exit_interrupted);
  }).detach();
  (*server)->drain();
  (*http)->stop(config.server.drain_deadline);
  (*rpc)->stop(config.server.drain_deadline);
  (*server)->stop(config.server.drain_deadline);
  spdlog::info("event=stopped");
  return exit_ok;
}

}  // namespace

void add_serve_options(CLI::App& verb, ServeOptions& options) {
  verb.add_option("-c,--config", options.file, "YAML file; flags win over it");
  verb.add_option("-m,--model", options.models,
                  "NAME=PATH, or a name from `plimsoll pull --list`; may be repeated");
  for (const auto& setting : settings()) {
    verb.add_option_function<std::string>(
            setting.flag(),
            [&options, key = setting.key](const std::string& text) { options.flags[key] = text; },
            setting.help)
        ->default_str(setting.get(Config{}))
        ->group("Settings");
  }
}

Result<Config> make_config(const ServeOptions& options) {
  Config config;
  config.server.role = options.role;
  config.server.find_model = parse_model;
  if (options.role == Role::router) config.cluster_listen = {"127.0.0.1", 8090, {}, {}};
  // A router on the same machine has the usual ports.
  if (options.role == Role::node) config.server.http.listen.port = 0;
  if (options.role == Role::node) config.server.rpc.listen.port = 0;
  if (!options.file.empty()) {
    if (auto loaded = load_config(options.file, config); !loaded) return fail(loaded.error());
  }
  for (const auto& setting : settings()) {
    const auto flag = options.flags.find(setting.key);
    if (flag == options.flags.end()) continue;
    if (auto set = setting.set(config, flag->second); !set) {
      return fail(ErrorCode::invalid_argument, setting.flag() + ": " + set.error().message);
    }
  }
  if (!options.models.empty()) config.server.models.clear();
  for (const auto& text : options.models) {
    auto model = parse_model(text);
    if (!model) return fail(model.error());
    config.server.models.push_back(std::move(*model));
  }
  if (auto done = complete_config(config); !done) return fail(done.error());
  return config;
}

void add_serve(CLI::App& app, Context& context) {
  struct Verb {
    const char* name;
    const char* help;
    Role role;
  };
  for (const auto& [name, help, role] :
       {Verb{"serve", "start a cluster in this process", Role::all},
        Verb{"router", "start a router: clients come here, nodes join it", Role::router},
        Verb{"node", "start a node: it runs models for the routers that it joins", Role::node}}) {
    auto options = std::make_shared<ServeOptions>();
    options->role = role;
    auto* verb = app.add_subcommand(name, help);
    add_serve_options(*verb, *options);
    if (role == Role::node) {
      verb->add_option_function<std::string>(
          "--join", [options](const std::string& text) { options->flags["cluster.join"] = text; },
          "the same as --cluster-join");
    }
    verb->callback([options, &context] {
      auto config = make_config(*options);
      if (!config) {
        fmt::print(stderr, "plimsoll: {}\n", config.error().message);
        context.exit_code = exit_usage;
        return;
      }
      context.exit_code = serve(*config);
    });
  }
}

}  // namespace plimsoll::cli
