"""The first process of a server's own namespaces: own shared memory, loopback up, connections let in, orphans reaped.

Started as a plain script by `running.py`: `inside.py [FD:PORT]... -- COMMAND...`. FD is a listening socket made in the
caller's network; every connection to it is carried to 127.0.0.1:PORT of the network that this process is in. It ends
with the status of COMMAND, and with it the whole process namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # linux/sockios.h, linux/if.h
MS_NOSUID, MS_NODEV = 0x2, 0x4  # linux/mount.h


def own_shared_memory() -> None:
    """A killed server cannot unlink its segments in /dev/shm; on a file system of its own they end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV, None) != 0:
        raise OSError(ctypes.get_errno(), "a file system of the server's own cannot be mounted on /dev/shm")


def watch_lifeline() -> None:
    """Standard input is a pipe from the test process, which never writes: its end means that there is nobody left."""
    os.read(0, 1)
    os._exit(1)


def raise_loopback() -> None:
    """A new network namespace has a loopback that is down; `ip` is not everywhere, these two calls are."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        flags = struct.unpack("16sH", fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sH", b"lo", 0)))[1]
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sH", b"lo", flags | IFF_UP))


def carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes of one direction, until its end is reached; the end is passed on."""
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    for side, way in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            side.shutdown(way)


def connect(client: socket.socket, port: int) -> None:
    """One connection, both directions, closed when both have ended; at once when nobody listens inside."""
    with client:
        try:
            server = socket.create_connection(("127.0.0.1", port))
        except OSError:
            return
        with server:
            back = threading.Thread(target=carry, args=(server, client), daemon=True)
            back.start()
            carry(client, server)
            back.join()


def forward(listener: socket.socket, port: int) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=connect, args=(client, port), daemon=True).start()


def main(arguments: list[str]) -> int:
    split = arguments.index("--")
    doors = [word.split(":") for word in arguments[:split]]
    threading.Thread(target=watch_lifeline, daemon=True).start()
    own_shared_memory()
    if doors:
        raise_loopback()
    child = subprocess.Popen(arguments[split + 1 :], stdin=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _: child.send_signal(got))
    for number, port in doors:
        listener = socket.socket(fileno=int(number))
        threading.Thread(target=forward, args=(listener, int(port)), daemon=True).start()
    while True:  # orphans of the server come to the first process of the namespace: they are reaped here
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            child.returncode = code
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
