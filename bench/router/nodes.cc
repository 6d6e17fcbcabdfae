#include "bench/router/nodes.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <stdexcept>
#include <utility>

#include "actors/ca.h"

namespace plimsoll::router_bench {
namespace {

// Long: what is measured is a machine that is full, not one that is given up.
constexpr std::chrono::seconds network_timeout{20};

[[noreturn]] void serve(int first, int end, int pipe, const Options& options, Emissions& emissions,
                        const TlsFiles& files) {
  std::uint16_t port = 0;
  if (read(pipe, &port, sizeof(port)) != sizeof(port)) _exit(0);
  Ledger ledger;
  ActorSystemConfig config(1);
  if (!enable_network(config, files, network_timeout)) _exit(1);
  caf::actor_system system(config);
  const auto clock = std::make_shared<pretend::Clock>();
  std::vector<NodeActor> nodes;
  std::vector<LinkActor> links;
  for (int i = first; i < end; ++i) {
    nodes.push_back(start_node(system, i, options, emissions, ledger, clock));
    LinkConfig link;
    link.host = "127.0.0.1";
    link.port = port;
    link.tls = options.tls;
    link.node = node_name(i);
    link.node_actor = nodes.back();
    link.timeout = network_timeout;
    links.push_back(spawn_link(system, std::move(link)));
  }
  // Until the bench has closed its end.
  while (read(pipe, &port, sizeof(port)) > 0) {
  }
  _exit(0);
}

double children_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

std::string node_name(int index) { return fmt::format("node-{}", index); }

NodeActor start_node(caf::actor_system& system, int index, const Options& options,
                     Emissions& emissions, Ledger& ledger,
                     const std::shared_ptr<pretend::Clock>& clock) {
  pretend::Options pretend;
  pretend.step = std::chrono::microseconds(options.step_us);
  pretend.phase = pretend.step * index / options.nodes;
  pretend.step_tokens = options.step_tokens;
  pretend.batch = pretend.queue_length = options.streams * 4;
  pretend.kv_token_bytes = 16;
  pretend.on_emit = [&emissions](const SequenceRequest& request, std::uint32_t position,
                                 std::uint32_t count) {
    const auto now = now_ns();
    for (std::uint32_t i = 0; i < count; ++i) {
      emissions.at(request.sampling.seed, position + i) = now;
    }
  };
  auto inbox = std::make_shared<NodeInbox>();
  NodeConfig config;
  config.name = node_name(index);
  config.epoch = 1;
  config.inbox = inbox;
  config.ledger = &ledger;
  ServedEngine served;
  served.model = "m";
  served.version = "m@0";
  served.engine =
      pretend::start_engine(std::move(pretend), ledger, make_engine_sink(inbox, ledger), clock);
  config.engines.push_back(std::move(served));
  return spawn_node(system, std::move(config));
}

NodeProcesses::NodeProcesses(const Options& options, Emissions& emissions) {
  if (options.tls) make_certificates();
  for (int i = 0; i < options.processes; ++i) {
    int ends[2] = {-1, -1};
    if (pipe(ends) != 0) throw std::runtime_error("no pipe");
    const pid_t id = fork();
    if (id < 0) throw std::runtime_error("no process");
    if (id == 0) {
      close(ends[1]);
      for (const auto& before : processes_) close(before.pipe);
      const auto part = [&](int n) { return options.nodes * n / options.processes; };
      serve(part(i), part(i + 1), ends[0], options, emissions, node_files_);
    }
    close(ends[0]);
    processes_.push_back({id, ends[1]});
  }
}

void NodeProcesses::make_certificates() {
  std::string name = std::filesystem::temp_directory_path() / "router_bench.XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no directory for certificates");
  directory_ = name;
  const auto now = static_cast<std::uint64_t>(std::time(nullptr));
  AuthorityOptions authority;
  authority.directory = directory_ / "ca";
  bool made = make_authority(authority, now).has_value();
  const auto issue = [&](const std::string& member, CertificateRole role) {
    IssueOptions options;
    options.directory = authority.directory;
    options.out = directory_;
    options.name = member;
    options.role = role;
    options.ips = {"127.0.0.1"};
    made = made && issue_certificate(options, now).has_value();
    return TlsFiles{authority.directory / "ca.crt", directory_ / (member + ".crt"),
                    directory_ / (member + ".key")};
  };
  router_files_ = issue("router", CertificateRole::router);
  node_files_ = issue("node", CertificateRole::node);
  if (!made) throw std::runtime_error("no certificates");
}

void NodeProcesses::join(std::uint16_t port) {
  for (const auto& process : processes_) {
    if (write(process.pipe, &port, sizeof(port)) != sizeof(port)) {
      throw std::runtime_error("a process of nodes has ended");
    }
  }
}

double NodeProcesses::stop() {
  const double before = children_cpu_seconds();
  for (const auto& process : processes_) close(process.pipe);
  for (const auto& process : processes_) waitpid(process.id, nullptr, 0);
  processes_.clear();
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  return children_cpu_seconds() - before;
}

}  // namespace plimsoll::router_bench
