"""A rolling restart loses no request: each node in turn ends and comes back, under a constant load.

The load is new streams all the time and long ones that outlast a node's drain, so that some end in
time and some have to move. Every one must end well, with the text of an undisturbed run.
"""

import json
import re
import threading

import pytest
from streams import Stream

CLIENTS = 24
PROMPTS = 32  # that the clients' streams take turns with
LONG = 600  # tokens: longer than a drain
DRAIN_MS = 1500
STEP_MS = 10


class Load:
    """Clients, each with one stream after the other, until end()."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.streams = []
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _client(self, number):
        while not self._stop.is_set():
            with self._lock:
                count = len(self.streams)
                tokens = LONG if number % 3 == 0 else 10 + count * 7 % 60
                stream = Stream(self._cluster, count % PROMPTS, tokens)
                self.streams.append(stream)
            stream.run()

    def end(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a stream hangs"
        return self.streams


@pytest.fixture(scope="session")
def texts():
    """Each prompt's text, from an undisturbed run."""
    return {}


@pytest.fixture
def expected(texts, local_cluster):
    if not texts:
        quiet = local_cluster(nodes=1, step_ms=1)
        running = [Stream(quiet, number, LONG) for number in range(PROMPTS)]
        for stream in running:
            stream.start()
        for stream in running:
            stream.join(120)
            assert stream.error is None and len(stream.text) == LONG
        texts.update({s.number: s.text for s in running})
        quiet.close()
    return texts


def counted(cluster, name, **labels):
    """The sum of a counter's series with these labels."""
    status, text = cluster.get("/metrics")
    assert status == 200
    total = 0
    for series, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{label}"' in series for key, label in labels.items()):
            total += float(value)
    return total


def sigterm(cluster, name):
    cluster.restart(name)


def drain_and_sigterm(cluster, name):
    done = cluster.cli("cluster", "drain", name, "--deadline", "1s", "--yes", "--output", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cut"] == 0
    cluster.restart(name)


@pytest.mark.parametrize("upgrade", [sigterm, drain_and_sigterm])
def test_a_rolling_restart_loses_no_request(local_cluster, expected, request, upgrade):
    rounds = 5 if request.config.getoption("--long") else 1
    three = local_cluster(step_ms=STEP_MS, node_options=("--drain-ms", DRAIN_MS))
    load = Load(three)
    try:
        for _ in range(rounds):
            for name in list(three.nodes):
                upgrade(three, name)
    finally:
        streams = load.end()

    failed = [(s.number, s.tokens, len(s.text), s.error) for s in streams if s.error]
    assert not failed, f"{len(failed)} of {len(streams)} streams failed, such as {failed[:3]}"
    for stream in streams:
        assert stream.reason == "length"
        assert stream.text == expected[stream.number][: stream.tokens]
        assert stream.usage["completion_tokens"] == stream.tokens

    # No request or token was counted twice either, ...
    assert counted(three, "plimsoll_requests_total") == len(streams)
    tokens = counted(three, "plimsoll_tokens_total", kind="generated")
    assert tokens == sum(s.tokens for s in streams)
    # ... every node that left had nothing any more, and what was left to move has moved.
    assert sorted(three.lost()) == sorted((name, 0) for name in list(three.nodes) * rounds)
    assert "event=replay" in three.router.log()
