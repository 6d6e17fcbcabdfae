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

EtcdServer::EtcdServer(Transport transport) : transport_(transport) {
  if (transport_ == Transport::mutual_tls) make_certificates();
  for (int attempt = 0; attempt < 5; ++attempt) {  // a free port may be taken in the meantime
    find_free_ports(client_port_, peer_port_);
    if (start()) return;
  }
  throw std::runtime_error("etcd does not start");
}
EtcdServer::~EtcdServer() { kill(); }

// A CA, and one certificate for the server and the clients: the gateway is a client of its own
// server, with the server's certificate.
void EtcdServer::make_certificates() const {
  const std::string key = " -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 ";
  const std::string script = "cd " + directory_.path().string() + " && openssl req -x509" + key +
                             "-subj /CN=test-ca -keyout ca.key -out ca.pem"
                             " && openssl req" +
                             key +
                             "-subj /CN=test -keyout member.key -out member.csr"
                             " && echo subjectAltName=IP:127.0.0.1 > names"
                             " && openssl x509 -req -days 2 -in member.csr -CA ca.pem -CAkey ca.key"
                             " -CAcreateserial -extfile names -out member.pem";
  if (std::system(("( " + script + " ) > /dev/null 2>&1").c_str()) != 0) {
    throw std::runtime_error("openssl makes no certificates");
  }
}

bool EtcdServer::start() {
  const auto url = [](std::uint16_t port) { return "http://127.0.0.1:" + std::to_string(port); };
  const auto client_url = options("/").endpoints[0];
  std::vector<std::string> arguments{
      "etcd", "--name", "test", "--data-dir", directory_.path() / "data",
      // Short, since a lease lasts for an election at least.
      "--heartbeat-interval", "10", "--election-timeout", "100", "--listen-client-urls", client_url,
      "--advertise-client-urls", client_url, "--listen-peer-urls", url(peer_port_),
      "--initial-advertise-peer-urls", url(peer_port_), "--initial-cluster",
      "test=" + url(peer_port_)};
  if (transport_ == Transport::mutual_tls) {
    const auto file = [&](const char* name) { return (directory_.path() / name).string(); };
    for (const auto& argument :
         {std::string("--client-cert-auth"), "--trusted-ca-file=" + file("ca.pem"),
          "--cert-file=" + file("member.pem"), "--key-file=" + file("member.key")}) {
      arguments.push_back(argument);
    }
  }
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
    if (waitpid(process_, nullptr, WNOHANG) == process_) {
      process_ = 0;
      return false;
    }
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("etcd is silent");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

void EtcdServer::kill() {
  if (process_ == 0) return;
  ::kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = 0;
}

void EtcdServer::restart() {
  if (!start()) throw std::runtime_error("etcd does not start again");
}

void EtcdServer::compact() {
  const auto client = std::move(*EtcdClient::make(options("/")));
  const auto newest = client->call("kv/range", {{"key", base64("/")}}, true).value();
  const auto revision = text_in(child_in(newest, "header"), "revision");
  const auto done = client->call("kv/compaction", {{"revision", revision}}, false);
  if (!done) throw std::runtime_error(to_string(done.error()));
}

EtcdOptions EtcdServer::options(const std::string& prefix) const {
  EtcdOptions out;
  const bool tls = transport_ == Transport::mutual_tls;
  out.endpoints = {(tls ? "https://127.0.0.1:" : "http://127.0.0.1:") +
                   std::to_string(client_port_)};
  if (tls) {
    out.ca_file = directory_.path() / "ca.pem";
    out.certificate = directory_.path() / "member.pem";
    out.key = directory_.path() / "member.key";
  }
  out.prefix = prefix;
  out.timeout = std::chrono::seconds(10);
  return out;
}

}  // namespace plimsoll::storage
