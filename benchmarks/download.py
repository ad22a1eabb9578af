"""Throughput of a download, against ``curl`` that writes the same file to the same disk.

    python benchmarks/download.py [--rounds 9] [--megabytes 500] [--folder DIR]

A server of its own process sends one file of random bytes from the page cache by sendfile, over plain HTTP on
loopback. Each measurement is a child process of its own, by turns, the order reversed every other round; the file is
removed before each. ``download`` is the call of `videozoo.download.download`, which also computes and compares the
sha256 and has the bytes on the disk before it returns; ``curl`` does neither. ``curl, sha256sum, sync`` is what a
careful shell script would do. Of ``curl`` the whole process is timed, of ``download`` the call, and beside it the
process with the imports.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVER = """\
import socket, sys
path, size = sys.argv[1], int(sys.argv[2])
head = f'HTTP/1.1 200 OK\\r\\nContent-Length: {size}\\r\\nETag: "1"\\r\\nConnection: close\\r\\n\\r\\n'.encode()
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        connection, _ = server.accept()
        with connection, open(path, "rb") as file:
            request = b""
            while b"\\r\\n\\r\\n" not in request:
                request += connection.recv(65536)
            connection.sendall(head)
            connection.sendfile(file)
"""
_DOWNLOAD = """\
import json, sys, time
from pathlib import Path
import requests
from videozoo.download import download
url, target, digest, size = sys.argv[1:]
started, cpu = time.perf_counter(), time.process_time()
download([url], Path(target), digest=digest, size_bytes=int(size), what="benchmark", progress=True)
print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]))
"""
CURL, CAREFUL, OURS, PROCESS = "curl", "curl, sha256sum, sync", "download", "download, whole process"


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """The address of a server of that file."""
    command = [sys.executable, "-c", _SERVER, str(path), str(path.stat().st_size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/file"
        finally:
            server.kill()


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Wall time of a child process, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, done.stdout


def measure(name: str, url: str, target: Path, digest: str, size: int) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of one way to fetch the file."""
    environment = os.environ | {"NO_PROXY": "*", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    target.unlink(missing_ok=True)
    before = os.times()
    if name == OURS:
        whole, printed = timed([sys.executable, "-c", _DOWNLOAD, url, str(target), digest, str(size)], environment)
        call, cpu = json.loads(printed)
        found = {OURS: (call, cpu), PROCESS: (whole, _cpu_since(before))}
    else:
        script = 'curl -sf -o "$1" "$0"' + (' && sha256sum "$1" && sync "$1"' if name == CAREFUL else "")
        whole, printed = timed(["sh", "-c", script, url, str(target)], environment)
        if name == CAREFUL and not printed.startswith(digest):
            raise SystemExit("curl wrote other bytes")
        found = {name: (whole, _cpu_since(before))}
    if target.stat().st_size != size:
        raise SystemExit(f"{name}: {target.stat().st_size} bytes, not {size}")
    return found


def _cpu_since(before: os.times_result) -> float:
    now = os.times()
    return now.children_user + now.children_system - before.children_user - before.children_system


def main() -> None:
    """Print medians, and throughput as a ratio to curl's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", help="a folder on the disk to be measured")
    asked = parser.parse_args()
    size = asked.megabytes * 1_000_000
    content = os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()
    started = time.process_time()
    hashlib.sha256(content)
    hashing = time.process_time() - started
    curl = subprocess.run(["curl", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    print(f"Python {platform.python_version()}, curl {curl}, {platform.system()} {platform.machine()}")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, sha256 {size / hashing / 1e6:.0f} MB/s")
    print(f"{asked.megabytes} MB on {socket.gethostbyname('localhost')}, {asked.rounds} rounds by turns; medians")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (CURL, CAREFUL, OURS, PROCESS)}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.write_bytes(content)
        del content
        with serving(source) as url:
            measure(OURS, url, target, digest, size)  # the first of all brings pages and imports into memory
            for number in range(asked.rounds):
                for name in (CURL, CAREFUL, OURS)[:: -1 if number % 2 else 1]:
                    for key, seconds in measure(name, url, target, digest, size).items():
                        found[key].append(seconds)
    base = statistics.median(wall for wall, _ in found[CURL])
    for name, runs in found.items():
        walls = [wall for wall, _ in runs]
        wall, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in runs)
        print(
            f"{name:24} {wall:6.3f} s ({min(walls):.3f} to {max(walls):.3f})  {size / wall / 1e6:5.0f} MB/s  "
            f"CPU {cpu:.3f} s  throughput {base / wall:.2f} of curl's"
        )


if __name__ == "__main__":
    main()
