"""The phone's side of adb, on loopback, for the real `adb` client: shell and push.

    python adbd.py FOLDER [--legacy]

prints the port that it listens on. FOLDER is the phone's disk: paths under it are the host's own.
FOLDER/bin comes first in PATH and holds what a phone would have (getprop, dumpsys). With
--legacy it lacks shell_v2, as phones before Android 7: no exit statuses, one output.

The protocol is that of Android's packages/modules/adb/protocol.txt and SYNC.TXT: packets of six
little-endian words, then the payload; every stream has a number on each side.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

VERSION = 0x01000001  # without checksums
MAX_PAYLOAD = 256 * 1024
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)  # of shell_v2's packets


def receive(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Connection:
    """One adb server, with the streams it has opened."""

    def __init__(self, connection, root, features):
        self.connection, self.root, self.features = connection, root, features
        self.lock = threading.Lock()
        self.streams = {}

    def send(self, command, mine, theirs, data=b""):
        word = struct.unpack("<I", command)[0]
        header = struct.pack("<6I", word, mine, theirs, len(data), 0, word ^ 0xFFFFFFFF)
        with self.lock:
            self.connection.sendall(header + data)

    def serve(self):
        try:
            while True:
                command, theirs, mine, size, _, _ = struct.unpack(
                    "<4s5I", receive(self.connection, 24)
                )
                self.take(command, theirs, mine, receive(self.connection, size))
        except (EOFError, OSError):
            for stream in list(self.streams.values()):
                stream.close()

    def take(self, command, theirs, mine, data):
        if command == b"CNXN":
            banner = f"device::ro.product.name=loop;ro.product.model=Loop;features={self.features}"
            self.send(b"CNXN", VERSION, MAX_PAYLOAD, banner.encode())
        elif command == b"OPEN":
            number = max(self.streams, default=0) + 1
            service = data.rstrip(b"\0").decode()
            kind = Sync if service.startswith("sync:") else Shell
            opened = self.streams[number] = kind(self, number, theirs, service)
            self.send(b"OKAY", number, theirs)
            threading.Thread(target=opened.run, daemon=True).start()
        elif (stream := self.streams.get(mine)) is None:
            return
        elif command == b"WRTE":
            self.send(b"OKAY", mine, theirs)
            os.write(stream.inbox, data)
        elif command == b"OKAY":
            stream.acknowledged.release()
        elif command == b"CLSE":
            stream.close()


class Stream:
    """What arrives is read from a pipe; what is sent waits for the other side, packet by packet."""

    def __init__(self, connection, mine, theirs, service):
        self.connection, self.mine, self.theirs, self.service = connection, mine, theirs, service
        self.outbox, self.inbox = os.pipe()
        self.acknowledged = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.closed = False

    def read(self, size):
        data = b""
        while len(data) < size:
            more = os.read(self.outbox, size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def write(self, data):
        with self.lock:
            for start in range(0, len(data), MAX_PAYLOAD):
                self.connection.send(
                    b"WRTE", self.mine, self.theirs, data[start : start + MAX_PAYLOAD]
                )
                self.acknowledged.acquire(timeout=20)

    def close(self):
        if not self.closed:
            self.closed = True
            self.connection.streams.pop(self.mine, None)
            os.close(self.inbox)

    def finish(self):
        if not self.closed:
            self.connection.send(b"CLSE", self.mine, self.theirs)


class Shell(Stream):
    def run(self):
        kind, _, command = self.service.partition(":")
        self.packets = "v2" in kind.split(",")
        path = f"{self.connection.root}/bin:{os.environ['PATH']}"
        child = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self.packets else subprocess.STDOUT,
            cwd=self.connection.root,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
        feeder = threading.Thread(target=self.feed, args=(child,), daemon=True)
        readers = [threading.Thread(target=self.tell, args=(child.stdout, STDOUT), daemon=True)]
        if self.packets:
            readers.append(threading.Thread(target=self.tell, args=(child.stderr, STDERR)))
        for thread in (feeder, *readers):
            thread.start()
        for thread in readers:
            thread.join()
        status = child.wait()
        if self.packets and not self.closed:
            self.write(struct.pack("<BIB", EXIT, 1, status & 0xFF))
        self.finish()

    def feed(self, child):
        try:
            while True:
                if self.packets:
                    kind, size = struct.unpack("<BI", self.read(5))
                    data = self.read(size)
                    if kind == CLOSE_STDIN:
                        child.stdin.close()
                else:
                    kind, data = STDIN, os.read(self.outbox, 65536)
                    if not data:
                        raise EOFError
                if kind == STDIN:
                    child.stdin.write(data)
                    child.stdin.flush()
        except (EOFError, OSError, ValueError):  # the client is gone: as a terminal hangs up
            try:
                child.stdin.close()
                os.killpg(child.pid, signal.SIGHUP)
            except (OSError, ValueError):
                pass

    def tell(self, pipe, kind):
        try:
            for data in iter(lambda: pipe.read1(65536), b""):
                if self.packets:
                    self.write(struct.pack("<BI", kind, len(data)) + data)
                else:
                    self.write(data.replace(b"\n", b"\r\n"))  # as old phones' terminals do
        except OSError:
            pass


class Sync(Stream):
    def run(self):
        try:
            while True:
                name, size = struct.unpack("<4sI", self.read(8))
                if name == b"QUIT":
                    break
                argument = self.read(size).decode()
                if name == b"STAT":
                    self.write(b"STAT" + struct.pack("<3I", *stat_of(argument)))
                elif name == b"SEND":
                    self.receive_file(argument)
        except (EOFError, OSError):
            pass
        self.finish()

    def receive_file(self, argument):
        path, _, _mode = argument.rpartition(",")
        failed = None
        file = None
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
        except OSError as error:
            failed = error
        while True:
            name, size = struct.unpack("<4sI", self.read(8))
            if name != b"DATA":  # DONE, whose size is a time stamp
                break
            left = self.read(size)
            try:
                while left and not failed and file is not None:
                    left = left[os.write(file, left) :]
            except OSError as error:
                failed = error
        if file is not None:
            os.close(file)
        if failed:
            reason = f"couldn't write file: {failed.strerror}".encode()
            self.write(b"FAIL" + struct.pack("<I", len(reason)) + reason)
        else:
            self.write(b"OKAY" + struct.pack("<I", 0))


def stat_of(path):
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)


def main():
    root = Path(sys.argv[1])
    features = "cmd" if "--legacy" in sys.argv else "shell_v2,cmd"
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serving = Connection(connection, str(root), features)
            threading.Thread(target=serving.serve, daemon=True).start()


if __name__ == "__main__":
    main()
