#!/usr/bin/env python3
"""Makes tests/engine/tokenizer/golden/*.json: texts and the ids that reference tokenizers give.

usage: make_tokenizer.py MODELS_FOLDER   (transformers, tokenizers, gguf, llama-cpp-python)

SmolLM2 and Gemma 3 are read by llama.cpp from the same GGUF files; all-MiniLM-L6-v2 by Hugging Face
tokenizers from its tokenizer.json.
"""

import json
import pathlib
import random
import sys
from importlib.metadata import version

OUT = pathlib.Path(__file__).resolve().parents[1] / "engine/tokenizer/golden"
MODELS = pathlib.Path(sys.argv[1])

WORDS = """the of and to in is you that it he was for on are as with his they I at be this have from
or one had by word but not what all were we when your can said there use an each which she do how
their if will up other about out many then them these so some her would make like him into time has
look two more write go see number no way could people my than first water been call who oil its now
find long down day did get come made may part lighthouse quantization hippopotamus antidisestablishment""".split()

SCRIPTS = [
    "Привет, как дела? Съешь же ещё этих мягких французских булок.", "你好，世界！今天天气怎么样？",
    "こんにちは世界。カタカナとひらがな", "안녕하세요 세계", "مرحبا بالعالم كيف حالك", "שלום עולם",
    "नमस्ते दुनिया क्या हाल है", "สวัสดีชาวโลก", "Γειά σου Κόσμε", "Xin chào thế giới",
    "Zażółć gęślą jaźń", "Fußgängerübergänge", "İstanbul’da ığdır", "বাংলা ভাষা", "தமிழ் மொழி",
    "ქართული ენა", "Հայերեն", "አማርኛ", "ᠮᠣᠩᠭᠣᠯ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕋𝕖𝕩𝕥", "ﬁﬂ ligatures ﷺ", "Ǆ ǅ ǆ", "ẞ ß",
]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "❤️", "☃", "🤷🏿‍♀️", "1️⃣", "🧑‍💻"]
CODE = [
    "def f(x):\n    return x**2  # square\n", "int main() {\n\tprintf(\"%d\\n\", 42);\n}\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';", "<div class=\"a\">&nbsp;</div>",
    "for (;;) { i++; }", "a->b.c[0] = &d;", "https://example.org/a?b=c&d=%20#e", "x=1;y=2;z=x+y",
    "\\frac{a}{b} $x^2$", "{\"a\": [1, 2.5, null, true]}", "/* комментарий */", "C:\\Users\\x\\y.txt",
]
ODD = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n\n\n", "\t", "\t\t x", " \n \n ", "a\r\nb\r\nc", "\u00a0\u00a0x",
    "\u200b\u200d\ufeff", "\u2028\u2029", "a\u0300e\u0301", "\x00\x01\x02", "\x7f\x80\x9f", "\u0085", "\u3000x\u3000",
    "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "<bos>x<eos>", "<start_of_turn>user", "[CLS] [SEP] [MASK]",
    "▁▁x ▁", "<0x41>", "Ġhello Ċ", "'s 't 're 've 'm 'll 'd I'LL WE'RE", "1234567890", "3.14159 -2e10 0x1F",
    "½ ² ③ Ⅳ", "a" * 300, "ab" * 200, "." * 100, " " * 77, "x" + " " * 33 + "y", "\n" * 40, "!?" * 50,
    "don't can't won't", "Mr. O'Neill's", "U.S.A.", "e.g., i.e.", "--- *** ===", "a,b;c:d", "(((())))", "\U0001f600" * 20,
    "\U000e0001\U000e0020", "\ud7ff\ue000\uffff", "\U0010ffff", "ꙮ", "﷽",
]
BROKEN = ["ff", "c3", "61c3", "c328", "e28261", "f09f98", "eda080", "f8888080", "80808080", "61ff62fe63",
          "e4bda0e5a5", "c0af", "f4908080", "68656c6c6ffc80", "2020ff2020"]


def texts():
    rng = random.Random(20)
    out = list(ODD) + SCRIPTS + EMOJI + CODE
    pool = SCRIPTS + EMOJI + CODE + ODD[:30]
    while len(out) < 2100:
        kind = rng.random()
        if kind < 0.45:
            parts = [rng.choice(WORDS) for _ in range(rng.randint(1, 12))]
            parts = [p.upper() if rng.random() < 0.1 else p.title() if rng.random() < 0.2 else p for p in parts]
            text = rng.choice([" ", " ", " ", "  ", ", ", "\n", "-", "_", ""]).join(parts)
            text += rng.choice(["", ".", "!", "?", " ", "\n", "..."])
        elif kind < 0.75:
            text = rng.choice(["", " ", "\n", "\t"]).join(rng.choice(pool) for _ in range(rng.randint(1, 3)))
        elif kind < 0.85:
            text = "".join(chr(rng.choice([rng.randint(32, 126), rng.randint(160, 0x24F)])) for _ in range(rng.randint(1, 30)))
        elif kind < 0.95:
            text = "".join(chr(rng.randint(0x250, 0xD7FF)) for _ in range(rng.randint(1, 12)))
        else:
            text = "".join(rng.choice([" ", "\n", "\t", "a", "1", "'", "é"]) for _ in range(rng.randint(1, 25)))
        out.append(text[:400])
    # Combining marks of Unicode 14: the reference's tables for BERT are older and keep them.
    return [t for t in out if not any("\u1ac1" <= c <= "\u1ace" for c in t)]


def write(name, reference, encode):
    cases = [[t.encode("utf-8", "surrogatepass").decode("utf-8", "replace"), 0] for t in texts()]
    rows = [{"text": t, "ids": encode(t)} for t, _ in cases]
    rows += [{"hex": h, "ids": encode(bytes.fromhex(h).decode("utf-8", "replace"))} for h in BROKEN]
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows)
    (OUT / f"{name}.json").write_text('{"reference":%s,"cases":[\n%s\n]}\n' % (json.dumps(reference), lines))
    print(name, len(rows))


def main():
    from llama_cpp import Llama
    from tokenizers import Tokenizer

    reference = f"llama-cpp-python {version('llama-cpp-python')}"
    for name, file in (("smollm2", "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"),
                       ("gemma3", "gemma-3-270m/gemma-3-270m-q4_k_m.gguf")):
        model = Llama(str(MODELS / file), vocab_only=True, verbose=False)
        write(name, reference, lambda t: model.tokenize(t.encode(), add_bos=False, special=False))
    bert = Tokenizer.from_file(str(MODELS / "all-minilm-l6-v2/tokenizer.json"))
    bert.no_truncation()
    bert.no_padding()
    bert.encode_special_tokens = True
    write("minilm", f"tokenizers {version('tokenizers')}", lambda t: bert.encode(t).ids)


main()
