"""Datasets on the hub: the right files of one commit, whatever the line and the server do.

The hub here is a server on 127.0.0.1 that speaks as much of the hub's protocol as huggingface-hub
needs for this: revisions, trees, files by range.
"""

import hashlib
import http.server
import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tricycle_datasets import HUB_DATASETS, hub_documents

FIRST, SECOND = "a" * 40, "b" * 40  # commits


def parquet(texts, column="text", rows=3):
    """The bytes of a table with `rows` rows in a group."""
    file = io.BytesIO()
    table = pa.table({"id": range(len(texts)), column: texts})
    pq.write_table(table, file, row_group_size=rows)
    return file.getvalue()


def numbered(first, last):
    return [f"text {number}" for number in range(first, last)]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.commits[commit][path]; server.faults of a path are played first."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        server.asked.append((self.command, self.path, self.headers.get("Range")))
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        found = re.fullmatch(
            r"(?:/api)?/datasets/([^/]+/[^/]+)/(revision|tree|resolve)/(refs/convert/\w+|[^/]+)/?(.*)",
            path,
        )
        if not found or found[1] != server.repo:
            self.answer(404, X_Error_Code="RepoNotFound")
            return
        _, what, revision, rest = found.groups()
        commit = server.branches.get(revision, revision)
        if commit not in server.commits:
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif what == "revision":
            self.as_json({"id": server.repo, "sha": commit})
        elif what == "tree":
            files = server.commits[commit].items()
            found = [server.entry(*file) for file in files if file[0].startswith(rest)]
            if found:
                self.as_json(found)
            else:
                self.answer(404, X_Error_Code="EntryNotFound")
        else:
            self.file(commit, rest)

    def as_json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def file(self, commit, path):
        content = self.server.commits[commit].get(path)
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        about = {
            "X_Repo_Commit": commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X_Linked_Size": str(len(content)),
        }
        fault = next(self.server.faults, None) if self.command == "GET" else None
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if isinstance(fault, int):  # cut the connection after that many bytes
            about["Content_Length"] = str(len(content) - start)
            self.close_connection = True
            content = content[: start + fault]
        elif fault is not None:  # other content of the same length
            content = fault(content)
        if start:
            about["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:], **about)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one dataset, "poets/works": two commits, `main` is at the first."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repo, server.asked, server.faults = "poets/works", [], iter(())
    server.branches = {"main": FIRST}
    files = {
        "README.md": b"# Works",
        "data/train-00000-of-00002.parquet": parquet(numbered(0, 7)),
        "data/train-00001-of-00002.parquet": parquet(numbered(7, 12)),
        "data/test-00000-of-00001.parquet": parquet(["held out"]),
    }
    changed = files | {"data/train-00000-of-00002.parquet": parquet(["changed"])}
    server.commits = {FIRST: files, SECOND: changed}

    def entry(path, content):
        about = {"type": "file", "path": path, "size": len(content), "oid": "c" * 40}
        if path.endswith(".parquet"):
            sha256 = hashlib.sha256(content).hexdigest()
            about["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return about

    server.entry = entry
    server.handle_error = lambda *_: None  # a client that leaves is no error here
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(hub, **options):
    return hub_documents(options.pop("name", hub.repo), endpoint=hub.url, **options)


def ranges(hub):
    """What the files asked for were asked for from."""
    return [range_ for method, path, range_ in hub.asked if method == "GET" and "resolve" in path]


# ---- All is well ----


def test_texts_come_in_the_order_of_files_and_rows(hub):
    assert list(read(hub)) == numbered(0, 12)
    assert list(read(hub, split="test")) == ["held out"]


def test_the_record_pins_the_commit_and_every_file(hub):
    documents = read(hub)
    names = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    contents = [hub.commits[FIRST][name] for name in names]
    assert documents.record == {
        "repo": "poets/works",
        "revision": "main",
        "commit": FIRST,
        "column": "text",
        "files": [
            {"path": name, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()}
            for name, c in zip(names, contents, strict=True)
        ],
    }
    assert json.loads(json.dumps(documents.record)) == documents.record


def test_files_are_fetched_when_they_are_reached_and_only_once(hub):
    documents = read(hub)
    assert ranges(hub) == []
    next(documents)
    assert len(ranges(hub)) == 1
    list(documents)
    list(read(hub))
    assert len(ranges(hub)) == 2


def test_a_branch_that_moves_is_not_followed(hub):
    documents = read(hub)
    next(documents)
    hub.branches["main"] = SECOND
    assert list(documents) == numbered(1, 12)
    assert next(read(hub)) == "changed"
    assert next(read(hub, revision=documents.record["commit"])) == "text 0"


def test_from_any_position_the_same_texts_follow(hub):
    whole = read(hub)
    for done in range(13):
        position = json.loads(json.dumps(whole.position))
        assert list(read(hub, start=position)) == numbered(done, 12)
        next(whole, None)


def test_positions_count_files_groups_and_rows(hub):
    documents = read(hub)
    places = [documents.position, *(documents.position for _ in documents)]
    assert places[:5] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 1)]
    assert places[7:] == [(0, 2, 1), (1, 0, 1), (1, 0, 2), (1, 0, 3), (1, 1, 1), (1, 1, 2)]


def test_another_column_and_another_pattern_may_be_read(hub):
    hub.commits[FIRST]["more/poems.parquet"] = parquet(["a poem"], column="content")
    assert list(read(hub, files="more/*.parquet", column="content")) == ["a poem"]
    assert any("/more?" in path for _, path, _ in hub.asked), "only that folder is listed"


@pytest.mark.parametrize(
    ("name", "path", "column"),
    [
        ("fineweb", "sample/10BT/000_00000.parquet", "text"),
        ("fineweb-edu", "sample/10BT/000_00000.parquet", "text"),
        ("openwebtext", "plain_text/train/0000.parquet", "text"),
        ("openwebtext", "plain_text/partial-train/0000.parquet", "text"),
        ("codeparrot", "default/partial-train/0000.parquet", "content"),
    ],
)
def test_datasets_with_short_names_are_found(hub, name, path, column):
    hub.repo = HUB_DATASETS[name].repo
    hub.branches["refs/convert/parquet"] = FIRST
    hub.commits[FIRST] = {path: parquet(["one", "two"], column)}
    assert list(read(hub, name=name)) == ["one", "two"]


def test_where_no_path_names_a_split_all_is_for_training(hub):
    hub.commits[FIRST] = {"b.parquet": parquet(["b"]), "a.parquet": parquet(["a"])}
    assert list(read(hub)) == ["a", "b"]
    with pytest.raises(ValueError, match="is of the split 'test'; it has a.parquet, b.parquet"):
        read(hub, split="test")


def test_the_hub_may_be_named_by_the_environment(hub):
    program = "from tricycle_datasets import hub_documents; print(*hub_documents('poets/works'))"
    environment = os.environ | {"HF_ENDPOINT": hub.url}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert printed.stdout.decode().strip() == " ".join(numbered(0, 12)), printed.stderr.decode()


# ---- Faults ----


def test_after_a_cut_the_rest_is_asked_for(hub, monkeypatch):
    # How many bytes huggingface-hub writes at once, usually ten million; these files are small.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.faults = iter([1000])
    assert list(read(hub)) == numbered(0, 12)
    assert ranges(hub) == [None, "bytes=1000-", None]


def damaged(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def test_a_file_that_arrives_damaged_is_fetched_again(hub):
    hub.faults = iter([damaged])
    assert list(read(hub)) == numbered(0, 12)
    assert ranges(hub) == [None, None, None]


def test_a_file_that_is_wrong_twice_is_refused(hub):
    hub.faults = itertools.repeat(damaged)
    with pytest.raises(ConnectionError) as caught:
        list(read(hub))
    content = hub.commits[FIRST]["data/train-00000-of-00002.parquet"]
    wrong, right = (hashlib.sha256(c).hexdigest() for c in (damaged(content), content))
    assert "gave another data/train-00000-of-00002.parquet of poets/works" in str(caught.value)
    assert f"sha256 {wrong}, wanted {right}" in str(caught.value)


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(hub, tmp_path):
    list(read(hub, folder=tmp_path / "kept"))
    path = tmp_path / "kept" / "poets/works" / FIRST / "data/train-00000-of-00002.parquet"
    path.write_bytes(damaged(path.read_bytes()))
    assert list(read(hub, folder=tmp_path / "kept")) == numbered(0, 12)


def test_texts_go_on_after_the_hub_was_away(hub, monkeypatch):
    documents = read(hub)
    for _ in range(7):
        next(documents)
    files = hub.commits.pop(FIRST)
    with pytest.raises(ConnectionError, match="could not fetch data/train-00001-of-00002.parquet"):
        next(documents)
    hub.commits[FIRST] = files
    assert list(read(hub, start=documents.position)) == numbered(7, 12)
    assert list(documents) == numbered(7, 12)
    assert list(documents) == []


# ---- Errors ----


def test_a_name_that_is_none_is_named():
    wanted = (
        "no dataset 'fineweb2': wanted one of fineweb, fineweb-edu, openwebtext, codeparrot, or"
    )
    with pytest.raises(ValueError, match=wanted):
        hub_documents("fineweb2")


def test_a_hub_that_cannot_be_reached_is_named(hub):
    hub.shutdown()
    hub.server_close()
    wanted = rf"could not list the dataset poets/works \(revision main\) at {hub.url}: .*refused"
    with pytest.raises(ConnectionError, match=wanted):
        read(hub)


def test_a_dataset_or_a_revision_that_is_not_there_is_named(hub):
    with pytest.raises(ConnectionError, match="could not list the dataset poets/letters .*404"):
        read(hub, name="poets/letters")
    with pytest.raises(ConnectionError, match="poets/works .revision v2. .*404"):
        read(hub, revision="v2")


def test_what_cannot_be_chosen_is_named(hub):
    with pytest.raises(ValueError, match="is of the split 'valid'; it has data/test-00000-of-0"):
        read(hub, split="valid")
    with pytest.raises(ValueError, match="no file of .* at revision main fits 'x/.': it has no f"):
        read(hub, files="x/*")
    with pytest.raises(ValueError, match="no file of .* fits 'data/x.'; it has data/test-00000-of"):
        read(hub, files="data/x*")
    hub.commits[FIRST]["raw/train.parquet"] = parquet(["a"])
    wanted = r"has files in 2 folders, and the same texts may be in two; .* data/\*\.parquet"
    with pytest.raises(ValueError, match=wanted):
        read(hub)
    hub.commits[FIRST] = {"README.md": b"# Nothing"}
    with pytest.raises(ValueError, match="has no .parquet files; the hub's own conversion may"):
        read(hub)


def test_a_file_without_a_sha256_is_refused(hub):
    hub.entry = lambda path, content: {"type": "file", "path": path, "size": 1, "oid": "c" * 40}
    with pytest.raises(ValueError, match="train-00000-of-00002.parquet of .* has no sha256 on the"):
        read(hub)


@pytest.mark.parametrize("start", [(2, 0, 0), (0, 0, -1), (0, 0)])
def test_a_wrong_start_is_named(hub, start):
    wanted = rf"start {re.escape(str(start))} is not a \(file, row group, row\) of the 2 files of"
    with pytest.raises(ValueError, match=wanted):
        read(hub, start=start)


@pytest.mark.parametrize("start", [(0, 3, 0), (0, 0, 4)])
def test_a_start_beyond_a_file_is_named_on_reaching_it(hub, start):
    with pytest.raises(ValueError, match="has no row . in a row group . of its 3: is it the file"):
        next(read(hub, start=start))


def test_a_missing_column_is_named(hub):
    with pytest.raises(ValueError, match=r"has no column \"code\", only \['id', 'text'\]"):
        next(read(hub, column="code"))


def test_a_disk_error_is_no_connection_error(hub, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises((NotADirectoryError, FileExistsError), match="file"):
        next(read(hub, folder=tmp_path / "file"))


def test_without_the_library_the_extra_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'tricycle-datasets\[hub\]'"):
        read(hub)


@pytest.mark.parametrize(
    "path", ["../../evil.parquet", "data/../../evil.parquet", "/evil.parquet", "a\\\\b.parquet"]
)
def test_a_hub_that_lists_files_outside_of_the_folder_is_refused(hub, tmp_path, path):
    hub.commits[FIRST][path.replace("\\\\", "\\")] = parquet(["evil"])
    with pytest.raises(
        ConnectionError, match="would lie outside of the folder where files are kept"
    ):
        read(hub)
    assert not list(tmp_path.rglob("evil*"))


def test_a_hub_that_gives_a_path_for_a_commit_is_refused(hub):
    hub.branches["main"] = "../.."
    hub.commits["../.."] = hub.commits[FIRST]
    with pytest.raises(
        ConnectionError, match=r"could not list .* it gave '\.\./\.\.' for a commit"
    ):
        read(hub)


@pytest.mark.parametrize("name", ["../..", "poets/..", "./works"])
def test_a_name_is_no_path(hub, name):
    with pytest.raises(ValueError, match="no dataset "):
        read(hub, name=name)
