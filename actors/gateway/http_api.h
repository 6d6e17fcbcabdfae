// The endpoints: who may call what, and what is answered.
#pragma once

#include "actors/frontend.h"
#include "actors/gateway/http_connection.h"
#include "actors/gateway/openai_request.h"
#include "actors/gateway/openai_response.h"

namespace plimsoll {

class RunningCalls;

class HttpApi final : public HttpHandler {
 public:
  HttpApi(Frontend& frontend, HttpShared& shared) : frontend_(frontend), shared_(shared) {}

  asio::awaitable<void> answer(HttpConnection& connection) override;

 private:
  enum class Endpoint : std::uint8_t;

  Result<Caller> authenticate(const HttpHead& head) const;
  HttpResponse look_up(Endpoint endpoint, const HttpHead& head) const;
  HttpResponse about() const;
  HttpResponse ready() const;
  HttpResponse metrics(const HttpHead& head) const;
  HttpResponse console_data(const HttpHead& head) const;
  HttpResponse models(const HttpHead& head, bool one) const;

  asio::awaitable<void> call(HttpConnection& connection, Endpoint endpoint);
  // `memory` is the request's until the frontend has its own, then an answer's in one piece.
  asio::awaitable<void> generate(HttpConnection& connection, Caller caller, GenerationCall call,
                                 RequestLease memory);
  asio::awaitable<void> answer_whole(HttpConnection& connection, RunningCalls& calls,
                                     AnswerHead head, std::uint32_t choices, RequestLease memory);
  asio::awaitable<void> answer_stream(HttpConnection& connection, RunningCalls& calls,
                                      AnswerHead head, std::uint32_t choices);
  asio::awaitable<void> embed(HttpConnection& connection, Caller caller, EmbeddingCall call,
                              RequestLease memory);
  AnswerHead make_head(const GenerationCall& call) const;

  Frontend& frontend_;
  HttpShared& shared_;
};

}  // namespace plimsoll
