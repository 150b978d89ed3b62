"""Downloads against a server that misbehaves in every way we could think of.

The server plays a script: one function for each connection, the last one for all that follow.
Whatever it does, the file appears whole and right, or not at all.
"""

import hashlib
import http.server
import os
import random
import re
import subprocess
import sys
import threading
import time

import pytest

from tricycle_datasets import download as module
from tricycle_datasets.download import cache_folder, download

LONG = 10 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 1

CONTENT = random.Random(0).randbytes(20_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(20_000)


# ---- A server, and what it can do to a connection ----


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        self.start = int(asked[1]) if asked else 0
        server.asked.append(self.start)
        server.script[min(len(server.asked), len(server.script)) - 1](self)

    def head(self, status, length, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_):
        pass


def honest(handler, content=CONTENT, until=None):
    """Answers the range that was asked for; `until` is where the connection is cut."""
    start = handler.start
    if start:
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206, len(content) - start, Content_Range=place)
    else:
        handler.head(200, len(content))
    handler.wfile.write(content[start:until])


def cut_at(place):
    return lambda handler: honest(handler, until=max(place, handler.start))


def other_content(handler):
    honest(handler, OTHER)


def other_content_cut_at(place):
    return lambda handler: honest(handler, OTHER, until=place)


def knows_no_ranges(handler, until=None):
    handler.head(200, len(CONTENT))
    handler.wfile.write(CONTENT[:until])


def knows_no_ranges_cut_at(place):
    return lambda handler: knows_no_ranges(handler, place)


def says_too_little(handler):
    handler.head(200, 1000)
    handler.wfile.write(CONTENT)


def says_too_much(handler):
    handler.head(200, 10 * len(CONTENT))
    handler.wfile.write(CONTENT[:5000])


def sends_too_much(handler):
    handler.head(200, len(CONTENT) + 500)
    handler.wfile.write(CONTENT + OTHER[:500])


def wrong_part(handler):
    handler.head(206, 100, Content_Range=f"bytes {handler.start + 100}-{handler.start + 199}/20000")
    handler.wfile.write(CONTENT[:100])


def unsaid_part(handler):
    handler.head(206, 100)
    handler.wfile.write(CONTENT[:100])


def lies_about_the_part(handler):
    """Says what was asked for and sends bytes from elsewhere."""
    handler.head(206, 100, Content_Range=f"bytes {handler.start}-{handler.start + 99}/20000")
    handler.wfile.write(OTHER[:100])


def login_page(handler):
    page = b"<html>Welcome to the hotel!</html>"
    handler.head(200, len(page))
    handler.wfile.write(page)


def stalls(handler):
    handler.head(200, len(CONTENT))
    handler.wfile.write(CONTENT[:3000])
    handler.wfile.flush()
    handler.server.stopped.wait(10)


def slow(handler):
    """Ten seconds for all of it: long enough to be killed in the middle."""
    handler.head(200, len(CONTENT))
    for start in range(0, len(CONTENT), 200):
        handler.wfile.write(CONTENT[start : start + 200])
        if handler.server.stopped.wait(0.1):
            return


def says_nothing(_):
    pass


def speaks_nonsense(handler):
    handler.wfile.write(b"\0\1\2 what?\r\n\r\n")


def answers(status, **headers):
    return lambda handler: handler.head(status, 0, **headers)


@pytest.fixture
def serve(monkeypatch):
    """serve(a, b, c) starts a server that plays a, then b, then c for ever; it has .url, .asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    servers = []

    def start(*script):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.script, server.asked, server.stopped = script, [], threading.Event()
        server.handle_error = lambda *_: None  # a client that leaves is no error here
        server.url = f"http://127.0.0.1:{server.server_port}/text.txt"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stopped.set()
        server.shutdown()
        server.server_close()


def get(server, path, content=CONTENT):
    sha256 = hashlib.sha256(content).hexdigest()
    return download(server.url, path, size=len(content), sha256=sha256)


def failure(server, path):
    """The message of a download that must fail, and must leave no file."""
    with pytest.raises(ConnectionError) as caught:
        get(server, path)
    assert not path.exists()
    return str(caught.value)


# ---- What it does when all is well ----


def test_a_file_is_fetched_once_and_then_read_from_the_disk(serve, tmp_path, capfd):
    server, path = serve(honest), tmp_path / "new" / "folder" / "text.txt"
    assert get(server, path) == CONTENT
    assert path.read_bytes() == CONTENT
    assert get(server, path) == CONTENT
    assert server.asked == [0]
    assert not path.with_name("text.txt.part").exists()
    assert capfd.readouterr() == ("", "")  # no bar where there is no terminal


def test_after_a_cut_only_the_rest_is_asked_for(serve, tmp_path):
    server = serve(cut_at(7000), cut_at(12_000), honest)
    assert get(server, tmp_path / "text.txt") == CONTENT
    assert server.asked == [0, 7000, 12_000]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(serve, tmp_path):
    failure(serve(cut_at(7000), says_nothing), tmp_path / "text.txt")
    server = serve(honest)
    assert get(server, tmp_path / "text.txt") == CONTENT
    assert server.asked == [7000]


def test_a_damaged_file_on_the_disk_is_replaced(serve, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(CONTENT[:-1] + b"?")
    assert get(serve(honest), path) == CONTENT
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("leftover", [OTHER[:9000], CONTENT + b"more", OTHER, b"", CONTENT])
def test_a_leftover_part_is_continued_or_thrown_away(serve, tmp_path, leftover):
    (tmp_path / "text.txt.part").write_bytes(leftover)
    assert get(serve(honest), tmp_path / "text.txt") == CONTENT


def test_a_redirect_to_http_is_followed(serve, tmp_path):
    target = serve(honest)
    server = serve(answers(302, Location=target.url))
    assert get(server, tmp_path / "text.txt") == CONTENT


def test_bytes_beyond_the_end_are_not_read(serve, tmp_path):
    assert get(serve(sends_too_much), tmp_path / "text.txt") == CONTENT


# ---- What it does when the server misbehaves, then recovers ----


@pytest.mark.parametrize(
    "fault",
    [
        other_content_cut_at(5000),
        other_content,
        knows_no_ranges,
        says_too_little,
        says_too_much,
        sends_too_much,
        wrong_part,
        unsaid_part,
        lies_about_the_part,
        login_page,
        stalls,
        says_nothing,
        speaks_nonsense,
        answers(503),
        answers(429),
        answers(302, Location="http://[broken"),
    ],
)
def test_one_fault_is_survived(serve, tmp_path, fault):
    assert get(serve(fault, honest), tmp_path / "text.txt") == CONTENT
    other = tmp_path / "other" / "text.txt"
    assert get(serve(cut_at(4000), fault, honest), other) == CONTENT


def test_content_that_changes_between_two_connections_is_fetched_again(serve, tmp_path):
    server = serve(other_content_cut_at(5000), honest, honest)
    assert get(server, tmp_path / "text.txt") == CONTENT
    assert server.asked == [0, 5000, 0]


def test_a_server_without_ranges_loses_nothing_that_was_there(serve, tmp_path):
    server = serve(cut_at(7000), knows_no_ranges_cut_at(3000), knows_no_ranges)
    assert get(server, tmp_path / "text.txt") == CONTENT
    assert server.asked == [0, 7000, 7000]


def test_500_random_faults_and_never_a_wrong_file(serve, tmp_path):
    chance = random.Random(7)
    faults = [
        *[honest, other_content, knows_no_ranges, says_too_little, says_too_much, sends_too_much],
        *[wrong_part, unsaid_part, lies_about_the_part, login_page, says_nothing, answers(503)],
    ]
    n_connections = n_files = 0
    while n_connections < 500 * LONG:
        path = tmp_path / f"{n_connections}.txt"
        cuts = [cut_at(chance.randrange(20_000)) for _ in range(8)]
        server = serve(*chance.choices([*cuts, *cuts, *faults], k=chance.randrange(1, 30)))
        for _ in range(3):
            try:
                assert get(server, path) == CONTENT
            except ConnectionError:
                assert not path.exists()
            else:
                assert path.read_bytes() == CONTENT
                n_files += 1
                break
        n_connections += len(server.asked)
    assert n_files > 10


# ---- What it says when it cannot ----


def test_without_a_connection_it_says_what_to_put_where(serve, tmp_path):
    server, path = serve(honest), tmp_path / "text.txt"
    server.server_close()
    server.shutdown()
    message = failure(server, path)
    assert message.startswith("could not download text.txt: ")
    assert "refused" in message
    assert f"fetch {server.url} on another machine and put it at {path} (20,000 bytes" in message
    assert f"sha256 {SHA256})" in message


def test_a_wrong_file_put_there_by_hand_is_mentioned(serve, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(OTHER)
    with pytest.raises(ConnectionError, match="the file that lies there now is not it"):
        get(serve(says_nothing), path)
    assert path.read_bytes() == OTHER


def test_a_file_that_is_gone_is_not_asked_for_twice(serve, tmp_path):
    server = serve(answers(404))
    assert "text.txt answered 404 Not Found" in failure(server, tmp_path / "text.txt")
    assert server.asked == [0]


def test_a_file_that_was_replaced_for_good_is_refused(serve, tmp_path):
    server = serve(other_content)
    wanted = f"gave another file, with sha256 {hashlib.sha256(OTHER).hexdigest()}"
    assert wanted in failure(server, tmp_path / "text.txt")
    assert server.asked == [0, 0]


@pytest.mark.parametrize(
    ("always", "wanted"),
    [
        (login_page, "the connection ended at byte 34 of 20,000"),
        (answers(503), "answered 503 Service Unavailable"),
        (says_nothing, "closed connection without response"),
        (unsaid_part, "a partial answer does not say which part: ''"),
        (wrong_part, "asked for bytes from 0, got them from 100"),
    ],
)
def test_a_fault_that_stays_is_named(serve, tmp_path, always, wanted):
    server = serve(always)
    assert wanted in failure(server, tmp_path / "text.txt")
    assert len(server.asked) <= module.TRIES + 1


def test_a_server_that_stalls_is_left(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 2)
    assert "timed out" in failure(serve(stalls), tmp_path / "text.txt")


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_leads_to_http_only(serve, tmp_path, scheme):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(CONTENT)  # the right bytes, so that only the scheme can be what stops it
    server = serve(answers(302, Location=f"{scheme}://{secret}"))
    assert re.search("not allowed|unknown url type", failure(server, tmp_path / "text.txt"))


def test_a_disk_error_is_no_connection_error(serve, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    server = serve(honest)
    with pytest.raises((NotADirectoryError, FileExistsError), match="file"):
        get(server, tmp_path / "file" / "text.txt")
    assert server.asked == []


# ---- Processes ----


def start_process(server, path):
    program = (
        "import sys; from pathlib import Path; from tricycle_datasets.download import download\n"
        "url, path, sha256 = sys.argv[1:]\n"
        "print(len(download(url, Path(path), size=20_000, sha256=sha256)))"
    )
    command = [sys.executable, "-c", program, server.url, str(path), SHA256]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_processes_at_once_share_one_download(serve, tmp_path):
    def unhurried(handler):
        time.sleep(1)
        honest(handler)

    server, path = serve(unhurried), tmp_path / "text.txt"
    for process in [start_process(server, path) for _ in range(3)]:
        assert process.communicate(timeout=60) == ("20000\n", "")
    assert path.read_bytes() == CONTENT
    assert server.asked == [0]


def test_a_process_that_is_killed_leaves_a_part_and_no_lock(serve, tmp_path):
    server, path = serve(slow, honest), tmp_path / "text.txt"
    process = start_process(server, path)
    part = tmp_path / "text.txt.part"
    wait_for(lambda: part.exists() and part.stat().st_size >= 200)
    process.kill()
    process.communicate()
    assert not path.exists()
    assert get(server, path) == CONTENT
    assert server.asked[1] >= 200  # what had arrived was not asked for again


# ---- The cache folder ----


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRICYCLE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "tricycle" / "datasets"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tricycle" / "datasets"
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path / "ours"))
    assert cache_folder() == tmp_path / "ours" / "tricycle" / "datasets"


def test_a_server_that_is_slow_for_ever_is_left(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 1000)
    monkeypatch.setattr(module, "SECONDS_MORE", -1000.0)
    message = failure(serve(honest), tmp_path / "text.txt")
    assert "is too slow: 1,000 of 20,000 bytes have come" in message
    assert "what has arrived is kept" in message
