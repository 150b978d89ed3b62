"""Write tests/golden/stories/golden.json: HellaSwag, LAMBADA and WikiText by transformers' Llama.

    TRICYCLE_TEST_DATA=folder hatch run compat:python scripts/golden_benchmarks.py

The folder holds stories260K/stories260K.bin and tok512.bin, Karpathy's llama2.c model of 260
thousand parameters that tells stories.  Nothing of ours is imported: the weights are read here,
run by transformers, and the questions put as lm-evaluation-harness puts them, so that the test,
which goes through our reader, our model and our questions, shares nothing with it but the three
sample files.  The ids of every text that was asked about are kept, and the test needs no
tokeniser.
"""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import torch
import transformers

GOLDEN = Path(__file__).parents[1] / "tests/golden/stories"
DATA = Path(os.environ["TRICYCLE_TEST_DATA"]) / "stories260K"
BEGIN = 1  # <s>
ids_of: dict[str, list[int]] = {}


def main() -> None:
    torch.set_num_threads(1)
    model, window = read_model(DATA / "stories260K.bin")
    pieces, scores = read_tokeniser(DATA / "tok512.bin")

    def encode(text: str) -> list[int]:
        ids_of[text] = merge(text, pieces, scores)
        spelt = b"".join(bytes([i - 3]) if 3 <= i < 259 else pieces[i] for i in ids_of[text])
        assert spelt == b" " + text.encode()
        return ids_of[text]

    def likelihood(context: list[int], continuation: list[int]) -> tuple[float, bool]:
        ids = torch.tensor([[*context, *continuation][-window - 1 :]])
        with torch.no_grad():
            logs = model(ids[:, :-1]).logits[0, -len(continuation) :].double().log_softmax(-1)
        chosen = logs.gather(1, torch.tensor(continuation)[:, None]).sum().item()
        return chosen, logs.argmax(-1).tolist() == continuation

    found = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "hellaswag": hellaswag(encode, likelihood),
        "lambada": lambada(encode, likelihood),
        "wikitext": wikitext(encode, likelihood, window),
        "ids": ids_of,
    }
    (GOLDEN / "golden.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", "utf-8")
    print({name: value for name, value in found.items() if name != "ids"})


# ---- The model and its tokeniser, in llama2.c's format ----


def read_model(path: Path) -> tuple[transformers.LlamaForCausalLM, int]:
    """The model, and how many tokens it sees."""
    sizes, flat = np.fromfile(path, "<i4", 7), np.fromfile(path, "<f4", offset=28)
    width, hidden, layers, heads, key_heads, vocabulary, window = map(int, sizes)
    position = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal position
        part = flat[position : position + math.prod(shape)]
        position += part.size
        return torch.from_numpy(part.reshape(shape).copy())

    def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
        """Rotary pairs (0, 1), (2, 3)… of each head become (0, D/2), (1, D/2 + 1)…"""
        pairs = weight.view(heads, -1, 2, width)
        return pairs.transpose(1, 2).reshape(-1, width)

    size = width // heads * key_heads
    state = {"model.embed_tokens.weight": take(vocabulary, width)}
    shapes = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (size, width),
        "self_attn.v_proj": (size, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
        "mlp.up_proj": (hidden, width),
    }
    for name, shape in shapes.items():
        for i, weight in enumerate(take(layers, *shape)):
            if name[-6:] in ("q_proj", "k_proj"):
                weight = halves(weight, heads if "q_proj" in name else key_heads)
            state[f"model.layers.{i}.{name}.weight"] = weight
    state["model.norm.weight"] = take(width)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=window,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model, window


def read_tokeniser(path: Path) -> tuple[list[bytes], list[float]]:
    """Each token's bytes and its score."""
    data, position = path.read_bytes(), 4
    pieces, scores = [], []
    while position < len(data):
        scores.append(float(np.frombuffer(data, "<f4", 1, position)[0]))
        size = int(np.frombuffer(data, "<i4", 1, position + 4)[0])
        pieces.append(data[position + 8 : position + 8 + size])
        position += 8 + size
    return pieces, scores


def merge(text: str, pieces: list[bytes], scores: list[float]) -> list[int]:
    """Ids of a text: its characters, of which the best pair is joined again and again.

    A character that is not a token is its bytes, whose ids begin at 3.
    """
    ids: list[int] = []
    for letter in (letter.encode() for letter in " " + text):
        ids += [pieces.index(letter)] if letter in pieces else [3 + byte for byte in letter]
    while True:
        pairs = [
            (scores[pieces.index(joined)], -i, pieces.index(joined))
            for i in range(len(ids) - 1)
            if (joined := pieces[ids[i]] + pieces[ids[i + 1]]) in pieces
        ]
        if not pairs:
            return ids
        _, place, token = max(pairs)
        ids[-place : -place + 2] = [token]


# ---- The questions, as in lm-evaluation-harness ----


def split_pair(encode, context: str, continuation: str) -> tuple[list[int], list[int]]:
    whole, length = encode(context + continuation), len(encode(context))
    return whole[:length], whole[length:]


def hellaswag(encode, likelihood) -> dict:
    def clean(text: str) -> str:
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    scores, right, right_by_length = [], [], []
    for line in (GOLDEN / "hellaswag.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        start = clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        endings = [clean(ending) for ending in row["endings"]]
        found = [likelihood(*split_pair(encode, start, " " + ending))[0] for ending in endings]
        scores.append(found)
        right.append(int(np.argmax(found)) == row["label"])
        lengths = [len(ending) for ending in endings]
        right_by_length.append(int(np.argmax(np.array(found) / lengths)) == row["label"])
    return {
        "scores": scores,
        "accuracy": float(np.mean(right)),
        "normalised_accuracy": float(np.mean(right_by_length)),
    }


def lambada(encode, likelihood) -> dict:
    found = []
    for line in (GOLDEN / "lambada.jsonl").read_text("utf-8").splitlines():
        context, word = json.loads(line)["text"].rsplit(" ", 1)
        found.append(likelihood(*split_pair(encode, context, " " + word)))
    return {
        "scores": [score for score, _ in found],
        "accuracy": float(np.mean([greedy for _, greedy in found])),
        "perplexity": float(np.exp(-np.mean([score for score, _ in found]))),
    }


def wikitext(encode, likelihood, window: int) -> dict:
    pages = re.split(r"(?m)^(?= = [^=].* = \n)", (GOLDEN / "wiki.txt").read_text("utf-8"))
    total, words, size = 0.0, 0, 0
    for page in pages:
        if not page.strip():
            continue
        ids = [BEGIN, *encode(readable(page))]
        for begin in range(1, len(ids), window):
            end = min(begin + window, len(ids))
            first = max(0, end - 1 - window) if begin > 1 else 0
            total += likelihood(ids[first:begin], ids[begin:end])[0]
        words += len(re.split(r"\s+", page))
        size += len(page.encode())
    return {
        "score": total,
        "word_perplexity": math.exp(-total / words),
        "byte_perplexity": math.exp(-total / size),
        "bits_per_byte": -total / size / math.log(2),
    }


def readable(page: str) -> str:
    """WikiText without its spaces around signs."""
    for before, after in [("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")]:
        page = page.replace(before, after)
    for sign in ":;.!?,":
        page = page.replace(f" {sign} ", f"{sign} ")
    page = re.sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", page)
    page = re.sub(r"\"\s*([^\"]*?)\s*\"", r'"\1"', page)
    page = re.sub(r"'\s*([^']*?)\s*'", r"'\1'", page)
    for before, after in [("= = = =", "===="), ("= = =", "==="), ("= =", "==")]:
        page = page.replace(before, after)
    for before, after in [(" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")]:
        page = page.replace(before, after)
    return page


if __name__ == "__main__":
    main()
