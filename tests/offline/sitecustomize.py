"""Python imports this at start-up where this folder is on PYTHONPATH: nothing leaves the machine.

The kernels that run the lessons under test start with it, so a lesson that needs the network fails.
Jupyter's own sockets go to the loopback address and pass.
"""

import ipaddress
import socket


class NetworkBlockedError(OSError):
    """A test tried to reach something outside this machine."""


def is_local(host):
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


def guard(function, host_of):
    def guarded(*args, **kwargs):
        host = host_of(*args, **kwargs)
        if not is_local(host):
            raise NetworkBlockedError(
                f"the tests run without a network, but {host!r} was asked for"
            )
        return function(*args, **kwargs)

    return guarded


def address_host(sock, *args):
    """The host of `sock.connect((host, port))`; a Unix socket's address is a path: local."""
    address = args[-1]
    return address[0] if isinstance(address, tuple) else None


def block():
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, guard(getattr(socket.socket, name), address_host))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, guard(getattr(socket, name), lambda host, *args, **kwargs: host))


block()
