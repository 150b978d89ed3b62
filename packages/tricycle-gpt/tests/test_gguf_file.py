"""GGUF files: by hand in bytes, beside the gguf package, and damaged in thousands of ways."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from tricycle_gpt.gguf_file import GGUFError, parse, read_gguf


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def setting(name, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name, shape=(2,), code=0, place=0) -> bytes:
    """Its entry; `shape` begins with the axis whose numbers lie side by side."""
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + axes + struct.pack("<IQ", code, place)


def file(settings=(), tensors=(), numbers=b"", version=3, alignment=32) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(settings))
    head += b"".join(settings) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + numbers


EIGHT = np.arange(2, dtype="<f4").tobytes()


def test_a_file_of_one_tensor_by_hand(tmp_path):
    path = tmp_path / "one.gguf"
    numbers = np.array([[1, 2, 3], [4, 5, 6]], "<f4")
    path.write_bytes(
        b"GGUF"
        + b"\3\0\0\0"  # the version
        + b"\1\0\0\0\0\0\0\0"  # one tensor
        + b"\1\0\0\0\0\0\0\0"  # one setting
        + b"\4\0\0\0\0\0\0\0"
        + b"size"
        + b"\4\0\0\0"  # u32
        + b"\7\0\0\0"
        + b"\1\0\0\0\0\0\0\0"
        + b"w"
        + b"\2\0\0\0"  # two axes
        + b"\3\0\0\0\0\0\0\0"  # rows of three
        + b"\2\0\0\0\0\0\0\0"  # two rows
        + b"\0\0\0\0"  # F32
        + b"\0\0\0\0\0\0\0\0"  # the first byte of the numbers
        + b"\0" * 11  # up to byte 96
        + numbers.tobytes()
    )
    found = read_gguf(path)
    assert found.settings == {"size": 7}
    assert list(found.tensors) == ["w"] and found.tensors["w"].place == 96
    np.testing.assert_array_equal(found.read("w"), numbers)


def test_every_type_of_setting_is_read():
    values = {0: ("B", 200), 1: ("b", -3), 2: ("H", 60000), 3: ("h", -300), 4: ("I", 2**31)}
    values |= {5: ("i", -(2**30)), 6: ("f", 0.5), 7: ("?", True), 10: ("Q", 2**63)}
    values |= {11: ("q", -(2**60)), 12: ("d", 1e300)}
    entries = [setting(f"n{k}", k, struct.pack(f"<{c}", v)) for k, (c, v) in values.items()]
    entries.append(setting("text", 8, text("été")))
    entries.append(setting("some", 9, struct.pack("<IQ3h", 3, 3, 1, -2, 3)))
    entries.append(setting("words", 9, struct.pack("<IQ", 8, 2) + text("a b") + text("ж")))
    found, _ = parse(file(entries))
    assert {name: found[name] for name in found if name[0] == "n"} == {
        f"n{kind}": value for kind, (_, value) in values.items()
    }
    assert found["text"] == "été"
    assert found["some"].tolist() == [1, -2, 3]
    assert list(found["words"]) == ["a b", "ж"] and found["words"][-1:] == ["ж"]


def test_files_of_the_gguf_package_are_read(tmp_path):
    writer = GGUFWriter(str(tmp_path / "theirs.gguf"), "llama")
    writer.add_custom_alignment(64)
    writer.add_block_count(3)
    writer.add_token_list(["<s>", "a", "b"])
    drawn = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    writer.add_tensor("plain", drawn)
    writer.add_tensor("half", drawn.astype(np.float16))
    kind = GGMLQuantizationType.Q5_1
    writer.add_tensor("small", quantize(drawn, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(tmp_path / "theirs.gguf")
    assert found.settings["llama.block_count"] == 3
    assert list(found.settings["tokenizer.ggml.tokens"]) == ["<s>", "a", "b"]
    np.testing.assert_array_equal(found.read("plain"), drawn)
    np.testing.assert_array_equal(found.read("half"), drawn.astype(np.float16))
    assert np.abs(found.read("small") - drawn).max() < 0.2
    assert found.tensors["small"].kind == "Q5_1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(40), "does not begin with GGUF, but with b'GGML'"),
        (b"GGUF", "ends too soon: the version at byte 4 takes 4 bytes, and 0 are left"),
        (file(version=1), "it is of version 1; little-endian files of versions 2 and 3 are read"),
        (file(version=3 << 24), "it is big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), f"it says {2**60} tensors; 0 bytes are left"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 9), "it says 9 settings; 0 bytes are left"),
        (file([setting("a", 13, b"")]), "a is of type 13, which there is not"),
        (file([setting("a", 8, struct.pack("<Q", 2**63))]), "takes 9223372036854775808 bytes"),
        (file([setting("a", 9, struct.pack("<IQ", 8, 2**61))]), "a says 2305843009213693952 texts"),
        (file([setting("a", 9, struct.pack("<IQ", 8, 1) + b"\xff" * 8)]), "ends too soon"),
        (file([setting("a", 9, struct.pack("<IQ", 9, 1))]), "a is a list of type 9; lists of"),
        (file([setting("a", 9, struct.pack("<IQ", 12, 2**62))]), "4611686018427387904 numbers"),
        (file([setting("a", 8, text(b"\xff"))]), "a is not UTF-8"),
        (file([setting("a", 7, b"\1")] * 2), "setting a stands there twice"),
        (file([setting("general.alignment", 4, bytes(4))]), "general.alignment is 0, no small"),
        (file([setting("../x", 7, b"\1")]), "the name of setting 0 is no plain name: b'../x'"),
        (file([], [tensor("a..b")], EIGHT), "the name of tensor 0 is no plain name: b'a..b'"),
        (file([], [tensor("/etc")], EIGHT), "the name of tensor 0 is no plain name: b'/etc'"),
        (file([], [tensor("a", (1,) * 5)], EIGHT), "a has 5 axes; 1 to 4 are read"),
        (file([], [tensor("a", (0,))], EIGHT), r"a has shape \(0,\); F32 wants rows"),
        (file([], [tensor("a", (33,), 8)], bytes(99)), r"Q8_0 wants rows of whole blocks of 32"),
        (file([], [tensor("a", (2,), 16)], EIGHT), "a is of type IQ2_XXS; F32, F16, BF16, Q8_0"),
        (file([], [tensor("a", (2,), 99)], EIGHT), "a is of type number 99"),
        (file([], [tensor("a", (2,), 0, 7)], bytes(32)), "a begins at 7, no multiple of 32"),
        (file([], [tensor("a", (3,))], EIGHT), "a takes 12 bytes from 64 on; the file has 72"),
        (file([], [tensor("a", (2**40, 2**40))], EIGHT), f"a takes {2**82} bytes"),
        (file([], [tensor("a")] * 2, EIGHT), "tensor a stands there twice"),
        (file([], [tensor("a"), tensor("b")], EIGHT), "b and a share bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, data, message):
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(GGUFError, match=rf"bad\.gguf cannot be read as GGUF: .*{message}"):
        read_gguf(tmp_path / "bad.gguf")


def test_all_faults_are_in_one_message():
    tensors = [tensor("a", (2,), 16), tensor("b", (2,), 0, 3), tensor("../c"), tensor("d", (99,))]
    with pytest.raises(GGUFError) as error:
        parse(file([setting("n", 7, b"\1")] * 2, tensors, bytes(64)))
    for part in ("setting n stands", "a is of type IQ2_XXS", "b begins at 3", "'../c'", "d takes"):
        assert part in str(error.value)
    with pytest.raises(GGUFError, match="; and 10 faults more$"):
        parse(file([], [tensor(f"t{i}", (2,), 16) for i in range(30)], EIGHT))


def test_an_empty_file_and_one_that_is_missing_are_named(tmp_path):
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(GGUFError, match="empty.gguf cannot be read as GGUF: it is empty"):
        read_gguf(tmp_path / "empty.gguf")
    with pytest.raises(FileNotFoundError, match="missing.gguf"):
        read_gguf(tmp_path / "missing.gguf")


def test_a_file_that_became_shorter_is_named(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(file([], [tensor("a")], EIGHT))
    found = read_gguf(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GGUFError, match="has become shorter while it was read"):
        found.read("a")


def test_a_text_of_a_list_that_is_not_utf_8_is_named_when_it_is_asked_for():
    words = setting("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text(b"\xff\xfe"))
    found, _ = parse(file([words]))
    assert found["words"][0] == "a"
    with pytest.raises(GGUFError, match=r"text 1 of a list is not UTF-8: b'\\xff\\xfe'"):
        found["words"][1]


def header() -> bytes:
    """A small file with something of everything."""
    settings = [
        setting("general.architecture", 8, text("llama")),
        setting("llama.block_count", 4, struct.pack("<I", 2)),
        setting("words", 9, struct.pack("<IQ", 8, 4) + b"".join(map(text, ("a", "bc", "", "d")))),
        setting("kinds", 9, struct.pack("<IQ4i", 5, 4, 1, 1, 3, 1)),
        setting("general.alignment", 4, struct.pack("<I", 32)),
    ]
    tensors = [
        tensor("token_embd.weight", (32, 4), 8, 0),
        tensor("blk.0.attn_q.weight", (32, 2), 2, 160),
        tensor("output_norm.weight", (4,), 0, 224),
    ]
    return file(settings, tensors, bytes(240))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed to anything, or to what is most often trouble; or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(4, len(data) - 240))
        how = rng.integers(4)
        if how == 0:
            changed[place] = rng.integers(256)
        elif how == 1:
            changed[place : place + 8] = struct.pack("<Q", 1 << int(rng.integers(64)))
        elif how == 2:
            changed[place : place + 4] = b"\xff\xff\xff\xff"
        else:
            del changed[place : place + int(rng.integers(1, 9))]
    return bytes(changed[: rng.integers(len(changed))]) if rng.integers(8) == 0 else bytes(changed)


def test_damaged_headers_are_read_or_refused_and_nothing_else():
    data, rng = header(), np.random.default_rng(5)
    parse(data)
    n = 1_000_000 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 10_000
    refused = 0
    for _ in range(n):
        case = damaged(data, rng)
        try:
            _, tensors = parse(case)
        except GGUFError:
            refused += 1
        else:
            assert all(t.place + t.n_bytes <= len(case) for t in tensors.values())
    assert 0.5 < refused / n < 1  # some of the damage is harmless


def head_of_lists(kind: int, count: int, raw: bytes) -> bytes:
    return file([setting("list", 9, struct.pack("<IQ", kind, count) + raw)])


@pytest.mark.parametrize(
    "data",
    [
        head_of_lists(8, 10**4, text("ab") * 10**4),
        head_of_lists(8, 2**50, bytes(10**6)),
        head_of_lists(0, 10**6, bytes(10**6)),
        file([setting(f"n{i:04}", 7, b"\1") for i in range(1000)], [], bytes(10**6)),
        file([], [tensor(f"t{i:05}", (2,), 0, 32 * i) for i in range(3000)], b""),
    ],
    ids=["texts", "too many texts", "numbers", "settings", "tensors"],
)
def test_reading_takes_no_more_memory_than_three_times_the_file(data):
    tracemalloc.start()
    try:
        parse(data)
    except GGUFError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 3 * len(data) + 2**22
