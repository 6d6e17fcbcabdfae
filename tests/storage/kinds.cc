#include "tests/storage/kinds.h"

#include <stdexcept>
#include <utility>

#include "tests/storage/etcd_server.h"
#include "tests/storage/testing.h"

namespace plimsoll::storage {
namespace {

using namespace std::chrono_literals;

Opened open_memory() { return {{}, make_memory_store()}; }
Opened open_embedded() {
  auto directory = std::make_shared<TemporaryDirectory>();
  auto store = open_embedded_store(directory->path());
  if (!store) throw std::runtime_error(to_string(store.error()));
  return {std::move(directory), std::move(*store)};
}

// All of them in one server, under a prefix each.
Opened open_etcd() {
  if (!EtcdServer::installed()) return {};
  static const EtcdServer server;
  static int clusters = 0;
  auto store = open_etcd_store(server.options("/cluster-" + std::to_string(++clusters) + "/"));
  if (!store) throw std::runtime_error(to_string(store.error()));
  return {{}, std::move(*store)};
}

}  // namespace

void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

std::vector<Kind> kinds_of_store() {
  return {
      {"Memory", open_memory, 100ms}, {"Embedded", open_embedded, 100ms}, {"Etcd", open_etcd, 1s}};
}

}  // namespace plimsoll::storage
