"""Token ids of other programs: their numbers, and nothing else."""

import numpy as np
import pytest

from tricycle_datasets import Batches, ShardError, open_source, read_ids

IDS = np.array([5, 0, 50256, 7, 1, 2, 3, 4], np.uint16)


def header(magic, version, count):
    return np.array([magic, version, count], "<i4").tobytes().ljust(1024, b"\0")


def written(folder):
    """The same ids as each program writes them."""
    (folder / "train.bin").write_bytes(IDS.tobytes())
    (folder / "gpt2.bin").write_bytes(header(20240520, 1, len(IDS)) + IDS.tobytes())
    (folder / "llama3.bin").write_bytes(
        header(20240801, 7, len(IDS)) + IDS.astype(np.uint32).tobytes()
    )
    np.save(folder / "shard.npy", IDS)
    return [folder / name for name in ("train.bin", "gpt2.bin", "llama3.bin", "shard.npy")]


def test_the_ids_of_each_program_are_one_row(tmp_path):
    for path in written(tmp_path):
        ids = read_ids(path, n_vocab=50257)
        assert ids.tolist() == IDS.tolist()
        assert not ids.flags.writeable
        inputs, targets = next(Batches(ids, 1, 4, seed=0))
        assert inputs[0, 1:].tolist() == targets[0, :-1].tolist()


def test_ids_outside_of_the_vocabulary_are_named(tmp_path):
    for path in written(tmp_path):
        with pytest.raises(ShardError, match="holds id 50,256, outside of a vocabulary of 50,000"):
            read_ids(path, n_vocab=50_000)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.bin", b"abc", "has 3 bytes: no whole number of ids of two bytes"),
        ("a.bin", b"", "has 0 bytes"),
        ("a.bin", header(20240520, 1, 9) + bytes(16), "9 ids, which take 1,042 bytes .* has 1,040"),
        ("a.bin", header(20240520, 1, -1) + bytes(16), "says that it has -1 ids"),
        ("a.bin", header(20240520, 2, 8) + bytes(16), "version 2 of the format 20240520"),
        ("a.npy", b"abc", "does not begin as a .npy file"),
        ("a.npy", b"", "is cut short: its 0 bytes do not hold a header"),
    ],
)
def test_what_is_no_file_of_ids_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ShardError, match=message):
        read_ids(tmp_path / name)


def test_a_numpy_file_of_something_else_is_named(tmp_path):
    for array in np.ones(3), np.ones((2, 2), int), np.zeros(0, int):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ShardError, match="of one row of numbers|row of whole numbers was want"):
            read_ids(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", IDS)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-2])
    with pytest.raises(ShardError, match="8 numbers, which take 144 bytes .* and has 142 bytes"):
        read_ids(tmp_path / "a.npy")


def test_ids_are_not_taken_for_text(tmp_path):
    for path in written(tmp_path):
        with pytest.raises(ValueError, match="a file of token ids, not of text: open it with read"):
            open_source(path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_ids(tmp_path / "nothing.bin")
