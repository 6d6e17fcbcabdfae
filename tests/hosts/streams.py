"""Many streams at once, each in a thread that keeps what arrived and when."""

import http.client
import json
import threading
import time


class Stream(threading.Thread):
    """One completion. `text`, `times` (of each event, monotonic), `usage`, `reason`, `error`."""

    def __init__(self, cluster, number, tokens):
        super().__init__(daemon=True)
        self._host, self._port = cluster.router_host, cluster.http
        self.number, self.tokens = number, tokens
        self.text, self.times = "", []
        self.usage = self.reason = self.error = None

    def run(self):
        try:
            self._host.enter()
            self._request()
        except Exception as e:  # the test looks at it
            self.error = repr(e)

    def _request(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        body = {
            "model": "m",
            "prompt": f"stream {self.number} of the test",
            "max_tokens": self.tokens,
            "seed": self.number,
            "temperature": 1,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        if answer.status != 200:
            self.error = f"{answer.status}: {answer.read().decode()}"
            return
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                return
            event = json.loads(line[6:])
            if "error" in event:
                self.error = event["error"]
                return
            self.usage = event.get("usage") or self.usage
            for choice in event["choices"]:
                if choice["text"]:
                    self.text += choice["text"]
                    self.times.append(time.monotonic())
                self.reason = choice["finish_reason"] or self.reason
        self.error = "the stream ended without [DONE]"

    def longest_gap(self):
        return max((b - a for a, b in zip(self.times, self.times[1:])), default=0.0)


def start(cluster, count, tokens):
    streams = [Stream(cluster, number, tokens) for number in range(count)]
    for stream in streams:
        stream.start()
    return streams


def wait_for_text(streams, characters, timeout=60):
    """Until each stream has that much, or has failed."""
    until = time.monotonic() + timeout
    while any(len(s.text) < characters and s.is_alive() for s in streams):
        assert time.monotonic() < until, "the streams do not get going"
        time.sleep(0.01)


def join(streams, timeout=120):
    until = time.monotonic() + timeout
    for stream in streams:
        stream.join(max(0, until - time.monotonic()))
        assert not stream.is_alive(), f"stream {stream.number} hangs at {len(stream.text)} tokens"
    failed = [(s.number, len(s.text), s.error) for s in streams if s.error]
    assert not failed, f"{len(failed)} streams failed, such as {failed[:3]}"


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]
