// A private etcd of one member, on free loopback ports, in a directory of its own.
#pragma once

#include <cstdint>
#include <string>

#include "storage/state_store.h"
#include "tests/storage/testing.h"

namespace plimsoll::storage {

class EtcdServer {
 public:
  static bool installed();  // Debian's etcd-server
  enum class Transport { plain, mutual_tls };
  // Starts, and waits until it answers.
  explicit EtcdServer(Transport transport = Transport::plain);
  ~EtcdServer();
  EtcdServer(const EtcdServer&) = delete;
  EtcdServer& operator=(const EtcdServer&) = delete;

  void kill();     // as a power cut would
  void restart();  // with the same data and ports
  // Forgets what was before the newest revision.
  void compact();

  EtcdOptions options(const std::string& prefix) const;  // with the certificate, if it needs one

 private:
  void make_certificates() const;
  bool start();  // false: it ended at once

  const Transport transport_;
  TemporaryDirectory directory_;
  std::uint16_t client_port_ = 0, peer_port_ = 0;
  pid_t process_ = 0;
};

}  // namespace plimsoll::storage
