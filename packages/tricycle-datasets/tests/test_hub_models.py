"""Models on the hub: the files of one commit and no others, whatever the server says.

The hub here is a server on 127.0.0.1 with the three questions that are asked of it.
"""

import hashlib
import http.server
import json
import re
import threading
import time

import pytest

from tricycle_datasets import download, hub_model, hub_models, is_hub_model

COMMIT = "c" * 40
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "pytorch_model.bin": b"never asked for",
    "onnx/model.safetensors": b"nor this",
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files, as server.listed says; server.given goes before."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, path = self.server, self.path
        server.asked.append(path)
        if path in server.given:
            server.given[path](self)
        elif path == "/api/models/own/er/revision/main":
            self.answer(json.dumps({"sha": COMMIT}).encode())
        elif path == f"/api/models/own/er/tree/{COMMIT}":
            self.answer(json.dumps(server.listed).encode())
        elif path.startswith(f"/own/er/resolve/{COMMIT}/"):
            content = server.files[path.split("/", 5)[5]]
            start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
            self.answer(content[start:], start, len(content))
        else:
            self.send_error(404)

    def answer(self, content, start=0, size=0):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def entry(path, content):
    if path.endswith(".json"):
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": git}
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": large}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.given, server.asked = dict(FILES), {}, []
        server.listed = [entry(*file) for file in FILES.items()]
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetched(hub, folder, name="own/er", **options):
    said = []
    place, pinned = hub_model(name, folder=folder, endpoint=hub.url, say=said.append, **options)
    return place, pinned, said


def test_settings_and_weights_are_fetched_once_and_their_sizes_said_first(hub, tmp_path):
    place, pinned, said = fetched(hub, tmp_path)
    assert pinned == f"own/er@{COMMIT}"
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert (
        sorted(path.name for path in place.iterdir() if path.suffix in (".json", ".safetensors"))
        == names
    )
    assert all((place / name).read_bytes() == FILES[name] for name in names)
    assert said == [f"fetching 3 files of {pinned}: {23 + 2 + 10_240:,} bytes, to {place}"]
    hub.asked.clear()
    assert fetched(hub, tmp_path, pinned) == (place, pinned, [])
    assert hub.asked == []  # a commit is not asked for again
    assert fetched(hub, tmp_path) == (place, pinned, [])
    assert hub.asked == ["/api/models/own/er/revision/main"]


def test_weights_in_several_files_come_with_their_index(hub, tmp_path):
    content = hub.files.pop("model.safetensors")
    hub.files |= {
        "model-00001-of-00002.safetensors": content[:100],
        "model-00002-of-00002.safetensors": content[100:],
        "model.safetensors.index.json": b"{}",
    }
    hub.listed = [entry(*file) for file in hub.files.items()]
    place, _, _ = fetched(hub, tmp_path)
    assert (place / "model.safetensors.index.json").read_bytes() == b"{}"
    assert (place / "model-00002-of-00002.safetensors").read_bytes() == content[100:]


def without(hub, path):
    hub.listed = [each for each in hub.listed if each["path"] != path]


def listed_as(hub, path, **changes):
    for each in hub.listed:
        if each["path"] == path:
            each.update(changes)


def test_what_is_no_model_or_too_large_is_refused_before_anything_is_fetched(hub, tmp_path):
    with pytest.raises(
        ValueError, match=r"er@c{40} have 10,265 bytes, and no more than 10,000 are"
    ):
        fetched(hub, tmp_path, largest=10_000)
    without(hub, "model.safetensors")
    with pytest.raises(
        ValueError, match=r"wanted config.json and model.safetensors, found config.js"
    ):
        fetched(hub, tmp_path)
    hub.listed = [entry(*file) for file in FILES.items()]
    listed_as(hub, "tokenizer.json", size=10**9)
    with pytest.raises(ValueError, match="tokenizer.json is too large: the files of own/er@c"):
        fetched(hub, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("config.json", {"size": -1}, "lists config.json of own/er@c{40} with size -1 and hash"),
        ("config.json", {"size": "23"}, "with size '23' and hash"),
        ("config.json", {"oid": "../../x"}, r"and hash '\.\./\.\./x'"),
        ("model.safetensors", {"lfs": {"size": 10**6}}, "with size 1000000 and hash None"),
    ],
)
def test_sizes_and_hashes_that_are_none_are_refused(hub, tmp_path, path, changes, message):
    listed_as(hub, path, **changes)
    with pytest.raises(ConnectionError, match=message):
        fetched(hub, tmp_path)


def test_paths_that_a_hub_lists_are_never_gone_to(hub, tmp_path):
    for path in ("../config.json", "/etc/model.safetensors", "a/../../tokenizer.json", 5, None):
        hub.listed.append({**entry("x.json", b""), "path": path})
    fetched(hub, tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert not any(".." in path for path in hub.asked)


def test_a_file_that_is_longer_shorter_or_another_than_listed_is_refused(hub, tmp_path):
    content = FILES["model.safetensors"]
    for number, (given, message) in enumerate(
        [
            (bytes(10_240), "could not fetch model.safetensors: .* gave another file than is list"),
            (content[:-1] + b"?" * 10_000, "gave another file than is listed"),
            (content[:5000], "the connection ended at byte 5,000 of 10,240"),
        ]
    ):
        hub.files["model.safetensors"] = given
        with pytest.raises(ConnectionError, match=message):
            fetched(hub, tmp_path / str(number))
    hub.files["model.safetensors"] = content  # and the rest is fetched
    assert fetched(hub, tmp_path / "2")[0].joinpath("model.safetensors").read_bytes() == content


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65_536)
    except OSError:
        pass


def slow(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.01)
    except OSError:
        pass


def test_answers_without_an_end_are_left(hub, tmp_path, monkeypatch):
    hub.given["/api/models/own/er/revision/main"] = endless
    monkeypatch.setattr(hub_models, "LONGEST_ANSWER", 1_000_000)
    with pytest.raises(ConnectionError, match="revision/main does not come to an end: 1,0"):
        fetched(hub, tmp_path)
    hub.given["/api/models/own/er/revision/main"] = slow
    monkeypatch.setattr(download, "SECONDS_MORE", 0.1)
    with pytest.raises(ConnectionError, match="revision/main does not come to an end"):
        fetched(hub, tmp_path)
    monkeypatch.undo()
    hub.given = {f"/own/er/resolve/{COMMIT}/model.safetensors": endless}
    with pytest.raises(ConnectionError, match="gave another file than is listed"):
        fetched(hub, tmp_path)
    largest = max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert largest <= 10_240


@pytest.mark.parametrize("said", [b"<html>log in</html>", b"[" * 100_000, b'{"sha": "../x"}', b"1"])
def test_an_answer_of_another_kind_is_refused(hub, tmp_path, said):
    hub.given["/api/models/own/er/revision/main"] = lambda handler: handler.answer(said)
    with pytest.raises(ConnectionError, match="did not answer in JSON|for a commit of own/er"):
        fetched(hub, tmp_path)


def test_a_hub_that_is_not_there_and_a_model_that_is_not_are_named(hub, tmp_path):
    with pytest.raises(ConnectionError, match="models/own/other/revision/main answered 404"):
        fetched(hub, tmp_path, "own/other")
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/api/models/own/er.*refused"):
        hub_model("own/er", folder=tmp_path, endpoint="http://127.0.0.1:9")


def test_names_of_models_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("own/er", "own/er@main", "hub:runs/x", f"own/er-1.5@{COMMIT}"):
        assert is_hub_model(name)
    for name in (
        "runs/x",
        "er",
        "/own/er",
        "../er",
        "own/..",
        "a/b/c",
        "own/er@../x",
        "own/er/",
        "own/er.gguf",
    ):
        assert not is_hub_model(name)
    with pytest.raises(ValueError, match="wanted the name of a model on the hub, owner/name@rev"):
        hub_model("../er")
