#!/usr/bin/env python3
"""Makes tests/engine/models/golden/*.json: what reference implementations compute for the models.

    python make_models.py [smollm2] [gemma3] [minilm]

Language models: Hugging Face transformers in float32, which reads the GGUF file and expands its
weights itself. The forward pass in plain numpy below must agree with it before anything is written:
two references that share no code. Embeddings: transformers' BertModel, mean-pooled and scaled to
length 1 as sentence-transformers does. Needs: torch transformers gguf numpy llama-cpp-python (whose
tokenizer makes the token ids).
"""

import importlib.metadata
import json
import math
import os
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import dequantize

MODELS = Path(os.environ.get("PLIMSOLL_MODELS", Path.home() / ".cache/plimsoll/models"))
OUT = Path(__file__).parent.parent / "engine/models/golden"
TEXT = (OUT / "perplexity.txt").read_text()
GREEDY_TOKENS = 32
TOP = 32
SAMPLES = 256
# Where the likeliest two tokens are closer than this, float32 rounding may swap them and a greedy
# continuation proves nothing: such a prompt is not used.
GREEDY_MARGIN = 5e-3


def versions(*packages):
    return {p: importlib.metadata.version(p) for p in packages}


class NumpyDecoder:
    """Llama (RMSNorm, adjacent-pair rope, SwiGLU) and Gemma 3 from a GGUF file, no KV cache."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.fields = {k: f.contents() for k, f in reader.fields.items() if "tokens" not in k}
        self.arch = self.fields["general.architecture"]
        self.w = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32)
                  for t in reader.tensors}

    def key(self, name, default=None):
        return self.fields.get(f"{self.arch}.{name}", default)

    def rope(self, x, base):  # [tokens, heads, head_dim]
        half = x.shape[-1] // 2
        angle = np.arange(x.shape[0])[:, None] * base ** (-np.arange(half) / half)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        if self.arch == "llama":
            a, b = x[..., 0::2], x[..., 1::2]
            return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, ids):  # logits [tokens, vocab]
        eps = self.key("attention.layer_norm_rms_epsilon")
        heads, kv_heads = self.key("attention.head_count"), self.key("attention.head_count_kv")
        hidden = self.key("embedding_length")
        head_dim = self.key("attention.key_length", hidden // heads)
        gemma = self.arch == "gemma3"

        def norm(x, name):
            return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * self.w[name]

        x = self.w["token_embd.weight"][ids] * (math.sqrt(hidden) if gemma else 1.0)
        n = len(ids)
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        for layer in range(self.key("block_count")):
            p = f"blk.{layer}."
            local = gemma and (layer + 1) % 6 != 0
            base = 10000.0 if local else self.key("rope.freq_base")
            h = norm(x, p + "attn_norm.weight")
            q = (h @ self.w[p + "attn_q.weight"].T).reshape(n, heads, head_dim)
            k = (h @ self.w[p + "attn_k.weight"].T).reshape(n, kv_heads, head_dim)
            v = (h @ self.w[p + "attn_v.weight"].T).reshape(n, kv_heads, head_dim)
            if gemma:
                q, k = norm(q, p + "attn_q_norm.weight"), norm(k, p + "attn_k_norm.weight")
            q, k = self.rope(q, base), self.rope(k, base)
            seen = distance >= 0
            if local:
                seen &= distance < self.key("attention.sliding_window")
            k, v = (np.repeat(t, heads // kv_heads, 1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(head_dim)
            scores = np.where(seen, scores, -np.inf)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            a = np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1)
            a = a @ self.w[p + "attn_output.weight"].T
            x = x + (norm(a, p + "post_attention_norm.weight") if gemma else a)
            h = norm(x, p + "ffn_norm.weight")
            gate = h @ self.w[p + "ffn_gate.weight"].T
            up = h @ self.w[p + "ffn_up.weight"].T
            if gemma:
                gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi)
                                                 * (gate + 0.044715 * gate**3)))
            else:
                gate = gate / (1 + np.exp(-gate))
            f = (gate * up) @ self.w[p + "ffn_down.weight"].T
            x = x + (norm(f, p + "post_ffw_norm.weight") if gemma else f)
        return norm(x, "output_norm.weight") @ self.w["token_embd.weight"].T


def relative_error(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def negative_log_likelihood(logits, ids):
    """Mean over the tokens after the first, in nats."""
    log_probs = torch.log_softmax(torch.from_numpy(logits[:-1]).double(), -1)
    return float(-log_probs[torch.arange(len(ids) - 1), ids[1:]].mean())


def make_causal(out_name, path, prompts):
    from llama_cpp import Llama

    tokenizer = Llama(str(path), vocab_only=True, verbose=False)
    add_bos = out_name == "gemma3"

    def encode(text):
        return tokenizer.tokenize(text.encode(), add_bos=add_bos, special=True)

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    mirror = NumpyDecoder(path)
    rng = np.random.default_rng(7)
    cases = []
    with torch.no_grad():
        for name, text in prompts.items():
            prompt = encode(text)
            logits = model(torch.tensor([prompt])).logits[0].float().numpy()
            error = relative_error(logits, mirror.forward(prompt))
            print(f"{out_name} {name}: {len(prompt)} tokens, numpy against transformers {error:.2e}")
            assert error < 1e-4, "the two references disagree"
            last = logits[-1]
            ids, margin = list(prompt), math.inf
            state = model(torch.tensor([prompt]), use_cache=True)
            for _ in range(GREEDY_TOKENS):
                top = state.logits[0, -1].topk(2)
                margin = min(margin, float(top.values[0] - top.values[1]))
                ids.append(int(top.indices[0]))
                state = model(torch.tensor([ids[-1:]]), past_key_values=state.past_key_values,
                              use_cache=True)
            print(f"  margin {margin:.4f}: {tokenizer.detokenize(ids)[-160:]!r}")
            case = {"name": name, "prompt": prompt}
            order = np.argsort(-last)[:TOP]
            case["top"] = [[int(i), round(float(last[i]), 5)] for i in order]
            sample = np.sort(rng.choice(len(last), SAMPLES, replace=False))
            case["samples"] = [[int(i), round(float(last[i]), 5)] for i in sample]
            case["max_abs"] = round(float(np.abs(last).max()), 5)
            case["mean"] = round(float(last.mean()), 6)
            case["deviation"] = round(float(last.std()), 6)
            if margin >= GREEDY_MARGIN:
                case["greedy"] = ids[len(prompt):]
            cases.append(case)
        text_ids = encode(TEXT)
        nll = negative_log_likelihood(model(torch.tensor([text_ids])).logits[0].float().numpy(),
                                      text_ids)
        print(f"{out_name} text: {len(text_ids)} tokens, perplexity {math.exp(nll):.4f}")
    write(out_name, {
        "made_by": "tests/golden/make_models.py",
        "versions": versions("torch", "transformers", "gguf", "numpy", "llama-cpp-python"),
        "file": str(path.relative_to(MODELS)),
        "cases": cases,
        "text": {"file": "perplexity.txt", "ids": text_ids, "mean_nll": round(nll, 7)},
    })


def make_minilm():
    folder = MODELS / "all-minilm-l6-v2"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    sentences = [
        "The Plimsoll line shows how deep a ship may be loaded.",
        "A mark on the hull tells the crew when to stop loading.",
        "Quarterly revenue rose by four percent.",
        "hello",
        "How do I reset my password?",
        "I can't log in to my account any more.",
        "Ünïcödé, naïve café; 東京 and Ελλάδα.",
        "SELECT name FROM tenants WHERE memory_bytes > 1000000;",
        "!!! ??? ...",
        "",
        TEXT.split("\n\n")[0],
        TEXT.split("\n\n")[2],
    ]
    cases = []
    with torch.no_grad():
        for sentence in sentences:
            ids = tokenizer(sentence, truncation=True, max_length=256)["input_ids"]
            states = model(torch.tensor([ids])).last_hidden_state[0]
            vector = torch.nn.functional.normalize(states.mean(0), dim=0)
            cases.append({"text": sentence, "ids": ids,
                          "embedding": [round(float(v), 6) for v in vector]})
    write("minilm", {"made_by": "tests/golden/make_models.py",
                     "versions": versions("torch", "transformers", "tokenizers"),
                     "folder": folder.name, "cases": cases})


def write(name, value):
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    wanted = sys.argv[1:] or ["smollm2", "gemma3", "minilm"]
    paragraphs = TEXT.split("\n\n")
    if "smollm2" in wanted:
        make_causal(
            "smollm2", MODELS / "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf", {
                "chat": "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
                        "<|im_start|>assistant\n",
                "one token": "The",
                "plain": "A Plimsoll line is a mark on the hull of a ship that",
                "code": "def fibonacci(n):\n",
                "long": paragraphs[0] + "\n\n" + paragraphs[1],
            })
    if "gemma3" in wanted:
        make_causal(
            "gemma3", MODELS / "gemma-3-270m/gemma-3-270m-q4_k_m.gguf", {
                "plain": "The capital of France is",
                "list": "The days of the week are Monday,",
                "code": "def fibonacci(n):\n",
                "beyond the window": "\n\n".join(paragraphs[:5]),  # over 512 tokens
            })
    if "minilm" in wanted:
        make_minilm()


if __name__ == "__main__":
    main()
