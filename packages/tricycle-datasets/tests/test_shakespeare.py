"""The two Shakespeares are exactly the texts that their names promise."""

import http.server
import lzma
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tricycle_datasets import download, load_shakespeare, load_tinyshakespeare, shakespeare


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path))
    return tmp_path / "tricycle" / "datasets"


@pytest.fixture
def tinyshakespeare():
    """The real file, as bytes."""
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: tinyshakespeare.txt is looked for there")
    return (Path(os.environ["TRICYCLE_TEST_DATA"]) / "tinyshakespeare.txt").read_bytes()


def test_the_complete_works_are_complete():
    text = load_shakespeare()
    assert len(text) == 5_057_321
    assert len(set(text)) == 84
    assert text.startswith("ALL'S WELL THAT ENDS WELL\n")
    assert "To be, or not to be,--that is the question:--" in text
    assert "Shall I compare thee to a summer's day?" in text
    assert "Gutenberg" not in text


def test_the_attribution_travels_with_the_text():
    attribution = (shakespeare.SHAKESPEARE.parent / "ATTRIBUTION").read_text("ascii")
    assert "Open Knowledge Foundation" in attribution
    assert "Open Knowledge Foundation" in shakespeare.__doc__


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:1000], "end-of-stream"),
        (lambda data: b"", "end-of-stream"),
        (lambda data: b"not xz" + data, "not supported"),
        (
            lambda data: lzma.compress(lzma.decompress(data) + b"\n", preset=0),
            "its text has sha256",
        ),
    ],
)
def test_a_damaged_installation_is_noticed(monkeypatch, tmp_path, damage, reason):
    file = tmp_path / "shakespeare.txt.xz"
    file.write_bytes(damage(shakespeare.SHAKESPEARE.read_bytes()))
    monkeypatch.setattr(shakespeare, "SHAKESPEARE", file)
    with pytest.raises(ValueError, match=r"shakespeare\.txt\.xz is damaged: .*; install it again"):
        load_shakespeare()
    with pytest.raises(ValueError, match=reason):
        load_shakespeare()


def test_tinyshakespeare_is_read_from_the_cache(cache, tinyshakespeare, monkeypatch):
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(tinyshakespeare)
    monkeypatch.setattr(shakespeare, "TINYSHAKESPEARE_URL", "http://127.0.0.1:9/not-asked")
    text = load_tinyshakespeare()
    assert len(text) == 1_115_394
    assert len(set(text)) == 65
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")


def test_tinyshakespeare_is_downloaded_once(cache, tinyshakespeare, monkeypatch):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(tinyshakespeare)))
            self.end_headers()
            self.wfile.write(tinyshakespeare)

        def log_message(self, *_):
            pass

    asked: list[str] = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/input.txt"
        monkeypatch.setattr(shakespeare, "TINYSHAKESPEARE_URL", url)
        assert load_tinyshakespeare() == load_tinyshakespeare() == tinyshakespeare.decode()
        server.shutdown()
    assert asked == ["/input.txt"]
    assert (cache / "tinyshakespeare.txt").read_bytes() == tinyshakespeare


def test_without_a_connection_it_says_what_to_put_where(cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(shakespeare, "TINYSHAKESPEARE_URL", "http://127.0.0.1:9/input.txt")
    with pytest.raises(ConnectionError) as caught:
        load_tinyshakespeare()
    message = str(caught.value)
    assert "fetch http://127.0.0.1:9/input.txt on another machine" in message
    assert f"put it at {cache / 'tinyshakespeare.txt'} (1,115,394 bytes, sha256 86c4e6aa" in message


def test_importing_is_silent_and_reads_nothing():
    program = (
        "import sys, tricycle_datasets\n"
        "late = {'tqdm', 'filelock', 'urllib.request', 'http.client', 'ssl', 'socket'}\n"
        "print(sorted(late & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")
