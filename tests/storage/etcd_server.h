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
  // Starts, and waits until it answers.
  EtcdServer();
  ~EtcdServer();
  EtcdServer(const EtcdServer&) = delete;
  EtcdServer& operator=(const EtcdServer&) = delete;

  void kill();     // as a power cut would
  void restart();  // with the same data and ports
  // Forgets what was before the newest revision.
  void compact();

  EtcdOptions options(const std::string& prefix) const;

 private:
  void start();

  TemporaryDirectory directory_;
  std::uint16_t client_port_ = 0, peer_port_ = 0;
  pid_t process_ = 0;
};

}  // namespace plimsoll::storage
