"""Downloads: pinned, resumed, and honest about what went wrong. The server is our own."""

import contextlib
import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tricycle_bpe import Tokeniser, named

DATA = bytes(range(256)) * 1000


class Server(BaseHTTPRequestHandler):
    """Serves DATA; understands ranges if told to, and can hang up early."""

    resumes = True
    hang_up_after: int | None = None
    endless = False
    asked: list[str | None] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        begin = int(wanted[6:-1]) if wanted and self.resumes else 0
        if begin >= len(DATA):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if self.endless:
            self.end_headers()
            with contextlib.suppress(OSError):  # until the other side hangs up
                while True:
                    self.wfile.write(b"for ever " * 1000)
            return
        self.send_header("Content-Length", str(len(DATA) - begin))
        self.end_headers()
        self.wfile.write(DATA[begin : self.hang_up_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(named.SHA256, "r50k_base.tiktoken", hashlib.sha256(DATA).hexdigest())
    monkeypatch.setitem(named.SIZES, "r50k_base.tiktoken", len(DATA))
    handler = type("Handler", (Server,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}/"
        yield handler
        running.shutdown()


def test_a_file_is_fetched_once(server):
    for _ in range(2):
        path, pattern, special_tokens = named.fetch("gpt2", server.url)
        assert path.read_bytes() == DATA
    assert (pattern, special_tokens) == ("gpt2", {"<|endoftext|>": 50256})
    assert server.asked == [None]


def test_a_download_that_was_cut_continues_where_it_stopped(server):
    server.hang_up_after = 100_000
    with pytest.raises(OSError, match="cut after 100000 of 256000 bytes; another call continues"):
        named.fetch("gpt2", server.url)
    server.hang_up_after = None
    path, _, _ = named.fetch("gpt2", server.url)
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_that_cannot_resume_is_asked_for_all_of_it(server):
    server.hang_up_after = 100_000
    with pytest.raises(OSError):
        named.fetch("gpt2", server.url)
    server.hang_up_after, server.resumes = None, False
    path, _, _ = named.fetch("gpt2", server.url)
    assert path.read_bytes() == DATA


def test_a_partial_file_that_is_complete_is_used(server):
    partial = named.cache_folder() / "r50k_base.tiktoken.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA)
    assert named.fetch("gpt2", server.url)[0].read_bytes() == DATA


def test_another_file_than_expected_is_refused(server, monkeypatch):
    monkeypatch.setitem(named.SHA256, "r50k_base.tiktoken", "0" * 64)
    with pytest.raises(ValueError, match="is not the expected file: .* its sha256 is not 000"):
        named.fetch("gpt2", server.url)
    assert [path.name for path in named.cache_folder().iterdir()] == ["r50k_base.tiktoken.lock"]


def test_a_server_that_sends_for_ever_is_cut_at_the_size_of_the_file(server):
    server.endless = True
    with pytest.raises(ValueError, match="not the expected file: it has not 256,000 bytes"):
        named.fetch("gpt2", server.url)
    assert not (named.cache_folder() / "r50k_base.tiktoken").exists()


def test_a_server_that_sends_too_slowly_is_left(server, monkeypatch):
    monkeypatch.setattr(named, "SECONDS_IN_ALL", -1)
    with pytest.raises(OSError, match="the connection was too slow after .* of 256000 bytes"):
        named.fetch("gpt2", server.url)


def test_three_processes_at_once_fetch_a_file_once(server, tmp_path):
    program = (
        "import hashlib, sys\n"
        "from tricycle_bpe import named\n"
        "named.SHA256['r50k_base.tiktoken'] = sys.argv[2]\n"
        "named.SIZES['r50k_base.tiktoken'] = int(sys.argv[3])\n"
        "print(named.fetch('gpt2', sys.argv[1])[0].stat().st_size)\n"
    )
    sha256 = hashlib.sha256(DATA).hexdigest()
    command = [sys.executable, "-c", program, server.url, sha256, str(len(DATA))]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["256000\n"] * 3
    assert server.asked == [None]


def test_without_a_network_one_is_told_what_to_fetch_and_where_to_put_it(server, monkeypatch):
    monkeypatch.setattr(named, "SOURCE", "http://127.0.0.1:9/")
    with pytest.raises(OSError, match="r50k_base.tiktoken could not be downloaded .* put it at /"):
        named.fetch("gpt2", named.SOURCE)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no tokeniser named 'gpt5'; known are gpt2, r50k_base"):
        Tokeniser.named("gpt5")


def test_a_file_put_into_the_cache_is_all_that_is_needed(data_file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(named, "SOURCE", "http://127.0.0.1:9/")
    named.cache_folder().mkdir(parents=True)
    ranks = data_file("vocab/r50k_base.tiktoken").read_bytes()
    (named.cache_folder() / "r50k_base.tiktoken").write_bytes(ranks)
    gpt2 = Tokeniser.named("gpt2")
    assert gpt2.encode("hello world") == [31373, 995]
    assert gpt2.name == "gpt2"


def test_special_tokens_are_those_of_tiktoken(data_file):
    from tiktoken_ext import openai_public

    patch = pytest.MonkeyPatch()
    for loader in "load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks":
        patch.setattr(openai_public, loader, lambda *_, **__: {})
    for name, (_, _, special_tokens) in named.NAMED.items():
        theirs = dict(getattr(openai_public, name)()["special_tokens"])
        if name == "o200k_harmony":
            theirs.pop("<|reserved_200018|>")  # it has the id of <|endofprompt|>
        assert special_tokens == theirs
    patch.undo()
