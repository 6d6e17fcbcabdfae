#include "tests/storage/etcd_server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <stdexcept>

#include "storage/etcd_client.h"

namespace plimsoll::storage {
namespace {

// Both at once, so that they differ.
void find_free_ports(std::uint16_t& a, std::uint16_t& b) {
  const int sockets[] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_STREAM, 0)};
  std::uint16_t* ports[] = {&a, &b};
  for (int i = 0; i < 2; ++i) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(sockets[i], reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        getsockname(sockets[i], reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("no free port");
    }
    *ports[i] = ntohs(address.sin_port);
  }
  for (const int socket : sockets) close(socket);
}

}  // namespace

bool EtcdServer::installed() {
  for (const auto* path : {"/usr/bin/etcd", "/usr/local/bin/etcd"}) {
    if (access(path, X_OK) == 0) return true;
  }
  return false;
}

EtcdServer::EtcdServer() {
  find_free_ports(client_port_, peer_port_);
  start();
}
EtcdServer::~EtcdServer() { kill(); }

void EtcdServer::start() {
  const auto url = [](std::uint16_t port) { return "http://127.0.0.1:" + std::to_string(port); };
  std::vector<std::string> arguments{
      "etcd", "--name", "test", "--data-dir", directory_.path() / "data",
      // Short, since a lease lasts for an election at least.
      "--heartbeat-interval", "10", "--election-timeout", "100", "--listen-client-urls",
      url(client_port_), "--advertise-client-urls", url(client_port_), "--listen-peer-urls",
      url(peer_port_), "--initial-advertise-peer-urls", url(peer_port_), "--initial-cluster",
      "test=" + url(peer_port_)};
  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const std::string log = directory_.path() / "log";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  const int failed = posix_spawnp(&process_, "etcd", &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error("etcd does not start");
  const auto deadline = std::chrono::steady_clock::now() + test_deadline;
  while (!open_etcd_store(options("/"))) {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("etcd is silent");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

void EtcdServer::kill() {
  if (process_ == 0) return;
  ::kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = 0;
}

void EtcdServer::restart() { start(); }

void EtcdServer::compact() {
  const auto client = std::move(*EtcdClient::make(options("/")));
  const auto newest = client->call("kv/range", {{"key", base64("/")}}, true).value();
  const auto revision = text_in(child_in(newest, "header"), "revision");
  const auto done = client->call("kv/compaction", {{"revision", revision}}, false);
  if (!done) throw std::runtime_error(to_string(done.error()));
}

EtcdOptions EtcdServer::options(const std::string& prefix) const {
  EtcdOptions out;
  out.endpoints = {"http://127.0.0.1:" + std::to_string(client_port_)};
  out.prefix = prefix;
  out.timeout = std::chrono::seconds(10);
  return out;
}

}  // namespace plimsoll::storage
