"""The cache on disk of a whole server: a prefix that was computed once is read after a restart, with
the same answer; damage costs only time; what is over is counted."""

import json
import pathlib
import random
import signal
import time
import urllib.request

import pytest
from conftest import CHAT, Server, need_models


@pytest.fixture(autouse=True)
def chat_model():
    need_models(CHAT)


class Served:
    def __init__(self, directory, *options):
        self.server = Server("--cache-directory", str(directory), *options, models=(CHAT,))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop()

    def answer(self, prompt):
        """The answer's text, seconds to its first token, and how much of the prompt was cached."""
        body = {"model": CHAT, "prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}
        request = urllib.request.Request(f"{self.server.url}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        text, first, cached = "", None, None
        begin = time.monotonic()
        with urllib.request.urlopen(request, timeout=300) as stream:
            for line in stream:
                line = line.decode().strip()
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    cached = event["usage"]["prompt_tokens_details"]["cached_tokens"]
                for choice in event["choices"]:
                    first = first or time.monotonic() - begin
                    text += choice["text"]
        return text, first, cached

    def metric(self, name, **labels):
        with urllib.request.urlopen(f"{self.server.url}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.split("{")[0].split(" ")[0] == name
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )


def prompt_of(seed, words=1400):
    rng = random.Random(seed)
    return " ".join(rng.choice(["ship", "harbour", "wind", "rope", "north", "sail", "deck", "load"])
                    for _ in range(words))


def bytes_in(directory):
    return sum(file.stat().st_size for file in pathlib.Path(directory).rglob("*") if file.is_file())


def test_a_prefix_survives_a_restart_and_damage(tmp_path):
    prompt = prompt_of(1)
    with Served(tmp_path) as served:
        text, cold, cached = served.answer(prompt)
        assert cached == 0
        again, memory, cached = served.answer(prompt)
        assert again == text and cached > 1000
        served.answer(prompt_of(3, 10))
    with Served(tmp_path) as served:
        served.answer(prompt_of(2, 10))
        again, disk, cached = served.answer(prompt)
        assert again == text
        assert cached > 1000
        assert served.metric("plimsoll_cache_lookups_total", kind="prefix", result="hit") > 60
        assert served.metric("plimsoll_cache_writable") == 1
        print(f"first token: cold {cold:.3f} s, memory {memory:.3f} s, disk {disk:.3f} s")
        assert disk < cold / 2
    for file in tmp_path.rglob("*.sst"):
        damaged = bytearray(file.read_bytes())
        for at in range(0, len(damaged), 50_000):
            damaged[at] ^= 0xFF
        file.write_bytes(damaged)
    with Served(tmp_path) as served:
        again, _, _ = served.answer(prompt)
        assert again == text
        assert "event=cache_trouble" in served.server.log_text()


def test_evictions_and_a_kill_leave_what_is_within_bounds(tmp_path):
    # Memory for about 1300 tokens.
    small = ("--engine-kv-memory", "30MiB", "--engine-context-tokens", "1024", "--cache-bytes", "40MiB")
    prompts = [prompt_of(seed, 600) for seed in range(6)]
    with Served(tmp_path, *small) as served:
        texts = [served.answer(prompt)[0] for prompt in prompts]
        for seed, prompt in enumerate(prompts[-2:], len(prompts) - 2):
            text, _, _ = served.answer(prompt)
            assert text == texts[seed]
        deadline = time.monotonic() + 30
        while served.metric("plimsoll_cache_entries", kind="prefix") < 50:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert bytes_in(tmp_path) <= 40 << 20
        served.server.process.send_signal(signal.SIGKILL)
        served.server.process.wait()
    with Served(tmp_path, *small) as served:
        assert bytes_in(tmp_path) <= 40 << 20
        assert [served.answer(prompt)[0] for prompt in prompts] == texts
        assert served.metric("plimsoll_cache_lookups_total", kind="prefix", result="hit") > 0
