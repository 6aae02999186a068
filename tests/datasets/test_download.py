"""The downloader against a server on this machine that misbehaves; nothing broken is ever kept."""

import errno
import functools
import hashlib
import http.server
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tfm_lib.datasets import download
from tfm_lib.datasets.download import DownloadError

CONTENT = random.Random(0).randbytes(300_007)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
fetch = functools.partial(download.fetch, sha256=SHA256, pause=0.01, progress=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """The last part of the address says how the server behaves; each request is written down."""

    def do_GET(self):
        behaviour, wanted = self.path.strip("/"), self.headers["Range"]
        self.server.requests.append((behaviour, wanted))
        content = b"an error page" * 99 if behaviour.startswith("wrong") else CONTENT
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if behaviour == "busy" and Counter(self.server.requests)["busy", wanted] < 3:
            self.send_error(503)
        elif behaviour in ("404", "500"):
            self.send_error(int(behaviour))
        elif start >= len(content):
            self.send_error(416)
        else:
            if behaviour == "plain":
                start = 0
            self.send_response(206 if start else 200)
            if behaviour != "unsized":
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            getattr(self, f"send_{behaviour}", self.wfile.write)(content[start:])

    def send_slow(self, content):
        for begin in range(0, len(content), 20_000):
            self.wfile.write(content[begin : begin + 20_000])
            time.sleep(0.01)

    def send_cut(self, content):
        self.wfile.write(content[:HALF])

    def send_crumbs(self, content):
        self.wfile.write(content[:1000])

    def send_wrong_crumbs(self, content):
        self.wfile.write(content[:100])

    def send_silent(self, content):
        self.wfile.write(content[:HALF])
        self.server.go_on.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def started_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.handle_error = lambda *_: None  # a client that goes away is no news
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(started_server, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    started_server.requests = []
    started_server.go_on = threading.Event()
    yield started_server
    started_server.go_on.set()


@pytest.fixture
def path(tmp_path):
    """Where to download to; whatever happened, only whole files and beginnings are there."""
    path = tmp_path / "cache" / "file.gz"
    yield path
    if path.parent.exists():
        found = {found.name: found.read_bytes() for found in path.parent.iterdir()}
        assert found.keys() <= {"file.gz", "file.gz.part", ".lock"}
        assert found.get("file.gz", CONTENT) == CONTENT
        assert CONTENT.startswith(found.get("file.gz.part", b""))
        assert not {"file.gz", "file.gz.part"} <= found.keys()


def part_of(path: Path) -> Path:
    return path.with_name("file.gz.part")


def leave_part(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    part_of(path).write_bytes(content)


@pytest.mark.parametrize("behaviour", ["good", "plain", "slow", "unsized"])
def test_a_file_arrives_whole(server, path, behaviour):
    assert fetch([f"{server.url}/{behaviour}"], path) == path
    assert path.read_bytes() == CONTENT
    assert server.requests == [(behaviour, None)]


def test_a_file_that_is_there_is_not_fetched_again(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert fetch([f"{server.url}/404"], path) == path
    assert server.requests == []
    assert list(path.parent.iterdir()) == [path]  # not even a lock: the folder may be read-only


def test_a_wrong_file_in_its_place_is_replaced(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    assert fetch([f"{server.url}/good"], path).read_bytes() == CONTENT


def test_a_cut_connection_is_resumed(server, path):
    assert fetch([f"{server.url}/cut"], path).read_bytes() == CONTENT
    ranges = [None, f"bytes={HALF}-", f"bytes={2 * HALF}-"]  # the last byte alone
    assert server.requests == [("cut", wanted) for wanted in ranges]


def test_a_server_that_falls_silent_is_given_up_and_what_came_is_kept(server, path):
    with pytest.raises(DownloadError, match="silent: timed out"):
        fetch([f"{server.url}/silent"], path, timeout=0.3, attempts=1)
    assert part_of(path).read_bytes() == CONTENT[:HALF]
    fetch([f"{server.url}/good"], path)
    assert server.requests[-1] == ("good", f"bytes={HALF}-")


@pytest.mark.parametrize("behaviour", ["good", "plain"])
def test_an_earlier_part_is_gone_on_with_or_written_anew(server, path, behaviour):
    leave_part(path, CONTENT[:HALF])
    assert fetch([f"{server.url}/{behaviour}"], path).read_bytes() == CONTENT
    assert server.requests == [(behaviour, f"bytes={HALF}-")]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b"other" * 99])
def test_a_part_that_is_whole_too_long_or_of_another_file(server, path, part):
    leave_part(path, part)
    assert fetch([f"{server.url}/good"], path).read_bytes() == CONTENT
    expected = [("good", f"bytes={len(part)}-"), ("good", None)]
    assert server.requests == (expected[:1] if part == CONTENT else expected)


def test_passing_errors_are_tried_again_ever_more_slowly(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    fetch([f"{server.url}/busy"], path, pause=2)
    assert len(server.requests) == 3
    assert pauses == [2, 4]


def test_mirrors_take_their_turns_and_wrong_bytes_are_deleted(server, path):
    urls = [f"{server.url}/{behaviour}" for behaviour in ("404", "wrong", "wrong_crumbs", "good")]
    assert fetch(urls, path, attempts=2).read_bytes() == CONTENT
    tried = Counter(behaviour for behaviour, _ in server.requests)
    # The crumbs of a wrong file are gone on with, found wrong, and the good mirror starts anew.
    assert tried == {"404": 1, "wrong": 1, "wrong_crumbs": 2, "good": 2}


def test_the_error_says_what_failed_at_each_mirror_and_what_to_do_by_hand(server, path):
    urls = [f"{server.url}/{behaviour}" for behaviour in ("404", "500", "crumbs", "wrong")]
    urls.append("http://127.0.0.1:1/refused")
    with pytest.raises(DownloadError) as error:
        fetch(urls, path, attempts=2)
    message = str(error.value)
    assert message.startswith("file.gz was not downloaded:")
    assert f"{urls[0]}: HTTP 404 Not Found" in message
    assert f"{urls[1]}: HTTP 500 Internal Server Error" in message
    assert f"{urls[2]}: cut off after 2000 of {len(CONTENT)} bytes" in message
    assert f"{urls[3]}: wrong bytes" in message
    assert re.search(rf"{re.escape(urls[4])}: .*refused", message)
    by_hand = message.partition("By hand")[2]
    assert all(f"\n  {url}" in by_hand for url in urls)
    assert f"\nas {path}\n" in by_hand
    assert SHA256 in by_hand
    assert not path.exists()


def test_a_name_that_cannot_be_found_is_an_error_of_its_mirror(path):
    """Here the offline guard refuses to look the name up, as a computer without network does."""
    with pytest.raises(DownloadError, match=r"mirror\.example/file\.gz: .*without a network"):
        fetch(["https://mirror.example/file.gz"], path, attempts=1)


class FullDisk(io.FileIO):
    def write(self, content):
        if self.tell() + len(content) > HALF:
            super().write(content[: HALF - self.tell()])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def test_a_full_disk_is_named_and_after_the_mend_the_download_goes_on(server, path, monkeypatch):
    def open_on_full_disk(path, mode):
        return FullDisk(path, mode) if "b" in mode and mode != "rb" else io.open(path, mode)  # noqa: UP020

    urls = [f"{server.url}/good", f"{server.url}/plain"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_full_disk)
        with pytest.raises(DownloadError, match=r"the disk: .*No space left on device") as error:
            fetch(urls, path)
    assert str(path) in str(error.value)
    assert [behaviour for behaviour, _ in server.requests] == ["good"]  # others cannot help
    assert part_of(path).read_bytes() == CONTENT[:HALF]
    assert fetch(urls, path).read_bytes() == CONTENT
    assert server.requests[-1] == ("good", f"bytes={HALF}-")


def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(server, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(DownloadError, match="the disk: "):
        fetch([f"{server.url}/good"], tmp_path / "cache" / "file.gz")
    assert server.requests == []


def test_a_stopped_download_leaves_its_part_alone(server, path, monkeypatch):
    class Stopped(download.tqdm):
        arrived = 0

        def update(self, n=1):
            self.arrived += n
            if self.arrived >= HALF:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "tqdm", Stopped)
        with pytest.raises(KeyboardInterrupt):
            fetch([f"{server.url}/slow"], path)
    arrived = part_of(path).stat().st_size
    assert HALF <= arrived < len(CONTENT)
    assert fetch([f"{server.url}/good"], path).read_bytes() == CONTENT
    assert server.requests[-1] == ("good", f"bytes={arrived}-")


def test_threads_that_want_the_same_file_fetch_it_once(server, path):
    together = threading.Barrier(3)
    results = []

    def reader():
        together.wait()
        results.append(fetch([f"{server.url}/slow"], path).read_bytes())

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 3
    assert server.requests == [("slow", None)]


def start_reader(url: str, path: Path) -> subprocess.Popen:
    call = f"fetch([{url!r}], {str(path)!r}, sha256={SHA256!r}, progress=False)"
    # A pytest that runs in the background hands down that Ctrl-C is ignored.
    ctrl_c = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal; {ctrl_c}; from tfm_lib.datasets.download import fetch; {call}"
    return subprocess.Popen([sys.executable, "-c", code])


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_waits_for_another_and_goes_on_when_that_one_is_killed(server, path):
    first = start_reader(f"{server.url}/silent", path)
    wait_until(lambda: part_of(path).exists() and part_of(path).stat().st_size >= HALF - 70_000)
    second = start_reader(f"{server.url}/good", path)
    third = start_reader(f"{server.url}/good", path)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    assert [behaviour for behaviour, _ in server.requests] == ["silent"]
    first.kill()
    first.wait()
    assert second.wait(60) == third.wait(60) == 0
    assert path.read_bytes() == CONTENT
    (behaviour, wanted), *more = server.requests[1:]
    assert behaviour == "good"
    assert wanted.startswith("bytes=")
    assert more == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_process_and_leaves_a_part_to_go_on_with(server, path):
    process = start_reader(f"{server.url}/silent", path)
    wait_until(lambda: part_of(path).exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    assert fetch([f"{server.url}/good"], path).read_bytes() == CONTENT


def test_progress_is_shown_in_bytes_on_standard_error_alone(server, path, capsys):
    fetch([f"{server.url}/good"], path, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "file.gz: 100%" in shown.err
    assert "300k/300k" in shown.err
