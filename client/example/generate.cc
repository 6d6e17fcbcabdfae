// Streams an answer from a Plimsoll cluster: generate [HOST:PORT] [QUESTION]
#include <plimsoll/client.h>

#include <iostream>

int main(int argc, char** argv) {
  plimsoll::client::Options options;
  if (argc > 1) options.addresses = {argv[1]};
  const std::string question = argc > 2 ? argv[2] : "Why is the sky blue?";
  try {
    plimsoll::client::Client client(options);
    plimsoll::client::GenerateRequest request;
    for (const auto& model : client.models()) {
      if (model.kind == "causal") request.model = model.name;
    }
    request.messages = {{"user", question}};
    request.max_tokens = 64;
    request.temperature = 0;
    const auto answer = client.generate(request, [](const auto& delta) {
      std::cout << delta.text << std::flush;
      return true;  // false would cancel
    });
    std::cout << "\n" << answer.usage.completion_tokens << " tokens\n";
  } catch (const plimsoll::client::Error& error) {
    std::cerr << error.code << ": " << error.what() << "\n";
    return 1;
  }
}
