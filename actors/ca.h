// The cluster's private certificate authority: what lets routers and nodes know each other.
//
// Between machines the cluster speaks mutual TLS, and CAF checks the chain of certificates but not
// the names in them. Whoever holds a certificate of this CA is therefore a member: the CA is for
// one cluster and for nothing else. Certificates are X.509v3 (RFC 5280) with ECDSA keys on P-256; a
// member's role and name are a URI among its alternative names ("plimsoll://node/NAME").
//
// Times are seconds since 1970 and passed in. Files are written whole or not at all; private keys
// can be read by their owner only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll {

enum class CertificateRole : std::uint8_t { none, authority, router, node };
std::string_view to_string(CertificateRole role);

struct CertificateInfo {
  std::string name;                              // the subject's common name
  std::string issuer;                            // the issuer's
  CertificateRole role = CertificateRole::none;  // none: not one of ours
  std::vector<std::string> dns;
  std::vector<std::string> ips;
  std::string serial;              // hexadecimal
  std::string fingerprint_sha256;  // of the whole certificate, hexadecimal
  std::uint64_t begins_s = 0;
  std::uint64_t expires_s = 0;
};

// Valid now, but not for another 30 days.
bool expires_soon(const CertificateInfo& certificate, std::uint64_t now_s);

struct AuthorityOptions {
  std::filesystem::path directory;  // gets ca.crt and ca.key; made with mode 0700
  std::string name = "plimsoll";
  std::uint32_t days = 3650;
  bool force = false;  // replace what is there: every certificate it issued becomes worthless
};
// Makes the CA. Errors: already_exists, permission_denied (a directory that others can read),
// invalid_argument, internal (the file system).
Result<CertificateInfo> make_authority(const AuthorityOptions& options, std::uint64_t now_s);

struct IssueOptions {
  std::filesystem::path directory;  // the CA's
  std::filesystem::path out;        // gets NAME.crt and NAME.key
  std::string name;                 // 1 to 64 of a-z, 0-9, '-', '_' and '.'
  CertificateRole role = CertificateRole::node;
  std::vector<std::string> dns;  // beside the name itself
  std::vector<std::string> ips;
  std::uint32_t days = 365;
  bool force = false;
};
// Issues a certificate with a fresh key, for server and client. Errors: not_found (no CA there),
// already_exists, invalid_argument, permission_denied (a CA key that others can read),
// failed_precondition (the CA has expired, or would before the certificate), malformed, internal.
Result<CertificateInfo> issue_certificate(const IssueOptions& options, std::uint64_t now_s);

// The first certificate of a PEM file. Errors: not_found, malformed.
Result<CertificateInfo> read_certificate(const std::filesystem::path& file);

// What a process has to check before it shows itself to the cluster: that `key` is the
// certificate's, and that the chain leads to `ca_file` and is valid now. Returns the certificate.
// Errors: not_found, malformed, permission_denied (not of this CA), failed_precondition (expired or
// not valid yet; the key is another's).
Result<CertificateInfo> check_identity(const std::filesystem::path& ca_file,
                                       const std::filesystem::path& certificate,
                                       const std::filesystem::path& key, std::uint64_t now_s);

}  // namespace plimsoll
