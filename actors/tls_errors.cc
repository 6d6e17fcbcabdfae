#include "actors/tls_errors.h"

#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <cstdlib>

namespace {

// The library's own function, which the process's of the same name hides.
template <class Function>
Function* library(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int SSL_read(SSL* ssl, void* buffer, int bytes) {
  static auto* const next = library<int(SSL*, void*, int)>("SSL_read");
  ERR_clear_error();
  return next(ssl, buffer, bytes);
}

int SSL_write(SSL* ssl, const void* buffer, int bytes) {
  static auto* const next = library<int(SSL*, const void*, int)>("SSL_write");
  ERR_clear_error();
  return next(ssl, buffer, bytes);
}

int SSL_connect(SSL* ssl) {
  static auto* const next = library<int(SSL*)>("SSL_connect");
  ERR_clear_error();
  return next(ssl);
}

int SSL_accept(SSL* ssl) {
  static auto* const next = library<int(SSL*)>("SSL_accept");
  ERR_clear_error();
  return next(ssl);
}

}  // extern "C"

namespace plimsoll {

void keep_tls_errors_apart() {
  // What other libraries of the process find under the name is the function here.
  if (dlsym(RTLD_DEFAULT, "SSL_read") != reinterpret_cast<void*>(&SSL_read)) std::abort();
}

}  // namespace plimsoll
