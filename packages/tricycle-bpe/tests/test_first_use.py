"""Kernels that are wrong on this machine are an error, never other ids."""

import os
import subprocess
import sys

import pytest

from tricycle_bpe import encoding, first_use, kernels, scanning, training
from tricycle_bpe.splitting import PATTERNS

pytestmark = pytest.mark.slow  # it starts many processes

ENCODE = """
from tricycle_bpe import Tokeniser, first_use
first_use._encodes, first_use._splits, first_use._learns = (
    lambda *settings, wrapped=wrapped: (print("tried", flush=True), wrapped(*settings))[1]
    for wrapped in (first_use._encodes, first_use._splits, first_use._learns)
)
trained = Tokeniser.train(["low lower lowest"], 259, ties="bytes")
print(trained.encode("lower low"))
"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A folder for the marks alone, and a process that has tried nothing yet."""
    assert {encoding.encode_pieces, scanning.scan_gpt2, training.learn_merges} <= kernels.OURS
    monkeypatch.setattr(kernels, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(kernels, "OURS", set())  # as in a process that compiled nothing
    monkeypatch.setattr(first_use, "_tried", set())
    return tmp_path


def test_every_kernel_is_right_here_and_a_mark_says_so(cache):
    for pattern in PATTERNS:
        first_use.splitting(pattern)
    first_use.encoding(by_merges=True)
    first_use.encoding(by_merges=False)
    first_use.training()
    assert len(list(cache.glob("*.right"))) == len(PATTERNS) + 3


def test_a_pattern_without_a_kernel_is_not_tried(cache):
    first_use.splitting(r"\w+")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "use", "what"),
    [
        ("_splits", lambda: first_use.splitting("gpt2"), "splitting by gpt2"),
        ("_encodes", lambda: first_use.encoding(by_merges=True), "encoding by merges"),
        ("_learns", first_use.training, "training"),
    ],
)
def test_what_is_wrong_is_refused_each_time(cache, monkeypatch, part, use, what):
    monkeypatch.setattr(first_use, part, lambda *settings: False)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"a short text for {what} came out otherwise"):
            use()
    assert list(cache.iterdir()) == []


def test_a_wrong_result_is_seen(cache, monkeypatch):
    monkeypatch.setattr(first_use.merges, "encode", lambda word, learned: [1])
    with pytest.raises(RuntimeError, match="set TRICYCLE_CACHE to an empty folder"):
        first_use.encoding(by_merges=True)


def test_what_a_mark_says_is_not_tried_again(cache, monkeypatch):
    first_use.splitting("gpt2")
    monkeypatch.setattr(first_use, "_tried", set())
    monkeypatch.setattr(first_use, "_splits", lambda pattern: pytest.fail("tried again"))
    first_use.splitting("gpt2")


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(cache, monkeypatch):
    monkeypatch.setattr(kernels, "CACHE_FOLDER", cache / "not there")
    first_use.splitting("gpt2")
    assert list(cache.iterdir()) == []


def test_a_process_that_compiled_leaves_the_mark_to_one_that_loads(tmp_path):
    environment = {**os.environ, "TRICYCLE_CACHE": str(tmp_path)}
    for tried, marks in ((3, 0), (3, 3), (0, 3)):
        command = [sys.executable, "-c", ENCODE]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.splitlines() == ["tried"] * tried + ["[257, 101, 114, 258]"]
        assert len(list(tmp_path.rglob("*.right"))) == marks
