"""Lessons and tests run with the network blocked, and the block bites."""

import socket
import urllib.request

import pytest

from tests.course.copies import run_copy, tiny_notebook

OUTSIDE = 'import socket\nsocket.create_connection(("192.0.2.1", 80), timeout=1)'
LOCAL = """\
import socket
server = socket.create_server(("127.0.0.1", 0))
with socket.create_connection(server.getsockname()):
    print("reached")
server.close()
"""


def test_a_lesson_that_reaches_outside_turns_the_run_red(tmp_path):
    red = run_copy(
        tmp_path,
        {
            "00_outside": tiny_notebook((OUTSIDE, "")),
            "00_local": tiny_notebook((LOCAL, "reached\n")),
        },
    )
    assert red["00_local"] == {}
    assert any("NetworkBlockedError" in message for message in red["00_outside"].values())


def send_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", ("192.0.2.1", 53))


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        send_datagram,
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.gethostbyname("example.com"),
        lambda: urllib.request.urlopen("https://example.com", timeout=1),
    ],
)
def test_the_tests_themselves_have_no_network(reach):
    with pytest.raises(OSError, match="the tests run without a network"):
        reach()
