#include "actors/ca.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <fstream>

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t now_s = 1'800'000'000;  // in 2027
constexpr std::uint64_t day_s = 24 * 3600;

class Ca : public ::testing::Test {
 protected:
  Ca() {
    std::string pattern = (fs::temp_directory_path() / "plimsoll-ca-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~Ca() override { fs::remove_all(root_); }

  AuthorityOptions authority(const std::string& name = "ca") const {
    AuthorityOptions options;
    options.directory = root_ / name;
    return options;
  }
  IssueOptions node(const std::string& name = "node-1", const std::string& ca = "ca") const {
    IssueOptions options;
    options.directory = root_ / ca;
    options.out = root_ / "out";
    options.name = name;
    return options;
  }
  Result<CertificateInfo> check(const std::string& name, const std::string& ca,
                                std::uint64_t at_s = now_s) const {
    return check_identity(root_ / ca / "ca.crt", root_ / "out" / (name + ".crt"),
                          root_ / "out" / (name + ".key"), at_s);
  }
  static unsigned mode(const fs::path& path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 0777;
  }
  static std::string content(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path root_;
};

TEST_F(Ca, IssuesWhatItsOwnRootVerifies) {
  const auto made = make_authority(authority(), now_s);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->role, CertificateRole::authority);
  EXPECT_EQ(made->expires_s, now_s + 3650 * day_s);

  auto options = node();
  options.dns = {"node-1.example.org"};
  options.ips = {"192.0.2.7", "2001:db8::1"};
  ASSERT_TRUE(issue_certificate(options, now_s));
  const auto info = check("node-1", "ca");
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->name, "node-1");
  EXPECT_EQ(info->issuer, "plimsoll");
  EXPECT_EQ(info->role, CertificateRole::node);
  EXPECT_THAT(info->dns, ElementsAre("node-1", "node-1.example.org"));
  EXPECT_THAT(info->ips, ElementsAre("192.0.2.7", "2001:db8:0:0:0:0:0:1"));
  EXPECT_EQ(info->serial.size(), 32U);  // 128 bits
  EXPECT_NE(info->serial, made->serial);

  options = node("router-1");
  options.role = CertificateRole::router;
  ASSERT_TRUE(issue_certificate(options, now_s));
  EXPECT_EQ(check("router-1", "ca")->role, CertificateRole::router);
}

TEST_F(Ca, LimitsWhatACertificateMayBeUsedFor) {
  ASSERT_TRUE(make_authority(authority(), now_s));
  ASSERT_TRUE(issue_certificate(node(), now_s));
  const auto read = [](const fs::path& path) {
    FILE* file = std::fopen(path.c_str(), "r");
    X509* certificate = PEM_read_X509(file, nullptr, nullptr, nullptr);
    std::fclose(file);
    return std::unique_ptr<X509, decltype(&X509_free)>(certificate, X509_free);
  };
  const auto root = read(root_ / "ca/ca.crt");
  EXPECT_EQ(X509_check_ca(root.get()), 1);
  EXPECT_EQ(X509_get_key_usage(root.get()), KU_KEY_CERT_SIGN | KU_CRL_SIGN);
  EXPECT_EQ(X509_get_pathlen(root.get()), 0);
  const auto leaf = read(root_ / "out/node-1.crt");
  EXPECT_EQ(X509_check_ca(leaf.get()), 0);
  EXPECT_EQ(X509_get_key_usage(leaf.get()), KU_DIGITAL_SIGNATURE);
  EXPECT_EQ(X509_get_extended_key_usage(leaf.get()), XKU_SSL_SERVER | XKU_SSL_CLIENT);
  EXPECT_EQ(X509_check_host(leaf.get(), "node-1", 0, 0, nullptr), 1);
  ASSERT_NE(X509_get0_authority_key_id(leaf.get()), nullptr);
  EXPECT_EQ(ASN1_OCTET_STRING_cmp(X509_get0_authority_key_id(leaf.get()),
                                  X509_get0_subject_key_id(root.get())),
            0);
}

TEST_F(Ca, AnotherAuthorityOfTheSameNameIsRefused) {
  ASSERT_TRUE(make_authority(authority("ca"), now_s));
  ASSERT_TRUE(make_authority(authority("other"), now_s));
  ASSERT_TRUE(issue_certificate(node(), now_s));
  const auto info = check("node-1", "other");
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code, ErrorCode::permission_denied);
}

TEST_F(Ca, ExpiredAndTooEarlyAreRefused) {
  ASSERT_TRUE(make_authority(authority(), now_s));
  ASSERT_TRUE(issue_certificate(node(), now_s));
  EXPECT_TRUE(check("node-1", "ca", now_s - 60)) << "clocks differ a little";
  EXPECT_TRUE(check("node-1", "ca", now_s + 364 * day_s));
  for (const auto at_s : {now_s + 366 * day_s, now_s - day_s}) {
    const auto info = check("node-1", "ca", at_s);
    ASSERT_FALSE(info);
    EXPECT_EQ(info.error().code, ErrorCode::failed_precondition);
    EXPECT_THAT(info.error().message, HasSubstr("ca issue node-1 --force"));
  }
}

TEST_F(Ca, SaysWhenACertificateExpiresSoon) {
  ASSERT_TRUE(make_authority(authority(), now_s));
  const auto info = issue_certificate(node(), now_s);
  ASSERT_TRUE(info);
  EXPECT_FALSE(expires_soon(*info, now_s + 334 * day_s));
  EXPECT_TRUE(expires_soon(*info, now_s + 336 * day_s));
  EXPECT_FALSE(expires_soon(*info, now_s + 366 * day_s)) << "that is too late, not soon";
}

TEST_F(Ca, KeysAreTheirOwnersAlone) {
  ASSERT_TRUE(make_authority(authority(), now_s));
  ASSERT_TRUE(issue_certificate(node(), now_s));
  EXPECT_EQ(mode(root_ / "ca"), 0700U);
  EXPECT_EQ(mode(root_ / "ca/ca.key"), 0600U);
  EXPECT_EQ(mode(root_ / "out/node-1.key"), 0600U);
  EXPECT_EQ(mode(root_ / "out/node-1.crt"), 0644U);

  fs::permissions(root_ / "ca/ca.key", fs::perms(0640));
  EXPECT_EQ(issue_certificate(node("node-2"), now_s).error().code, ErrorCode::permission_denied);

  fs::create_directory(root_ / "open");
  fs::permissions(root_ / "open", fs::perms(0755));
  EXPECT_EQ(make_authority(authority("open"), now_s).error().code, ErrorCode::permission_denied);
  EXPECT_TRUE(fs::is_empty(root_ / "open"));
}

TEST_F(Ca, OverwritesOnlyWhenTold) {
  ASSERT_TRUE(make_authority(authority(), now_s));
  ASSERT_TRUE(issue_certificate(node(), now_s));
  const auto key = content(root_ / "out/node-1.key");
  const auto root = content(root_ / "ca/ca.key");
  EXPECT_EQ(make_authority(authority(), now_s).error().code, ErrorCode::already_exists);
  EXPECT_EQ(issue_certificate(node(), now_s).error().code, ErrorCode::already_exists);
  // A key without its certificate is as much worth keeping.
  fs::remove(root_ / "out/node-1.crt");
  EXPECT_EQ(issue_certificate(node(), now_s).error().code, ErrorCode::already_exists);
  EXPECT_EQ(content(root_ / "out/node-1.key"), key);
  EXPECT_EQ(content(root_ / "ca/ca.key"), root);

  auto forced = node();
  forced.force = true;
  ASSERT_TRUE(issue_certificate(forced, now_s));
  EXPECT_NE(content(root_ / "out/node-1.key"), key);
  EXPECT_TRUE(check("node-1", "ca"));
  const auto files = std::distance(fs::directory_iterator(root_ / "out"), {});
  EXPECT_EQ(files, 2) << "temporary files were left behind";
}

TEST_F(Ca, RefusesWhatCannotBeRight) {
  EXPECT_EQ(issue_certificate(node(), now_s).error().code, ErrorCode::not_found);
  ASSERT_TRUE(make_authority(authority(), now_s));
  for (const auto& name : {std::string(), std::string("../node"), std::string("Node"),
                           std::string("-n"), std::string("a,DNS:b"), std::string(65, 'a')}) {
    EXPECT_EQ(issue_certificate(node(name), now_s).error().code, ErrorCode::invalid_argument)
        << name;
  }
  auto options = node();
  options.ips = {"192.0.2.300"};
  EXPECT_EQ(issue_certificate(options, now_s).error().code, ErrorCode::invalid_argument);
  options = node();
  options.dns = {"a b"};
  EXPECT_EQ(issue_certificate(options, now_s).error().code, ErrorCode::invalid_argument);
  options = node();
  options.days = 0;
  EXPECT_EQ(issue_certificate(options, now_s).error().code, ErrorCode::invalid_argument);
  options.days = 3651;
  EXPECT_EQ(issue_certificate(options, now_s).error().code, ErrorCode::failed_precondition)
      << "it would outlive its CA";
  EXPECT_FALSE(fs::exists(root_ / "out/node-1.key"));

  // The keys of two certificates mixed up.
  ASSERT_TRUE(issue_certificate(node("a"), now_s));
  ASSERT_TRUE(issue_certificate(node("b"), now_s));
  fs::copy_file(root_ / "out/a.key", root_ / "out/b.key", fs::copy_options::overwrite_existing);
  EXPECT_EQ(check("b", "ca").error().code, ErrorCode::failed_precondition);
  EXPECT_EQ(read_certificate(root_ / "out/a.key").error().code, ErrorCode::malformed);
  EXPECT_EQ(read_certificate(root_ / "out").error().code, ErrorCode::malformed);
  EXPECT_EQ(read_certificate(root_ / "none.crt").error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace plimsoll
