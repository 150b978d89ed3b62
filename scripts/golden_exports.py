"""Write tests/golden/exports/tokens.json: the ids that transformers reads our model folders to.

`hatch run compat:golden-exports`, where what it freezes has changed on purpose.  For every pattern,
with an end-of-text token and without, a tokeniser is learned from the text that the file holds, a
model folder of each kind is written with it, and `AutoTokenizer` encodes the texts.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import transformers

from tricycle_bpe import Tokeniser
from tricycle_bpe.splitting import PATTERNS
from tricycle_gpt import GPT, GPTConfig, to_huggingface

FILE = Path(__file__).parents[1] / "tests/golden/exports/tokens.json"
LEARNED_FROM = " ".join(
    ["In 1984 I'll be 12 or 123; they'll say 1984 again, won't they?\n\nOF COURSE they'RE right!"]
    * 3
)
VOCAB_SIZE = 300
TEXTS = [
    "In 1984, 12345 I'll say they'RE right",
    "  two spaces, a tab\tand\r\nlines \n\n\n of it ",
    "naïve café — “quotes” 東京 🙂 e\u0301 , . !",
    "before<|endoftext|>after, camelCase and SHOUTING's",
    " ",
    "",
]
KINDS = [
    {},
    {"block": "llama"},
    {"block": "llama", "query_key_value_bias": True},
    {"block": "llama", "qk_norm": True},
    {"block": "llama", "sliding_window": 5},
    {"block": "olmo2"},
]
FROZEN = ("tokenizer_config.json", "generation_config.json")


def main() -> None:
    ends = ([], ["<|endoftext|>"])
    found = {
        "made_by": f"transformers {transformers.__version__}",
        "learned_from": LEARNED_FROM,
        "vocab_size": VOCAB_SIZE,
        "texts": TEXTS,
        "cases": [measured(pattern, special) for pattern in PATTERNS for special in ends],
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}  {FILE.stat().st_size:,} bytes")


def measured(pattern: str, special: list[str]) -> dict:
    """One tokeniser's ids, the same for every kind of model."""
    ours = Tokeniser.train([LEARNED_FROM], VOCAB_SIZE, pattern=pattern, special_tokens=special)
    results = []
    for kind in KINDS:
        config = GPTConfig(ours.n_vocab, 24, 16, n_layers=1, n_heads=2, **kind)
        with tempfile.TemporaryDirectory() as folder:
            to_huggingface(GPT(config, rng=np.random.default_rng(0)), folder, ours)
            theirs = reader(kind).from_pretrained(folder)
            files = {name: json.loads((Path(folder) / name).read_text()) for name in FROZEN}
        results.append(([theirs(text)["input_ids"] for text in TEXTS], files))
    assert results.count(results[0]) == len(KINDS), f"{pattern}: kinds of models differ"
    ids, files = results[0]
    name = f"{pattern}, {'with' if special else 'without'} an end"
    return {"name": name, "pattern": pattern, "special_tokens": special, "ids": ids, "files": files}


def reader(kind: dict):
    """`AutoTokenizer`, but for qwen2: see tests/compat/test_exports.py."""
    is_qwen2 = "query_key_value_bias" in kind
    return transformers.PreTrainedTokenizerFast if is_qwen2 else transformers.AutoTokenizer


if __name__ == "__main__":
    main()
