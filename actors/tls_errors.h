// Keeps the errors of one TLS connection from being taken for another's.
#pragma once

namespace plimsoll {

// CAF 0.17 reads and writes TLS on one thread without clearing OpenSSL's queue of errors first,
// which is the thread's and not the connection's. A peer that was killed, or a handshake that
// failed, leaves an error there, and SSL_get_error(3) then reports it for the next connection that
// merely has to wait: one lost node would cut off all the others, and so could anyone who can reach
// the port. SSL_read, SSL_write, SSL_connect and SSL_accept of this process therefore clear the
// queue first.
//
// They are in force wherever they are linked; calling this links them. Aborts if they are not.
void keep_tls_errors_apart();

}  // namespace plimsoll
