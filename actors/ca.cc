#include "actors/ca.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>

namespace plimsoll {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t day_s = 24 * 3600;
constexpr std::uint64_t clock_skew_s = 300;  // machines' clocks differ: valid from a little earlier
constexpr std::uint64_t soon_s = 30 * day_s;
constexpr std::uint32_t most_days = 36'500;
constexpr off_t most_file_bytes = 1 << 20;
constexpr std::string_view uri_scheme = "plimsoll://";

template <auto free>
struct Free {
  template <class T>
  void operator()(T* object) const {
    free(object);
  }
};
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Free<GENERAL_NAMES_free>>;

tl::unexpected<Error> openssl_failed(const std::string& what) {
  char text[256] = "no reason given";
  if (const auto code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return fail(ErrorCode::internal, fmt::format("{}: {}", what, text));
}

tl::unexpected<Error> system_failed(const std::string& what, int error) {
  return fail(
      error == EACCES || error == EPERM ? ErrorCode::permission_denied : ErrorCode::internal,
      fmt::format("{}: {}", what, std::strerror(error)));
}

std::string date(std::uint64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm utc{};
  gmtime_r(&time, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

// ---- files

// A file of a directory that appears whole, with its mode, or not at all.
class PendingFile {
 public:
  static Result<PendingFile> write(const fs::path& target, const std::string& text, mode_t mode) {
    PendingFile file(target);
    const int descriptor = ::mkstemp(file.temporary_.data());
    if (descriptor < 0) return system_failed("cannot write " + target.string(), errno);
    file.present_ = true;
    std::size_t done = 0;
    bool good = ::fchmod(descriptor, mode) == 0;
    while (good && done < text.size()) {
      const auto wrote = ::write(descriptor, text.data() + done, text.size() - done);
      good = wrote > 0 || (wrote < 0 && errno == EINTR);
      if (wrote > 0) done += static_cast<std::size_t>(wrote);
    }
    good = good && ::fsync(descriptor) == 0;
    const int error = errno;
    ::close(descriptor);
    if (!good) return system_failed("cannot write " + target.string(), error);
    return file;
  }
  PendingFile(PendingFile&& other) noexcept
      : target_(std::move(other.target_)),
        temporary_(std::move(other.temporary_)),
        present_(std::exchange(other.present_, false)) {}
  ~PendingFile() {
    if (present_) ::unlink(temporary_.c_str());
  }

  // link(2), unlike rename(2), fails where the name is taken.
  Result<void> publish(bool replace) {
    const int done = replace ? ::rename(temporary_.c_str(), target_.c_str())
                             : ::link(temporary_.c_str(), target_.c_str());
    if (done != 0 && errno == EEXIST) return taken(target_);
    if (done != 0) return system_failed("cannot write " + target_.string(), errno);
    if (replace) present_ = false;
    return {};
  }

  static tl::unexpected<Error> taken(const fs::path& path) {
    return fail(ErrorCode::already_exists,
                path.string() + " is there already; --force replaces it");
  }

 private:
  explicit PendingFile(const fs::path& target)
      : target_(target), temporary_(target.string() + ".XXXXXX") {}
  fs::path target_;
  std::string temporary_;
  bool present_ = false;
};

Result<void> write_pair(const fs::path& certificate, const std::string& certificate_pem,
                        const fs::path& key, const std::string& key_pem, bool force) {
  for (const auto& path : {certificate, key}) {
    std::error_code error;
    if (!force && fs::exists(path, error)) return PendingFile::taken(path);
  }
  auto pending_key = PendingFile::write(key, key_pem, 0600);
  if (!pending_key) return fail(pending_key.error());
  auto pending_certificate = PendingFile::write(certificate, certificate_pem, 0644);
  if (!pending_certificate) return fail(pending_certificate.error());
  if (auto done = pending_key->publish(force); !done) return done;
  auto done = pending_certificate->publish(force);
  if (!done && !force) ::unlink(key.c_str());
  return done;
}

// Makes it with mode 0700 if it is not there.
Result<void> make_private_directory(const fs::path& path, bool must_be_private) {
  std::error_code error;
  const auto parent = fs::absolute(path, error).parent_path();
  fs::create_directories(parent, error);
  if (error) return system_failed("cannot make " + parent.string(), error.value());
  if (::mkdir(path.c_str(), 0700) == 0) return {};
  if (errno != EEXIST) return system_failed("cannot make " + path.string(), errno);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    return fail(ErrorCode::invalid_argument, path.string() + " is not a directory");
  }
  if (must_be_private && (status.st_mode & 077) != 0) {
    return fail(ErrorCode::permission_denied,
                fmt::format("{0} is open to others (mode {1:o}): chmod 700 {0}, or name another",
                            path.string(), status.st_mode & 0777));
  }
  return {};
}

Result<Bio> open_pem(const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) {
    if (errno == ENOENT) return fail(ErrorCode::not_found, "no file " + file.string());
    return system_failed("cannot read " + file.string(), errno);
  }
  if (!S_ISREG(status.st_mode) || status.st_size > most_file_bytes) {
    return fail(ErrorCode::malformed, file.string() + " is not a PEM file");
  }
  Bio bio(BIO_new_file(file.c_str(), "r"));
  if (!bio) return system_failed("cannot read " + file.string(), errno);
  return bio;
}

Result<Certificate> load_certificate(const fs::path& file) {
  auto bio = open_pem(file);
  if (!bio) return fail(bio.error());
  Certificate certificate(PEM_read_bio_X509(bio->get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!certificate) {
    return fail(ErrorCode::malformed, file.string() + " holds no certificate in PEM form");
  }
  return certificate;
}

Result<Key> load_key(const fs::path& file) {
  auto bio = open_pem(file);
  if (!bio) return fail(bio.error());
  char none[] = "";  // an encrypted key is an error, not a question on the terminal
  Key key(PEM_read_bio_PrivateKey(bio->get(), nullptr, nullptr, none));
  ERR_clear_error();
  if (!key) {
    return fail(ErrorCode::malformed,
                file.string() + " holds no unencrypted private key in PEM form");
  }
  return key;
}

template <class Write>
std::string to_pem(Write write) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (!bio || write(bio.get()) != 1) return {};
  char* data = nullptr;
  const auto length = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(length));
}
std::string pem(X509* certificate) {
  return to_pem([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}
std::string pem(EVP_PKEY* key) {
  return to_pem([&](BIO* bio) {
    return PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
}

// ---- names

bool consists_of(const std::string& text, std::size_t most, std::string_view characters) {
  return !text.empty() && text.size() <= most &&
         text.find_first_not_of(characters) == std::string::npos && text.front() != '.' &&
         text.front() != '-';
}

Result<void> check_name(const std::string& name) {
  if (consists_of(name, 64, "abcdefghijklmnopqrstuvwxyz0123456789-_.")) return {};
  return fail(ErrorCode::invalid_argument,
              fmt::format("'{}' is no name: 1 to 64 of a-z, 0-9, '-', '_' and '.', and neither '-' "
                          "nor '.' first",
                          name));
}

Result<void> check_days(std::uint32_t days) {
  if (days >= 1 && days <= most_days) return {};
  return fail(ErrorCode::invalid_argument,
              fmt::format("a certificate cannot be valid for {} days: 1 to {}", days, most_days));
}

bool add_name(GENERAL_NAMES* names, int type, const std::string& text) {
  GENERAL_NAME* name = nullptr;
  if (type == GEN_IPADD) {
    auto* octets = a2i_IPADDRESS(text.c_str());
    if (octets == nullptr) return false;
    name = GENERAL_NAME_new();
    GENERAL_NAME_set0_value(name, type, octets);
  } else {
    auto* value = ASN1_IA5STRING_new();
    name = GENERAL_NAME_new();
    if (ASN1_STRING_set(value, text.data(), static_cast<int>(text.size())) != 1) {
      ASN1_IA5STRING_free(value);
      GENERAL_NAME_free(name);
      return false;
    }
    GENERAL_NAME_set0_value(name, type, value);
  }
  if (sk_GENERAL_NAME_push(names, name) > 0) return true;
  GENERAL_NAME_free(name);
  return false;
}

Result<Names> alternative_names(const IssueOptions& options) {
  Names names(GENERAL_NAMES_new());
  bool good = names && add_name(names.get(), GEN_DNS, options.name) &&
              add_name(names.get(), GEN_URI,
                       fmt::format("{}{}/{}", uri_scheme, to_string(options.role), options.name));
  for (const auto& host : options.dns) {
    if (!consists_of(host, 253,
                     "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")) {
      return fail(ErrorCode::invalid_argument, fmt::format("'{}' is not a host's name", host));
    }
    if (host != options.name) good = good && add_name(names.get(), GEN_DNS, host);
  }
  for (const auto& ip : options.ips) {
    if (!add_name(names.get(), GEN_IPADD, ip)) {
      ERR_clear_error();
      return fail(ErrorCode::invalid_argument, fmt::format("'{}' is not an IP address", ip));
    }
  }
  if (!good) return openssl_failed("cannot build the alternative names");
  return names;
}

// ---- making certificates

struct Draft {
  std::string name;
  std::uint64_t begins_s;
  std::uint64_t expires_s;
  bool authority;
  GENERAL_NAMES* names;  // null: none
};

bool add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_random_serial(X509* certificate) {
  std::unique_ptr<BIGNUM, Free<BN_free>> serial(BN_new());
  // The top bit is set: never zero, never short, and of 128 bits (RFC 5280 allows 20 octets).
  return serial && BN_rand(serial.get(), 128, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
         BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate)) != nullptr;
}

// `issuer` null: signs itself.
Result<Certificate> sign(const Draft& draft, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key) {
  Certificate made(X509_new());
  if (!made) return openssl_failed("cannot make a certificate");
  X509* const certificate = made.get();
  X509* const above = issuer != nullptr ? issuer : certificate;
  auto* subject = X509_get_subject_name(certificate);
  const auto* common_name = reinterpret_cast<const unsigned char*>(draft.name.c_str());
  const bool good =
      X509_set_version(certificate, 2) == 1 && set_random_serial(certificate) &&
      ASN1_TIME_set(X509_getm_notBefore(certificate), static_cast<time_t>(draft.begins_s)) &&
      ASN1_TIME_set(X509_getm_notAfter(certificate), static_cast<time_t>(draft.expires_s)) &&
      X509_set_pubkey(certificate, key) == 1 &&
      X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC,
                                 reinterpret_cast<const unsigned char*>("Plimsoll cluster"), -1, -1,
                                 0) == 1 &&
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, common_name, -1, -1, 0) == 1 &&
      X509_set_issuer_name(certificate, X509_get_subject_name(above)) == 1 &&
      add_extension(certificate, above, NID_basic_constraints,
                    draft.authority ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE") &&
      add_extension(
          certificate, above, NID_key_usage,
          draft.authority ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature") &&
      (draft.authority ||
       add_extension(certificate, above, NID_ext_key_usage, "serverAuth,clientAuth")) &&
      add_extension(certificate, above, NID_subject_key_identifier, "hash") &&
      add_extension(certificate, above, NID_authority_key_identifier, "keyid:always") &&
      (draft.names == nullptr || X509_add1_ext_i2d(certificate, NID_subject_alt_name, draft.names,
                                                   0, X509V3_ADD_APPEND) == 1) &&
      X509_sign(certificate, issuer_key, EVP_sha256()) > 0;
  if (!good) return openssl_failed("cannot make a certificate for " + draft.name);
  return made;
}

// ---- reading certificates

std::string hex(const unsigned char* bytes, std::size_t length) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

std::string common_name(const X509_NAME* name) {
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (at < 0) return {};
  unsigned char* text = nullptr;
  const int length =
      ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
  if (length < 0) return {};
  std::string result(reinterpret_cast<char*>(text), static_cast<std::size_t>(length));
  OPENSSL_free(text);
  return result;
}

std::uint64_t seconds(const ASN1_TIME* time) {
  std::tm utc{};
  if (ASN1_TIME_to_tm(time, &utc) != 1) return 0;
  return static_cast<std::uint64_t>(std::max<std::time_t>(0, timegm(&utc)));
}

std::string ip_text(const ASN1_OCTET_STRING* octets) {
  const unsigned char* b = ASN1_STRING_get0_data(octets);
  if (octets->length == 4) return fmt::format("{}.{}.{}.{}", b[0], b[1], b[2], b[3]);
  if (octets->length != 16) return {};
  std::string text;
  for (int i = 0; i < 16; i += 2) {
    text += fmt::format("{}{:x}", i == 0 ? "" : ":", b[i] << 8 | b[i + 1]);
  }
  return text;
}

CertificateInfo describe(X509* certificate) {
  CertificateInfo info;
  info.name = common_name(X509_get_subject_name(certificate));
  info.issuer = common_name(X509_get_issuer_name(certificate));
  info.begins_s = seconds(X509_get0_notBefore(certificate));
  info.expires_s = seconds(X509_get0_notAfter(certificate));
  if (X509_check_ca(certificate) == 1) info.role = CertificateRole::authority;

  const auto* serial = X509_get0_serialNumber(certificate);
  info.serial = hex(serial->data, static_cast<std::size_t>(serial->length));
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (X509_digest(certificate, EVP_sha256(), digest, &length) == 1) {
    info.fingerprint_sha256 = hex(digest, length);
  }

  Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
    if (type == GEN_IPADD) {
      info.ips.push_back(ip_text(value));
      continue;
    }
    if (type != GEN_DNS && type != GEN_URI) continue;
    const std::string text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                           static_cast<std::size_t>(ASN1_STRING_length(value)));
    if (type == GEN_DNS) info.dns.push_back(text);
    for (const auto role : {CertificateRole::router, CertificateRole::node}) {
      if (type == GEN_URI &&
          text == fmt::format("{}{}/{}", uri_scheme, to_string(role), info.name)) {
        info.role = role;
      }
    }
  }
  return info;
}

}  // namespace

std::string_view to_string(CertificateRole role) {
  switch (role) {
    case CertificateRole::none: return "none";
    case CertificateRole::authority: return "authority";
    case CertificateRole::router: return "router";
    case CertificateRole::node: return "node";
  }
  return "none";
}

bool expires_soon(const CertificateInfo& certificate, std::uint64_t now_s) {
  return now_s < certificate.expires_s && certificate.expires_s - now_s < soon_s;
}

Result<CertificateInfo> make_authority(const AuthorityOptions& options, std::uint64_t now_s) {
  if (auto good = check_name(options.name); !good) return fail(good.error());
  if (auto good = check_days(options.days); !good) return fail(good.error());
  if (auto made = make_private_directory(options.directory, true); !made) return fail(made.error());
  Key key(EVP_EC_gen("P-256"));
  if (!key) return openssl_failed("cannot make a key");
  const Draft draft{options.name, now_s - clock_skew_s, now_s + options.days * day_s, true,
                    nullptr};
  auto certificate = sign(draft, key.get(), nullptr, key.get());
  if (!certificate) return fail(certificate.error());
  auto written = write_pair(options.directory / "ca.crt", pem(certificate->get()),
                            options.directory / "ca.key", pem(key.get()), options.force);
  if (!written) return fail(written.error());
  return describe(certificate->get());
}

Result<CertificateInfo> issue_certificate(const IssueOptions& options, std::uint64_t now_s) {
  if (auto good = check_name(options.name); !good) return fail(good.error());
  if (auto good = check_days(options.days); !good) return fail(good.error());
  if (options.role != CertificateRole::router && options.role != CertificateRole::node) {
    return fail(ErrorCode::invalid_argument, "a certificate is for a router or for a node");
  }
  const auto authority_key_file = options.directory / "ca.key";
  auto authority = load_certificate(options.directory / "ca.crt");
  auto authority_key = load_key(authority_key_file);
  for (const auto* error : {authority ? nullptr : &authority.error(),
                            authority_key ? nullptr : &authority_key.error()}) {
    if (error == nullptr) continue;
    Error more = *error;
    if (more.code == ErrorCode::not_found) more.message += "; `plimsoll ca init` makes a CA";
    return fail(more);
  }
  struct stat status {};
  if (::stat(authority_key_file.c_str(), &status) == 0 && (status.st_mode & 077) != 0) {
    return fail(ErrorCode::permission_denied,
                fmt::format("{0} can be read by others (mode {1:o}): chmod 600 {0}",
                            authority_key_file.string(), status.st_mode & 0777));
  }
  const auto above = describe(authority->get());
  if (X509_check_private_key(authority->get(), authority_key->get()) != 1) {
    ERR_clear_error();
    return fail(ErrorCode::failed_precondition,
                fmt::format("ca.key in {} is not the key of ca.crt", options.directory.string()));
  }
  const Draft dates{options.name, now_s - clock_skew_s, now_s + options.days * day_s, false,
                    nullptr};
  if (above.role != CertificateRole::authority || dates.expires_s > above.expires_s) {
    return fail(ErrorCode::failed_precondition,
                fmt::format("the CA '{}' is valid until {}: a certificate of {} days would outlive "
                            "it; ask for fewer --days, or make a new CA",
                            above.name, date(above.expires_s), options.days));
  }
  auto names = alternative_names(options);
  if (!names) return fail(names.error());
  Draft draft = dates;
  draft.names = names->get();
  Key key(EVP_EC_gen("P-256"));
  if (!key) return openssl_failed("cannot make a key");
  auto certificate = sign(draft, key.get(), authority->get(), authority_key->get());
  if (!certificate) return fail(certificate.error());
  if (auto made = make_private_directory(options.out, false); !made) return fail(made.error());
  auto written = write_pair(options.out / (options.name + ".crt"), pem(certificate->get()),
                            options.out / (options.name + ".key"), pem(key.get()), options.force);
  if (!written) return fail(written.error());
  return describe(certificate->get());
}

Result<CertificateInfo> read_certificate(const fs::path& file) {
  auto certificate = load_certificate(file);
  if (!certificate) return fail(certificate.error());
  return describe(certificate->get());
}

Result<CertificateInfo> check_identity(const fs::path& ca_file, const fs::path& certificate_file,
                                       const fs::path& key_file, std::uint64_t now_s) {
  auto authority = load_certificate(ca_file);
  if (!authority) return fail(authority.error());
  auto certificate = load_certificate(certificate_file);
  if (!certificate) return fail(certificate.error());
  auto key = load_key(key_file);
  if (!key) return fail(key.error());
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    ERR_clear_error();
    return fail(
        ErrorCode::failed_precondition,
        fmt::format("{} is not the key of {}", key_file.string(), certificate_file.string()));
  }
  std::unique_ptr<X509_STORE, Free<X509_STORE_free>> store(X509_STORE_new());
  std::unique_ptr<X509_STORE_CTX, Free<X509_STORE_CTX_free>> context(X509_STORE_CTX_new());
  if (!store || !context || X509_STORE_add_cert(store.get(), authority->get()) != 1 ||
      X509_STORE_CTX_init(context.get(), store.get(), certificate->get(), nullptr) != 1) {
    return openssl_failed("cannot check " + certificate_file.string());
  }
  X509_STORE_CTX_set_time(context.get(), 0, static_cast<time_t>(now_s));
  auto info = describe(certificate->get());
  if (X509_verify_cert(context.get()) == 1) return info;
  const int error = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  if (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID) {
    return fail(
        ErrorCode::failed_precondition,
        fmt::format("{} (or its CA) is valid from {} to {}, and not now; issue another with "
                    "`plimsoll ca issue {} --force`",
                    certificate_file.string(), date(info.begins_s), date(info.expires_s),
                    info.name));
  }
  return fail(ErrorCode::permission_denied,
              fmt::format("{} was not issued by the CA in {}: {}", certificate_file.string(),
                          ca_file.string(), X509_verify_cert_error_string(error)));
}

}  // namespace plimsoll
