"""schema/inference.capnp from Python: streaming into a sink, back-pressure, cancellation."""

import asyncio
import json
import socket
import time

import capnp
from conftest import CHAT, EMBED, ROOT

capnp.remove_import_hook()
schema = capnp.load(str(ROOT / "schema/inference.capnp"), imports=["/usr/include"])


class Sink(schema.TokenSink.Server):
    def __init__(self, delay=0.0):
        self.text, self.reasons, self.pushes, self.delay = "", {}, 0, delay

    async def push(self, delta, **_):
        if self.delay:
            await asyncio.sleep(self.delay)
        self.text += delta.text
        self.pushes += 1

    async def done(self, choice, reason, **_):
        self.reasons[choice] = str(reason)


async def connect(server):
    host, port = server.rpc.rsplit(":", 1)
    stream = await capnp.AsyncIoStream.create_connection(host=host, port=int(port))
    client = capnp.TwoPartyClient(stream)
    gateway = client.bootstrap().cast_as(schema.Gateway)
    return client, gateway, (await gateway.login("")).session


def request(**fields):
    tokens = fields.pop("maxTokens", 16)
    message = schema.GenerateRequest.new_message(
        model=CHAT, maxTokens=tokens, temperature=0, **fields
    )
    message.input.prompt = "The lighthouse keeper"
    return message


def run(coroutine):
    return asyncio.run(capnp.run(coroutine))


def running(server):
    engines = json.loads(server.cli("status", "-o", "json").stdout)["nodes"][0]["engines"]
    return sum(e["running"] + e["waiting"] + e["paused"] for e in engines)


def wait_idle(server, seconds=5):
    end = time.monotonic() + seconds
    while running(server) and time.monotonic() < end:
        time.sleep(0.05)
    return running(server) == 0


def test_streams_into_the_callers_sink(server):
    async def main():
        _, gateway, session = await connect(server)
        assert (await gateway.ping()).ready
        sink = Sink()
        result = await session.generate(request(), sink)
        assert sink.text and sink.pushes > 1
        assert sink.reasons == {0: "length"}
        assert result.usage.completionTokens == 16
        again = Sink()
        await session.generate(request(), again)
        assert again.text == sink.text

    run(main())


def test_errors_are_typed(server):
    async def main():
        _, _, session = await connect(server)
        bad = request()
        bad.model = "no-such-model"
        result = await session.generate(bad, Sink())
        assert result.error.code == "not_found" and "no-such-model" in result.error.message
        bad = request()
        bad.temperature = float("nan")
        result = await session.generate(bad, Sink())
        assert (result.error.code, result.error.param) == ("invalid_argument", "temperature")

    run(main())


def test_an_answer_goes_on_behind_what_was_received(server):
    class Keeper(Sink):
        def __init__(self):
            super().__init__()
            self.seen = []  # (ids, text) after each push

        async def push(self, delta, **_):
            await super().push(delta)
            ids = self.seen[-1][0] if self.seen else []
            self.seen.append((ids + list(delta.ids), self.text))

    async def main():
        _, _, session = await connect(server)
        asked = request(requestId="trip-1")
        asked.seed.fixed = 5
        asked.temperature = 0.8
        asked.stop = [" the sea", "."]
        whole = Keeper()
        usage = (await session.generate(asked, whole)).usage
        for ids, text in whole.seen[:: max(1, len(whole.seen) // 4)] + whole.seen[-1:]:
            again = asked.copy()
            received = again.init("resume", 1)
            received[0].ids, received[0].textBytes = ids, len(text.encode())
            rest = Sink()
            result = await session.generate(again, rest)
            assert text + rest.text == whole.text
            assert rest.reasons == whole.reasons
            assert result.usage.completionTokens == usage.completionTokens
        lost = request()
        lost.init("resume", 1)
        result = await session.generate(lost, Sink())
        assert (result.error.code, result.error.param) == ("invalid_argument", "seed")

    run(main())


def test_embeds(server):
    async def main():
        _, _, session = await connect(server)
        result = await session.embed(EMBED, ["a cat", "a kitten", "the stock exchange"])
        a, b, c = ([x for x in row] for row in result.embeddings)
        dot = lambda x, y: sum(i * j for i, j in zip(x, y))
        assert dot(a, b) > dot(a, c) + 0.2

    run(main())


def paused(server):
    nodes = json.loads(server.cli("status", "-o", "json").stdout)["nodes"]
    return sum(engine["paused"] for engine in nodes[0]["engines"])


def test_a_slow_sink_holds_the_sequence_back(server):
    """With a sink that takes its time, the server pauses instead of buffering without end."""

    async def main():
        _, _, session = await connect(server)
        slow = asyncio.ensure_future(
            session.generate(request(maxTokens=2000, ignoreEos=True), Sink(delay=0.05))
        )
        until = time.monotonic() + 20
        while await asyncio.to_thread(paused, server) != 1:
            assert time.monotonic() < until, "it never paused"
            await asyncio.sleep(0.2)
        quick = Sink()  # and slows no other
        start = time.monotonic()
        await session.generate(request(), quick)
        assert quick.text and time.monotonic() - start < 5
        slow.cancel()

    run(main())
    assert wait_idle(server)


def test_dropping_the_promise_cancels(server):
    async def main():
        _, _, session = await connect(server)
        sink = Sink()
        call = asyncio.ensure_future(
            session.generate(request(maxTokens=4000, ignoreEos=True), sink)
        )
        while sink.pushes < 3:
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.sleep(0.2)

    run(main())
    assert wait_idle(server)


def test_a_lost_connection_cancels(server):
    async def main():
        client, _, session = await connect(server)
        sink = Sink()
        call = asyncio.ensure_future(
            session.generate(request(maxTokens=4000, ignoreEos=True), sink)
        )
        while sink.pushes < 3:
            await asyncio.sleep(0.01)
        client.close()
        call.cancel()

    run(main())
    assert wait_idle(server)


def test_garbage_hurts_nobody(server):
    host, port = server.rpc.rsplit(":", 1)
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\x00" * 4096, b""):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(junk)
    assert server.cli("status").returncode == 0
