"""The cache on disk of a whole server: a prefix, or a vector, that was computed once is read after a
restart, with the same answer; damage costs only time; what is over is counted."""

import hashlib
import json
import pathlib
import random
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from conftest import BINARY, CHAT, EMBED, Server, need_models


@pytest.fixture(autouse=True)
def chat_model():
    need_models(CHAT)


class Served:
    def __init__(self, directory, *options, models=(CHAT,)):
        self.server = Server("--cache-directory", str(directory), *options, models=models)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop()

    def answer(self, prompt, key="", meanwhile=None, **fields):
        """The answer's text, seconds to its first token, and how much of the prompt was cached. `meanwhile`
        is called after the first token."""
        body = {"model": CHAT, "prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}, **fields}
        request = urllib.request.Request(f"{self.server.url}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        if key:
            request.add_header("Authorization", f"Bearer {key}")
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
                    if first is None:
                        first = time.monotonic() - begin
                        if meanwhile:
                            meanwhile()
                    text += choice["text"]
        return text, first, cached

    def embed(self, texts):
        """The vectors as base64, bit for bit, and what it says was used."""
        body = {"model": EMBED, "input": texts, "encoding_format": "base64"}
        request = urllib.request.Request(f"{self.server.url}/v1/embeddings", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer = json.load(answer)
        return [item["embedding"] for item in answer["data"]], answer["usage"]

    def metric(self, name, **labels):
        with urllib.request.urlopen(f"{self.server.url}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.split("{")[0].split(" ")[0] == name
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )

    def waits_for(self, value, name, **labels):
        deadline = time.monotonic() + 30
        while self.metric(name, **labels) != value:
            assert time.monotonic() < deadline, f"{name} is not {value}"
            time.sleep(0.1)

    def cache(self, *words, code=0):
        """What a verb of `plimsoll cache` says, or, where it is refused, why."""
        done = self.server.cli("cache", *words, "-o", "json", split=True)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; what it gives makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "plimsoll-test", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_nothing_but_what_it_cannot_hold(small_disk):
    folder, grow = small_disk
    small = ("--engine-kv-memory", "30MiB", "--engine-context-tokens", "1024")
    prompts = [prompt_of(seed, 600) for seed in range(30, 36)]
    with Served(folder / "cache", *small) as served:
        texts = [served.answer(prompt)[0] for prompt in prompts]
        served.waits_for(0, "plimsoll_cache_writable")
        (node,) = served.cache("status")
        assert "space" in node["trouble"], node
        assert [served.answer(prompt)[0] for prompt in prompts] == texts
        grow()
        stored = served.metric("plimsoll_cache_written_bytes_total")
        deadline = time.monotonic() + 40  # it tries again every ten seconds
        while served.metric("plimsoll_cache_writable") == 0:
            assert time.monotonic() < deadline
            assert [served.answer(prompt)[0] for prompt in prompts] == texts
        assert served.metric("plimsoll_cache_written_bytes_total") > stored
    with Served(folder / "cache", *small) as served:
        assert [served.answer(prompt)[0] for prompt in prompts] == texts
        assert served.metric("plimsoll_cache_lookups_total", kind="prefix", result="hit") > 0


def test_what_shall_not_be_stored_is_not(tmp_path):
    prompts = {who: prompt_of(seed, 600) for seed, who in enumerate(("open", "asked", "tenant"), 10)}
    with Served(tmp_path) as served:
        done = served.server.cli("tenant", "create", "secretive", "--cache", "no-store", split=True)
        assert done.returncode == 0, done.stderr
        key = done.stdout.strip()
        served.answer(prompts["open"])
        text, _, _ = served.answer(prompts["asked"], cache="no-store")
        _, _, cached = served.answer(prompts["asked"], cache="no-store")
        assert cached > 400, "memory is not the disk"
        served.answer(prompts["tenant"], key=key)
        with pytest.raises(urllib.error.HTTPError) as refused:
            served.answer("x", cache="never")
        assert refused.value.code == 400
        error = json.loads(refused.value.read())["error"]
        assert error["param"] == "cache" and "no-store" in error["message"]
    with Served(tmp_path) as served:
        rows = [row for node in served.cache("status") for row in node["rows"]]
        assert {row["tenant"] for row in rows} == {"local"}
        blocks = rows[0]["entries"]
        assert served.answer(prompts["asked"])[0] == text
        assert served.metric("plimsoll_cache_lookups_total", kind="prefix", result="hit") == 0
        _, _, cached = served.answer(prompts["open"])
        assert 400 < cached <= 16 * blocks


def test_an_operator_sees_and_sets_the_cache(tmp_path):
    with Served(tmp_path) as served:
        prompts = [prompt_of(seed, 600) for seed in (20, 21)]
        for prompt in prompts:
            served.answer(prompt)
    with Served(tmp_path) as served:
        (node,) = served.cache("status")
        assert node["bytes"] > 1 << 20 and node["limit_bytes"] > 4e9 and node["trouble"] == ""
        (row,) = node["rows"]
        assert (row["tenant"], row["kind"], row["ttl_ms"]) == ("local", "prefix", 24 * 3600 * 1000)
        assert row["bytes"] == node["bytes"] and row["entries"] > 70
        served.answer(prompts[0])
        (row,) = served.cache("status", "--node", node["node"])[0]["rows"]
        assert row["hits_total"] > 30 and row["hit_rate"] > 0
        deadline = time.monotonic() + 10  # it comes with a heartbeat
        while served.metric("plimsoll_restored_tokens_total") <= 400:
            assert time.monotonic() < deadline
            time.sleep(0.1)

        young = served.cache("purge", "--all", "--older-than", "1h", "--yes")
        assert young["entries"] == 0
        assert "nobody" in served.cache("purge", "--tenant", "nobody", "--yes", code=4)
        assert "no-such" in served.cache("status", "--node", "no-such", code=4)
        assert "30 days" in served.cache("set-ttl", "--kind", "prefix", "--tenant", "local", "721h", code=4)
        gone = served.cache("purge", "--tenant", "local", "--kind", "prefix", "--yes")
        assert gone["entries"] == row["entries"] == gone["nodes"][0]["entries"]
        (row,) = served.cache("status")[0]["rows"]
        assert row["bytes"] == row["entries"] == 0 and row["purged_total"] == gone["entries"]

        served.cache("set-ttl", "--kind", "prefix", "2h")
        served.cache("set-quota", "--tenant", "local", "0")
        served.cache("set-ttl", "--kind", "tokens", "--tenant", "local", "1h")
        (row,) = served.cache("status")[0]["rows"]
        assert row["quota_bytes"] == 0 and row["ttl_ms"] == 2 * 3600 * 1000
        shown = json.loads(served.server.cli("tenant", "show", "local", "-o", "json", split=True).stdout)
        assert shown["disk_cache_bytes"] == 0 and shown["disk_cache_ttl_ms"] == {"tokens": 3600 * 1000}
        served.cache("set-ttl", "--kind", "prefix", "default")
        served.cache("set-quota", "--tenant", "local", "default")
        (row,) = served.cache("status")[0]["rows"]
        assert row["quota_bytes"] > 1 << 30 and row["ttl_ms"] == 24 * 3600 * 1000


def test_a_purge_takes_what_memory_holds(tmp_path):
    mine, running, others = prompt_of(40, 600), prompt_of(41, 600), prompt_of(42, 600)
    with Served(tmp_path) as served:
        done = served.server.cli("tenant", "create", "acme-shipping", split=True)
        key = done.stdout.strip()
        served.answer(others)
        served.answer(mine, key=key)
        _, _, cached = served.answer(mine, key=key)
        assert cached > 400
        # One goes on while it is purged.
        purge = lambda: served.cache("purge", "--tenant", "acme-shipping", "--yes")
        served.answer(running, key=key, meanwhile=purge, max_tokens=64, ignore_eos=True)
        _, _, cached = served.answer(mine, key=key, cache="no-store")
        assert cached == 0
        _, _, cached = served.answer(others)
        assert cached > 400, "another's stays"
    # What was in memory has gone to the disk at the end.
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"local" in content for content in files)
    assert not any(b"acme-shipping" in content for content in files)
    with Served(tmp_path) as served:
        rows = [row for node in served.cache("status") for row in node["rows"]]
        assert {row["tenant"] for row in rows} == {"local"}


def test_the_file_says_what_of_a_tenant_is_stored(tmp_path):
    names = ("boss", "nothing", "some")
    digests = {name: hashlib.sha256(f"pk-{name}".encode()).hexdigest() for name in names}
    config = tmp_path / "plimsoll.yaml"
    config.write_text(f"""
tenants:
  - {{name: boss, operator: true, api_key_sha256: {digests["boss"]}, cache: {{store: false}}}}
  - {{name: nothing, api_key_sha256: {digests["nothing"]}, cache: {{bytes: 0}}}}
  - name: some
    api_key_sha256: {digests["some"]}
    cache:
      bytes: 1GiB
      ttl: {{prefix: 2h}}
""")
    options = (tmp_path / "cache", "--config", str(config))
    with Served(*options) as served:
        for seed, name in enumerate(names, 50):
            served.answer(prompt_of(seed, 200), key=f"pk-{name}")
    with Served(*options) as served:
        served.answer(prompt_of(52, 200), key="pk-some")
        rows = [row for node in served.cache("status", "--api-key", "pk-boss") for row in node["rows"]]
        assert {row["tenant"] for row in rows if row["entries"]} == {"some"}
        (row,) = (row for row in rows if row["tenant"] == "some")
        assert (row["quota_bytes"], row["ttl_ms"]) == (1 << 30, 2 * 3600 * 1000)


def test_where_no_cache_is_configured_it_says_so(tmp_path):
    server = Server("--engine-kv-memory", "64MiB", models=(CHAT,))
    done = server.cli("cache", "status", split=True)
    server.stop()
    assert done.returncode == 4 and "cache.directory" in done.stderr


class Process:
    """A router or a node; `find` waits for what it prints."""

    def __init__(self, log, *words):
        self.log = log
        with log.open("a") as out:
            self.process = subprocess.Popen([BINARY, *map(str, words)], stdout=out, stderr=out)

    def find(self, pattern):
        deadline = time.monotonic() + 60
        while not (found := re.findall(pattern, self.log.read_text())):
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return found[-1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()


def test_a_router_reaches_its_nodes_caches(tmp_path):
    def start_router(door, log):
        return Process(tmp_path / log, "router", "--model", CHAT, "--cluster-listen", f"127.0.0.1:{door}",
                       "--cluster-name", "router", "--cluster-state-directory", tmp_path / "router",
                       "--http-listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0")

    def cache(*words, code=0):
        done = subprocess.run([BINARY, "cache", *words, "--address", rpc, "-o", "json"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    def wait_for(condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    router = start_router(0, "router.log")
    rpc = router.find(r"RPC +(\S+:\d+)")
    door = router.find(r"nodes +\S+:(\d+)")
    nodes = [
        Process(tmp_path / f"{name}.log", "node", "--model", CHAT, "--cluster-name", name,
                "--cluster-state-directory", tmp_path / name, "--engine-kv-memory", "64MiB",
                "--engine-threads", 1, "--join", f"127.0.0.1:{door}", *options)
        for name, options in (("caching", ["--cache-directory", tmp_path / "cache"]), ("plain", []))
    ]
    ready = lambda: subprocess.run(
        [BINARY, "cluster", "nodes", "--address", rpc, "-o", "json"], capture_output=True, text=True
    ).stdout.count('"ready"')
    wait_for(lambda: ready() == 2)
    url = router.find(r"OpenAI\s+(\S+)/v1")
    # A request each, to both nodes or one: then its cache knows the tenant.
    body = {"model": CHAT, "prompt": prompt_of(30, 100), "max_tokens": 1}
    for prompt in range(8):
        body["prompt"] = prompt_of(30 + prompt, 100)
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).read()

    assert [node["node"] for node in cache("status")] == ["caching"], "the other one has none"
    assert "cache.directory" in cache("status", "--node", "plain", code=4)
    assert cache("purge", "--all", "--yes")["nodes"] == [{"node": "caching", "entries": 0}]
    cache("set-ttl", "--kind", "prefix", "--node", "caching", "3h")
    cache("set-quota", "--tenant", "local", "1MiB")
    rows = cache("status")[0]["rows"]
    assert all(row["ttl_ms"] == 3 * 3600 * 1000 and row["quota_bytes"] == 1 << 20 for row in rows)
    # The record outlives the router, and comes to a node that is started again.
    nodes[0].stop()
    router.stop()
    router = start_router(door, "router-2.log")
    rpc = router.find(r"RPC +(\S+:\d+)")
    nodes[0] = Process(tmp_path / "caching-2.log", "node", "--model", CHAT, "--cluster-name", "caching",
                       "--cluster-state-directory", tmp_path / "caching", "--engine-kv-memory", "64MiB",
                       "--engine-threads", 1, "--join", f"127.0.0.1:{door}",
                       "--cache-directory", tmp_path / "cache")
    wait_for(lambda: ready() == 2)
    rows = [row for node in cache("status") for row in node["rows"]]
    assert all(row["ttl_ms"] == 24 * 3600 * 1000 and row["quota_bytes"] == 1 << 20 for row in rows)
    for process in (*nodes, router):
        process.stop()
def test_vectors_survive_a_restart_bit_for_bit(tmp_path):
    need_models(EMBED)
    texts = [prompt_of(seed, 20 + 10 * seed) for seed in range(12)]
    with Served(tmp_path, models=(EMBED,)) as served:
        vectors, usage = served.embed(texts)
        assert len(set(vectors)) == len(texts)
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert served.metric("plimsoll_cache_lookups_total", kind="embedding", result="hit") == 0
    with Served(tmp_path, models=(EMBED,)) as served:
        other = prompt_of(99, 30)
        again, more = served.embed([*texts[:6], other, *texts[6:]])
        assert again[:6] + again[7:] == vectors
        cached = more["prompt_tokens_details"]["cached_tokens"]
        assert 0 < cached == usage["prompt_tokens"] < more["prompt_tokens"]
        assert served.metric("plimsoll_cache_lookups_total", kind="embedding", result="hit") == len(texts)
        assert served.metric("plimsoll_cache_lookups_total", kind="embedding", result="miss") == 1
        assert served.embed([other])[0] == [again[6]]
        # What was not computed is not charged for as if it had been.
        usages = json.loads(served.server.cli("tenant", "usage", "-o", "json", split=True).stdout)
        (used,) = (row for row in usages if row["tenant"] == "local")
        assert cached <= used["cached_tokens"] < used["prompt_tokens"]
        shown = json.loads(served.server.cli("embed", *texts, "-o", "json").stdout)["usage"]
        assert 0 < shown["cached_tokens"] <= shown["prompt_tokens"] == usage["prompt_tokens"]


def test_a_long_text_is_tokenized_once(tmp_path):
    prompt = prompt_of(5, 3000)
    assert len(prompt) > 16 << 10
    with Served(tmp_path) as served:
        text, _, _ = served.answer(prompt)
        assert served.metric("plimsoll_cache_lookups_total", kind="tokens", result="hit") == 0
        again, _, _ = served.answer(prompt)
        assert again == text
        assert served.metric("plimsoll_cache_lookups_total", kind="tokens", result="hit") == 1
        assert served.metric("plimsoll_cache_lookups_total", kind="tokens", result="miss") == 1
