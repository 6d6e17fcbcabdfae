// What the etcd store promises beyond the others: members may go and come.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "storage/etcd_client.h"
#include "tests/storage/etcd_server.h"

namespace plimsoll::storage {
namespace {

using testing::HasSubstr;

class EtcdStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdServer::installed()) {
      GTEST_SKIP() << "no etcd on this machine: install Debian's etcd-server";
    }
    server_ = std::make_unique<EtcdServer>();
  }
  std::unique_ptr<StateStore> open(const EtcdOptions& options) {
    auto store = open_etcd_store(options);
    if (!store) throw std::runtime_error(to_string(store.error()));
    return std::move(*store);
  }

  std::unique_ptr<EtcdServer> server_;
};

TEST_F(EtcdStoreTest, AWatchGoesOnAfterTheServerWasKilled) {
  const auto options = server_->options("/p/");
  const auto store = open(options);
  ASSERT_TRUE(store->put("a", "1"));
  WatchLog log;
  const auto watch = store->watch("", log.callback());
  ASSERT_TRUE(log.wait_for_view({{"a", "1"}}));
  server_->kill();
  auto quick = options;
  quick.timeout = std::chrono::milliseconds(200);
  EXPECT_EQ(open_etcd_store(quick).error().code, ErrorCode::unavailable);
  EXPECT_EQ(store->get("a").error().code, ErrorCode::unavailable);
  EXPECT_EQ(store->put("a", "2").error().code, ErrorCode::unavailable);
  server_->restart();
  for (const auto* value : {"3", "4", "5"}) ASSERT_TRUE(store->put("a", value));
  ASSERT_TRUE(log.wait_for_value("a", "5"));
  std::string told;
  for (const auto& change : log.changes()) told += change.entry.value;
  EXPECT_EQ(told, "1345") << "each once, in order";
}

TEST_F(EtcdStoreTest, AWatchThatMissedWhatWasCompactedIsToldTheDifference) {
  const auto store = open(server_->options("/p/"));
  ASSERT_TRUE(store->put("gone", "1"));
  ASSERT_TRUE(store->put("same", "1"));
  // A watch whose connection breaks while it is busy: what it misses is compacted away meanwhile.
  WatchLog log, reached;
  std::mutex gate;
  std::unique_lock closed(gate, std::defer_lock);
  const auto watch =
      store->watch("", [&, arrive = reached.callback(), say = log.callback()](const auto& changes) {
        arrive(changes);
        const std::lock_guard wait(gate);
        say(changes);
      });
  ASSERT_TRUE(log.wait_for_calls(1));
  closed.lock();
  ASSERT_TRUE(store->put("busy", "1"));
  ASSERT_TRUE(reached.wait_for_value("busy", "1"));
  server_->kill();
  server_->restart();
  ASSERT_TRUE(store->remove("gone"));
  for (int i = 0; i <= 20; ++i) ASSERT_TRUE(store->put("new", std::to_string(i)));
  server_->compact();
  closed.unlock();
  EXPECT_TRUE(log.wait_for_view({{"busy", "1"}, {"new", "20"}, {"same", "1"}}));
  std::map<std::string, int> told;
  for (const auto& change : log.changes()) ++told[change.entry.key];
  EXPECT_EQ(told["same"], 1) << "what has not changed is not told again";
  EXPECT_EQ(told["new"], 1) << "nothing was compacted: this tests nothing";
  EXPECT_EQ(told["gone"], 2);
}

TEST_F(EtcdStoreTest, TheNextMemberIsTried) {
  auto options = server_->options("/p/");
  options.endpoints.insert(options.endpoints.begin(), "http://127.0.0.1:1");
  const auto store = open(options);
  EXPECT_TRUE(store->put("a", "1", 0));
  EXPECT_EQ(store->get("a").value()->value, "1");
  WatchLog log;
  const auto watch = store->watch("", log.callback());
  EXPECT_TRUE(log.wait_for_view({{"a", "1"}}));
}

TEST_F(EtcdStoreTest, ClustersWithDifferentPrefixesShareAnEtcd) {
  const auto one = open(server_->options("/one/")), two = open(server_->options("/two/"));
  WatchLog log;
  const auto watch = two->watch("", log.callback());
  ASSERT_TRUE(one->put("k", "1"));
  ASSERT_TRUE(two->put("k", "2"));
  EXPECT_TRUE(log.wait_for_view({{"k", "2"}}));
  EXPECT_EQ(one->get("k").value()->value, "1");
  EXPECT_EQ(one->list("").value().size(), 1u);
  EXPECT_EQ(log.changes().size(), 1u);
}

TEST(EtcdTls, BothSidesShowACertificate) {
  if (!EtcdServer::installed()) {
    GTEST_SKIP() << "no etcd on this machine: install Debian's etcd-server";
  }
  const EtcdServer server(EtcdServer::Transport::mutual_tls);
  const auto options = server.options("/p/");
  const auto store = std::move(*open_etcd_store(options));
  WatchLog log;
  const auto watch = store->watch("", log.callback());
  ASSERT_TRUE(store->put("a", "1", 0));
  EXPECT_TRUE(log.wait_for_view({{"a", "1"}}));

  auto anonymous = options;
  anonymous.certificate = anonymous.key = "";
  EXPECT_EQ(open_etcd_store(anonymous).error().code, ErrorCode::unavailable);
  auto strangers = options;
  strangers.ca_file = "";  // the system's CAs did not sign the server's certificate
  const auto error = open_etcd_store(strangers).error();
  EXPECT_EQ(error.code, ErrorCode::unavailable);
  EXPECT_THAT(error.message, HasSubstr("ertificate"));
}

TEST(EtcdOptions, AreCheckedFirst) {
  const auto error = [](const std::vector<std::string>& endpoints, const std::string& file = {}) {
    EtcdOptions options;
    options.endpoints = endpoints;
    options.ca_file = file;
    options.timeout = std::chrono::milliseconds(500);
    return open_etcd_store(options).error();
  };
  EXPECT_EQ(error({}).code, ErrorCode::invalid_argument);
  EXPECT_EQ(error({"etcd:2379"}).code, ErrorCode::invalid_argument);
  EXPECT_THAT(error({"http://10.0.0.1:2379"}).message, HasSubstr("in the clear"));
  EXPECT_EQ(error({"http://127.0.0.1.example:2379@evil"}).code, ErrorCode::invalid_argument);
  EXPECT_THAT(error({"https://127.0.0.1:1"}, "/no/such/ca.pem").message, HasSubstr("/no/such"));
  EXPECT_EQ(error({"http://127.0.0.1:1"}).code, ErrorCode::unavailable);
}

TEST(EtcdJson, BytesComeBackAndNonsenseIsNothing) {
  for (std::size_t size = 0; size < 10; ++size) {
    const std::string bytes = std::string("\0\xff\xfe=+/abc\x80", 10).substr(0, size);
    EXPECT_EQ(bytes_in({{"b", base64(bytes)}}, "b"), bytes);
  }
  EXPECT_EQ(base64("any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
  for (const auto* nonsense : {"", "=", "====", "a", "!!!!", "YQ"}) {
    EXPECT_EQ(bytes_in({{"b", nonsense}}, "b"), "") << nonsense;
  }
  EXPECT_EQ(bytes_in({{"b", 7}}, "b"), "");
  EXPECT_EQ(number_in({{"n", "18446744073709551615"}}, "n"), ~std::uint64_t{0});
  EXPECT_EQ(number_in({{"n", -1}}, "n"), 0u);
  EXPECT_TRUE(child_in(EtcdClient::Json::array(), "x").is_null());
}

}  // namespace
}  // namespace plimsoll::storage
