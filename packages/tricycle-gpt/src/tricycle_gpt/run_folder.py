"""What a run leaves behind for people and other programs.

    model/         config.json, model.safetensors, tokenizer.json: Hugging Face's format
    loss.png       the loss as a picture (needs matplotlib, the extra `plots`)
    sample.txt     text that the model wrote

beside metrics.jsonl and checkpoints/, which `train` writes as it goes.
"""

import sys
from pathlib import Path
from typing import Any

from tricycle_gpt.generation import generate
from tricycle_gpt.huggingface import to_huggingface
from tricycle_gpt.metrics import plot_loss
from tricycle_gpt.model import GPT


def write_results(folder: str | Path, model: GPT, tokeniser: Any) -> Path:
    """Write the model folder and, where matplotlib is installed, the picture of the loss.

    tokeniser  anything whose save(folder) writes a tokenizer.json

    Returns the model folder.
    """
    folder = Path(folder)
    model_folder = to_huggingface(model, folder / "model", tokeniser)
    try:
        plot_loss(folder / "metrics.jsonl", folder / "loss.png")
    except ImportError as error:
        print(f"no loss.png: {error}", file=sys.stderr)
    return model_folder


def write_sample(
    folder: str | Path, model: GPT, decoder: Any, prompt: list[int], max_tokens: int, **dials: Any
) -> None:
    """Stream a prompt's continuation to standard output, and keep it in sample.txt.

    decoder  has push(id) -> text and finish() -> text, as tricycle_bpe.StreamDecoder
    dials    temperature, top_k, top_p, seed and so on, as for generate()
    """
    with (Path(folder) / "sample.txt").open("w", encoding="utf-8") as file:
        file.write("".join(decoder.push(token) for token in prompt))
        for token in generate(model, prompt, max_tokens, **dials):
            piece = decoder.push(token)
            file.write(piece)
            print(piece, end="", flush=True)
        rest = decoder.finish() + "\n"
        file.write(rest)
        print(rest, end="", flush=True)
