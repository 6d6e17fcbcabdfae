#include "actors/tls_errors.h"

#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <memory>

namespace plimsoll {
namespace {

// What is left of another connection of the thread, as a peer's sudden end leaves it.
void leave_an_error() { ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING); }

TEST(TlsErrors, ADeadConnectionDoesNotEndTheNext) {
  keep_tls_errors_apart();
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_method()),
                                                                  SSL_CTX_free);
  for (const bool client : {true, false}) {
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
    SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    client ? SSL_set_connect_state(ssl.get()) : SSL_set_accept_state(ssl.get());
    leave_an_error();
    const int shaken = client ? SSL_connect(ssl.get()) : SSL_accept(ssl.get());
    EXPECT_EQ(SSL_get_error(ssl.get(), shaken), SSL_ERROR_WANT_READ);
    char byte = 0;
    leave_an_error();
    EXPECT_EQ(SSL_get_error(ssl.get(), SSL_read(ssl.get(), &byte, 1)), SSL_ERROR_WANT_READ);
    leave_an_error();
    EXPECT_EQ(SSL_get_error(ssl.get(), SSL_write(ssl.get(), &byte, 1)), SSL_ERROR_WANT_READ);
  }
  ERR_clear_error();
}

}  // namespace
}  // namespace plimsoll
