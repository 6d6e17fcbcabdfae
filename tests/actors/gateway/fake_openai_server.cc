// The HTTP gateway before a FakeFrontend, for trying clients by hand:
//   fake_openai_server [PORT]
#include <signal.h>

#include <cstdio>
#include <cstdlib>

#include "actors/gateway/http_gateway.h"
#include "tests/actors/gateway/busy_console.h"
#include "tests/actors/gateway/fake_frontend.h"

int main(int argc, char** argv) {
  plimsoll::HttpConfig config;
  config.listen.port = static_cast<std::uint16_t>(argc > 1 ? std::atoi(argv[1]) : 0);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  plimsoll::FakeFrontend frontend;
  frontend.token_delay_us = 1000;
  frontend.limits = plimsoll::RateLimits{{60, 59, 1}, {1000, 900, 2}, {500, 100, 400}};
  frontend.console_view = plimsoll::busy_console();
  auto gateway = plimsoll::HttpGateway::start(config, frontend, plimsoll::process_ledger());
  if (!gateway) {
    std::fprintf(stderr, "%s\n", gateway.error().message.c_str());
    return 1;
  }
  std::printf("http://127.0.0.1:%d\n", (*gateway)->port());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
}
