"""The real OpenAI client against the HTTP gateway.

Runs against the server that PLIMSOLL_URL names (http://host:port), else against one of its own.
"""

import base64
import os
import pathlib
import struct
import subprocess

import openai
import pytest
from conftest import ROOT

PROMPT = "Once upon a time, there was a"
MESSAGES = [{"role": "user", "content": "Say a word about the sea."}]


@pytest.fixture(scope="module")
def client(request):
    url = os.environ.get("PLIMSOLL_URL") or request.getfixturevalue("server").url
    key = os.environ.get("PLIMSOLL_API_KEY", "none")
    return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)


def model_of_kind(client, kind):
    for model in client.models.list():
        if model.kind == kind:
            return model.id
    pytest.skip(f"the server has no {kind} model")


@pytest.fixture(scope="module")
def model(client):
    return model_of_kind(client, "causal")


@pytest.fixture(scope="module")
def embedder(client):
    return model_of_kind(client, "embedding")


def refused(error, param=None):
    """What an OpenAI client sees of a refusal of a parameter."""
    assert error.value.status_code == 400
    assert error.value.body["type"] == "invalid_request_error"
    assert error.value.body["message"]
    if param:
        assert error.value.body["param"] == param


def test_models(client, model):
    listed = client.models.list()
    assert model in [m.id for m in listed]
    one = client.models.retrieve(model)
    assert (one.id, one.object) == (model, "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.model == model and answer.created > 1_600_000_000 and answer.system_fingerprint
    assert len(answer.choices) == 1
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_chat_stream_is_the_whole_answer_in_pieces(client, model):
    call = dict(model=model, messages=MESSAGES, max_completion_tokens=12, temperature=0)
    whole = client.chat.completions.create(**call)
    chunks = list(
        client.chat.completions.create(
            **call, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks[:-1]]
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}


def test_conversation_with_parts(client, model):
    answer = client.chat.completions.create(
        model=model,
        max_tokens=4,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "joe"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "And now?"},
        ],
    )
    assert answer.choices[0].message.content


def test_completion(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT)
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage.completion_tokens <= 16  # OpenAI's default


def test_completion_stream(client, model):
    call = dict(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    whole = client.completions.create(**call)
    chunks = list(client.completions.create(**call, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_prompts_of_every_kind(client, model):
    for prompt, count in [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)]:
        answer = client.completions.create(model=model, prompt=prompt, max_tokens=2, n=2)
        assert [choice.index for choice in answer.choices] == list(range(2 * count))


def test_greedy_and_seed_repeat_themselves(client, model):
    for sampling in ({"temperature": 0}, {"temperature": 1.2, "seed": 7}):
        call = dict(model=model, prompt=PROMPT, max_tokens=12, **sampling)
        first = client.completions.create(**call).choices[0].text
        assert client.completions.create(**call).choices[0].text == first


def test_choices_differ(client, model):
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, n=3, temperature=1.5, max_tokens=16, seed=1
    )
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_streamed_choices(client, model):
    texts, reasons = {}, {}
    for chunk in client.chat.completions.create(
        model=model, messages=MESSAGES, n=2, max_tokens=4, stream=True
    ):
        choice = chunk.choices[0]
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert set(texts) == set(reasons) == {0, 1}


def test_ignore_eos_and_length(client, model):
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=40, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 40


def test_stop(client, model):
    call = dict(model=model, prompt=PROMPT, max_tokens=24, temperature=0)
    text = client.completions.create(**call).choices[0].text
    stop = text[6:9]
    for stops in (stop, ["\x01", stop]):
        answer = client.completions.create(**call, stop=stops).choices[0]
        assert answer.finish_reason == "stop"
        assert answer.text == text[: text.index(stop)]
    streamed = client.completions.create(**call, stop=stop, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == text[: text.index(stop)]


def test_logit_bias_and_penalties(client, model):
    answer = client.completions.create(
        model=model,
        prompt=PROMPT,
        max_tokens=4,
        temperature=0,
        logprobs=0,
        logit_bias={"100": 100},
        presence_penalty=0.5,
        frequency_penalty=0.5,
        extra_body={"ignore_eos": True},
    )
    assert len(set(answer.choices[0].logprobs.tokens)) == 1


def test_other_sampling_parameters(client, model):
    answer = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=4,
        top_p=0.9,
        user="u",
        store=False,
        response_format={"type": "text"},
        extra_body={"top_k": 40, "min_p": 0.05},
    )
    assert answer.choices[0].message.content is not None


def test_chat_logprobs(client, model):
    call = dict(
        model=model, messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = client.chat.completions.create(**call).choices[0]
    tokens = choice.logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens)
    assert text.decode(errors="replace").startswith(choice.message.content[:4])
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        best = token.top_logprobs[0]
        assert best.logprob == pytest.approx(token.logprob)  # greedy
        assert [t.logprob for t in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
    streamed = []
    for chunk in client.chat.completions.create(**call, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [t.token for t in streamed] == [t.token for t in tokens]


def test_legacy_logprobs_and_echo(client, model):
    choice = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=4, logprobs=2, echo=True, temperature=0
    ).choices[0]
    assert choice.text.startswith(PROMPT)
    logprobs = choice.logprobs
    count = len(logprobs.tokens)
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == count
    assert len(logprobs.text_offset) == count
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_embeddings(client, embedder):
    texts = ["a cat sits", "a cat is sitting", "the stock market fell"]
    answer = client.embeddings.create(model=embedder, input=texts)  # base64, as the client asks
    rows = [row.embedding for row in answer.data]
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b))

    assert dot(rows[0], rows[1]) > dot(rows[0], rows[2])
    plain = client.embeddings.create(model=embedder, input=texts[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(rows[0], abs=1e-4)


def test_embeddings_in_base64(client, embedder):
    raw = client.embeddings.with_raw_response.create(
        model=embedder, input="x", encoding_format="base64"
    )
    data = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    values = struct.unpack(f"<{len(data) // 4}f", data)
    assert any(values) and all(abs(value) < 100 for value in values)


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", -1),
        ("temperature", "NaN"),
        ("top_p", 0),
        ("n", 0),
        ("n", 10_000),
        ("max_tokens", -5),
        ("presence_penalty", 9),
        ("logit_bias", {"word": 1}),
        ("stop", ["x"] * 10_000),
        ("top_logprobs", 5),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("no_such_field", 1),
    ],
)
def test_bad_parameters_are_named(client, model, field, value):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(
            model=model, messages=MESSAGES, extra_body={"max_tokens": 1, field: value}
        )
    refused(error, field)


@pytest.mark.parametrize(
    "message, param",
    [
        ({"role": "king", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_bad_messages_are_named(client, model, message, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=model, messages=[message])
    refused(error, param)


def test_a_stream_is_refused_with_a_status(client):
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as error:
            client.chat.completions.create(
                model="no-such-model", messages=MESSAGES, stream=stream
            )
        assert error.value.body["message"]


def test_a_prompt_of_endless_repeats_is_refused(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt="word " * 2000, max_tokens=1)
    assert refused.value.code == "prompt_repeats"


def test_a_prompt_beyond_the_context_is_refused(client, model):
    with pytest.raises(openai.APIStatusError) as error:
        client.completions.create(model=model, prompt="word " * 200_000, max_tokens=1)
    refused(error)


def test_a_dropped_stream_leaves_the_server_well(client, model):
    for _ in range(5):
        stream = client.completions.create(
            model=model,
            prompt=PROMPT,
            max_tokens=1000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()
    assert client.completions.create(model=model, prompt=PROMPT, max_tokens=2).choices[0].text


@pytest.fixture
def limited():
    """A client of the HTTP gateway before a cluster that tells its limits and is busy."""
    build = pathlib.Path(os.environ.get("PLIMSOLL_BUILD", ROOT / "build/release"))
    binary = build / "tests/actors/gateway/fake_openai_server"
    if not os.access(binary, os.X_OK):
        pytest.skip(f"no binary {binary}; build it first")
    process = subprocess.Popen([binary], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = next(line.strip() for line in process.stdout if line.startswith("http"))
    yield openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
    process.terminate()
    process.wait(10)


LIMITS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "500",
    "x-ratelimit-remaining-tokens": "100",
    "x-ratelimit-reset-tokens": "6m40s",
}


@pytest.mark.parametrize("stream", [False, True])
def test_rate_limits_are_told_with_every_answer(limited, stream):
    raw = limited.chat.completions.with_raw_response.create(
        model="fake", messages=MESSAGES, max_tokens=4, stream=stream
    )
    assert {name: raw.headers.get(name) for name in LIMITS} == LIMITS
    with pytest.raises(openai.RateLimitError) as refused:
        limited.chat.completions.create(model="busy", messages=MESSAGES, stream=stream)
    headers = refused.value.response.headers
    assert headers["retry-after"] == "2"
    assert {name: headers.get(name) for name in LIMITS} == LIMITS
