"""The command line against a running server."""

import json
import os
import subprocess

import pexpect
from conftest import BINARY, CHAT, EMBED


def test_generate_streams_text_and_is_reproducible(server):
    words = ("generate", "The ship left port and", "--max-tokens", "12", "--seed", "7")
    first, second = server.cli(*words), server.cli(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() and first.stdout == second.stdout


def test_generate_json_reports_usage(server):
    done = server.cli("generate", "One two three", "-n", "5", "-t", "0", "-o", "json")
    answer = json.loads(done.stdout)
    assert answer["model"] == CHAT
    assert answer["usage"]["completion_tokens"] <= 5
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


def test_generate_reads_standard_input(server):
    done = server.cli("generate", "-", "-n", "3", "-t", "0", "--echo", input="Hello from a pipe")
    assert done.stdout.startswith("Hello from a pipe")


def test_embed_gives_unit_vectors(server):
    done = server.cli("embed", "a cat", "a dog", "-o", "json")
    answer = json.loads(done.stdout)
    assert answer["model"] == EMBED and len(answer["embeddings"]) == 2
    for vector in answer["embeddings"]:
        assert len(vector) == 384
        assert abs(sum(x * x for x in vector) - 1) < 1e-3


def test_status_and_models(server):
    status = json.loads(server.cli("status", "-o", "json").stdout)
    assert status["pressure"] in ("green", "yellow", "orange", "red")
    assert status["nodes"][0]["state"] == "ready"
    names = {m["name"] for m in json.loads(server.cli("models", "-o", "json").stdout)}
    assert names == {CHAT, EMBED}
    assert CHAT in server.cli("models").stdout and "NODE" in server.cli("status").stdout


def test_exit_codes(server):
    assert server.cli("generate", "x", "--model", "no-such-model").returncode == 4
    assert subprocess.run([BINARY, "nonsense"], capture_output=True).returncode == 2
    nobody = subprocess.run(
        [BINARY, "status", "--address", "127.0.0.1:1"], capture_output=True, text=True
    )
    assert nobody.returncode == 3 and "127.0.0.1:1" in nobody.stderr


def test_chat_streams_and_ctrl_c_stops_the_answer_only(server):
    chat = pexpect.spawn(
        BINARY, ["chat", "--address", server.rpc, "--seed", "1"], encoding="utf-8", timeout=30,
        env={**os.environ, "TERM": "dumb"},
    )
    chat.expect("Chatting with " + CHAT)
    chat.expect("> ")
    chat.sendline("Write a very long story about a lighthouse, with many chapters.")
    chat.expect(r"\w+ \w+ \w+ \w+ \w+ \w+ \w+ \w+")  # it has begun to answer
    chat.sendintr()
    chat.expect(r"\[stopped\]")
    chat.expect("> ")
    chat.sendintr()  # at the prompt it does not end the program
    chat.sendline("/help")
    chat.expect("forget the conversation")
    chat.sendline("/exit")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_configuration_is_checked_and_shown(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("engine:\n  max_batch: -1\n")
    done = subprocess.run(
        [BINARY, "config", "check", "--config", str(config)], capture_output=True, text=True
    )
    assert done.returncode == 2 and "bad.yaml:2: engine.max_batch" in done.stderr
    shown = subprocess.run([BINARY, "config", "show"], capture_output=True, text=True).stdout
    good = tmp_path / "good.yaml"
    good.write_text(shown)
    assert subprocess.run([BINARY, "config", "check", "-c", str(good)]).returncode == 0


def test_completion_scripts_name_the_verbs():
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run([BINARY, "completion", shell], capture_output=True, text=True)
        assert script.returncode == 0 and "memory" in script.stdout
    subprocess.run(["bash", "-n"], input=subprocess.run(
        [BINARY, "completion", "bash"], capture_output=True, text=True).stdout, text=True, check=True)


def test_beyond_loopback_is_refused_without_keys_and_tls():
    done = subprocess.run(
        [BINARY, "serve", "--http-listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2 and "tls_certificate" in done.stderr
