"""Attacks on the dashboard folder: no request and no content gets a file from outside it."""

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from pi_orchestrator.http import pacing
from tests.integration.console.test_assets import ACCEPT_HTML, FILES, PAGE, build
from tests.support.api import case, connection, exchange
from tests.support.sampling import repeats
from tests.support.waiting import HANG_S, eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

CANARY = b"canary-5d1f0c77"
LARGE = os.urandom(1024) * 8192  # more than the socket buffers hold
CLIENTS = 1000

# Spellings of `..`, and what a careless decoder could take for it.
UP = [
    "..",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "%252e%252e",
    "%25252e%25252e",
    "..%00",
    "%00..",
    "%c0%ae%c0%ae",
    "%e0%80%ae%e0%80%ae",
    "%f0%80%80%ae%f0%80%80%ae",
    "%uff0e%uff0e",
    "%ef%bc%8e%ef%bc%8e",
    "%e2%80%a4%e2%80%a4",
    "\u2024\u2024",
    "..;",
    "...",
    "....",
    ".. ",
    "%20..",
    "..%0d%0a",
    "..%5c",
    "%ff..",
]
# The same for `/`.
SLASH = ["/", "%2f", "%2F", "%252f", "\\", "%5c", "%255c", "//", "%c0%af", "%ef%bc%8f", "/./", "\u2215"]
TRAVERSALS = [
    f"/{prefix}{(up + slash) * depth}{target.replace('/', slash)}"
    for up, slash in itertools.product(UP, SLASH)
    for prefix, depth, target in (("", 1, "secret.txt"), ("assets/", 2, "secret.txt"), ("", 8, "etc/passwd"))
]
# Other requests that must be answered with the page or an error.
ODD = [
    "//etc/passwd",
    "///etc/passwd",
    "/%2fetc%2fpasswd",
    "/%2f%2fetc/passwd",
    "/etc/passwd",
    "/./etc/passwd",
    "/assets/../../etc/passwd",
    "/assets/../../state/admin.key",
    "/assets/../../secret.txt",
    "/assets/..%2f..%2fsecret.txt",
    "/assets/%2e%2e/%2e%2e/secret.txt",
    "/assets/../index.html/../../secret.txt",
    "/index.html/../../secret.txt",
    "/index.html/",
    "/index.html/x",
    "/logo.svg/../../secret.txt",
    "/file:///etc/passwd",
    "/proc/self/environ",
    "/dev/fd/0",
    "/dev/stdin",
    "/~root/x",
    "/%7eroot/x",
    "/C:\\windows\\win.ini",
    "/C:/windows/win.ini",
    "/\\\\host\\share",
    "/index.html%00.js",
    "/secret.txt%00.html",
    "/index.html%0a",
    "/index.html%20",
    "/index.html.",
    "/index.html::$DATA",
    "/INDEX.HTML",
    "/.env",
    "/%2eenv",
    "/.git/config",
    "/assets/.hidden",
    "/assets/%2ehidden",
    "/assets/",
    "/assets",
    "/assets//plain.css",
    "/" + "../" * 2000 + "etc/passwd",
    "/" + "a/" * 3900,
    "/" + "a" * 8000,
    "/" + "%2e%2e%2f" * 800 + "etc/passwd",
    "/" + "ä" * 2000,
    "/?/../../secret.txt",
    "/;/../../secret.txt",
    "/assets;x/plain.css",
    "/#/../../secret.txt",
    "/assets/*",
    "/*",
    "/$HOME/x",
    "/`id`",
    "/%",
    "/%zz",
    "/%2",
    "/\x7f",
]


@pytest.fixture
def root(tmp_path):
    """A dashboard folder with links, devices and hidden files; secrets are outside it and behind every link."""
    (tmp_path / "secret.txt").write_bytes(CANARY)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_bytes(CANARY)
    (tmp_path / "outside" / "index.html").write_bytes(CANARY)
    folder = build(tmp_path / "dashboard")
    for name in (".env", ".git/config", "assets/.hidden"):
        build(folder, {name: CANARY})
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "near.txt").symlink_to("../secret.txt")
    (folder / "chain.txt").symlink_to("link.txt")
    (folder / "to").symlink_to(tmp_path / "outside")
    (folder / "assets" / "up").symlink_to("../..")
    (folder / "root").symlink_to("/")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    (folder / "fd").symlink_to("/proc/self/fd")
    # Compressed siblings that are links.
    build(folder, {"app.js": b"plain"})
    (folder / "app.js.gz").symlink_to(tmp_path / "secret.txt")
    (folder / "app.js.br").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.html")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(folder / "socket"))
    with (folder / "huge.bin").open("wb") as file:
        file.truncate(5 * 2**30)
    with contextlib.suppress(PermissionError):
        os.mknod(folder / "zero", 0o20666, os.makedev(1, 5))
    (folder / "large.bin").write_bytes(LARGE)
    os.utime(folder / "large.bin", (time.time() - 3600,) * 2)
    return folder


@pytest.fixture
async def served(rig, root):
    async with rig.daemon(connected=False, http={"dashboard_dir": str(root)}) as running:
        yield running


def assert_harmless(answer):
    """Assert that the answer is the page or no file."""
    assert CANARY not in answer.body
    assert b"root:" not in answer.body
    assert answer.status in (200, 400, 404), answer.status
    assert (answer.status == 200) == (answer.body == PAGE), answer.body[:200]


async def test_traversal_path_stays_in_folder(served):
    """Each path as a page navigation and as a file request, on a reused connection."""
    assert len(TRAVERSALS) > 800
    paths = [path for path in [*TRAVERSALS, *ODD] if " " not in path]
    async with contextlib.AsyncExitStack() as stack:
        sock = None
        for path, accept in itertools.product(paths, (ACCEPT_HTML[1], "*/*")):
            with case(path[:200], accept[:9]):
                sock = sock or await stack.enter_async_context(connection(served))
                head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n"
                await sock.send(head.encode("utf-8"))
                async with asyncio.timeout(HANG_S):
                    answer = await sock.answer()
                assert_harmless(answer)
                if answer.status == 400 or answer.headers.get("Connection") == "close":
                    sock = None


async def test_traversal_bytes_stay_in_folder(served):
    for path in (
        b"/\xff\xfe/../secret.txt",
        b"/\xc0\xae\xc0\xae/secret.txt",
        b"/..\xc0\xafsecret.txt",
        b"/assets/\xe0\x80\xae./../secret.txt",
        b"/\x00/../secret.txt",
        b"/..\x00/secret.txt",
        b"/..\x01/secret.txt",
        b"../secret.txt",
        b"..\\secret.txt",
        b"secret.txt",
        b"*",
        b"file:///etc/passwd",
        b"http://127.0.0.1/../secret.txt",
        b"http://127.0.0.1/..%2fsecret.txt",
        b"http://evil.example/../../etc/passwd",
        b"//evil.example/../secret.txt",
    ):
        with case(path):
            async with connection(served) as sock, asyncio.timeout(HANG_S):
                await sock.send(b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\n\r\n")
                answer = await sock.answer()
                assert CANARY not in answer.body
                assert b"root:" not in answer.body
                assert answer.status in (400, 403, 404) or answer.body == PAGE


async def test_links_and_devices_are_refused(served, root):
    for path in (
        *("link.txt", "near.txt", "chain.txt", "to/secret.txt", "to/", "to", "assets/up/secret.txt", "loop", "gone"),
        *("root/etc/passwd", "root/proc/self/environ", "root/dev/zero", "fd/0", "fd/1", "loop/x", "gone/x"),
        *(
            "pipe",
            "pipe.html",
            "pipe/x",
            "socket",
            "huge.bin",
            "zero",
            ".env",
            ".git/config",
            "assets/.hidden",
            "assets/",
        ),
    ):
        for headers in ([], [ACCEPT_HTML], [("Accept-Encoding", "gzip, br")]):
            with case(path, headers):
                async with asyncio.timeout(HANG_S):
                    assert_harmless(await exchange(served, "GET", f"/{path}", headers))
    for encoding in ("gzip", "br"):
        answer = await exchange(served, "GET", "/app.js", [("Accept-Encoding", encoding)])
        assert (answer.status, answer.body) == (200, b"plain")


async def test_swapped_link_stays_in_folder(served, root, tmp_path):
    build(root, {"x/file.txt": b"inside"})
    (root / "evil").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "file.txt").write_bytes(CANARY)
    stop = False

    def swap():
        """Alternate a folder and a link to a folder under the same name."""
        steps = (("x", "aside"), ("evil", "x"), ("x", "evil"), ("aside", "x"))
        while not stop:
            for old, new in steps:
                (root / old).rename(root / new)

    def flip():
        """Alternate a file and a link to a file under the same name."""
        other = root / "new"
        while not stop:
            other.symlink_to(tmp_path / "secret.txt")
            other.rename(root / "flip.txt")
            other.write_bytes(b"inside")
            other.rename(root / "flip.txt")

    jobs = [asyncio.create_task(asyncio.to_thread(job)) for job in (swap, flip)]
    seen = set()
    try:
        async with connection(served) as sock:
            for _ in range(repeats(150, slow=600)):
                for path in ("/x/file.txt", "/flip.txt"):
                    await sock.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                    answer = await sock.answer()
                    assert CANARY not in answer.body
                    seen.add((path, answer.status))
    finally:
        stop = True
        await asyncio.gather(*jobs)
    assert {("/x/file.txt", 200), ("/flip.txt", 200), ("/flip.txt", 404)} <= seen, (
        "files were swapped during the requests"
    )


async def test_many_clients_use_bounded_memory(served):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CLIENTS)), hard))
    paths = ["/", "/assets/index-DiwrgTda.js", "/nothing", "/view"]

    async def fetch(number):
        path = paths[number % len(paths)]
        answer = await exchange(
            served, "GET", path, [ACCEPT_HTML] if path == "/view" else [], source=f"127.0.{number % 4}.9"
        )
        assert answer.status == (404 if path == "/nothing" else 200)
        return len(answer.body)

    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with asyncio.timeout(HANG_S):
            sizes = await asyncio.gather(*(fetch(number) for number in range(CLIENTS)))
        assert sizes.count(len(FILES["assets/index-DiwrgTda.js"])) == CLIENTS // 4
        assert (await exchange(served, "GET", "/health")).status == 200
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024, "KiB"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stop_reading(sock):
    sock.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.writer.transport.pause_reading()


LARGE_REQUEST = b"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.asynccontextmanager
async def stalled_clients(served, count):
    """Clients that request a large file and read nothing; yields a function that counts new descriptors."""

    def open_files():
        return len(list(Path("/proc/self/fd").iterdir())) - open_before

    open_before = 0
    open_before = open_files()
    async with contextlib.AsyncExitStack() as stack:
        for sock in [await stack.enter_async_context(connection(served)) for _ in range(count)]:
            stop_reading(sock)
            await sock.send(LARGE_REQUEST)
        yield open_files


async def test_stalled_clients_do_not_delay_others(served, root, monkeypatch):
    monkeypatch.setattr(pacing, "STALL_S", 600.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with stalled_clients(served, 50) as open_files:
        async with asyncio.timeout(HANG_S):
            assert (await exchange(served, "GET", "/large.bin")).body == LARGE
            assert (await exchange(served, "HEAD", "/large.bin")).headers["Content-Length"] == str(len(LARGE))
        assert 3 * 50 <= open_files() <= 3 * 50 + 5, "per client two ends of a connection and a file"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB"


async def test_stalled_clients_are_disconnected(served, root, monkeypatch):
    monkeypatch.setattr(pacing, "STALL_S", 2.0)
    async with stalled_clients(served, 3) as open_files:
        await eventually(lambda: open_files() >= 3 * 3, what="per client two ends of a connection and a file")
        await eventually(lambda: open_files() <= 3 + 2, what="the daemon has closed its ends and the files")


async def test_many_large_files_use_bounded_memory(served, root):
    """Each client reads a different file, so no copy can be shared."""
    names = [f"large-{number}.bin" for number in range(30)]
    for name in names:
        build(root, {name: LARGE})
    async with contextlib.AsyncExitStack() as stack:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name in names:
            sock = await stack.enter_async_context(connection(served))
            stop_reading(sock)
            await sock.send(f"GET /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        async with asyncio.timeout(HANG_S):
            assert (await exchange(served, "GET", "/large.bin")).body == LARGE, "no client is refused"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB"


@pytest.mark.parametrize("size", [len(LARGE) // 2, len(LARGE), 2 * len(LARGE)])
async def test_file_modified_while_sent_is_aborted(served, root, size):
    """Otherwise the client would take the next answer for the rest of a short body, or cache a mixed one."""
    async with connection(served) as sock:
        sock.writer.transport.pause_reading()
        await sock.send(b"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.sleep(0.3)
        (root / "large.bin").write_bytes(bytes(size))
        sock.writer.transport.resume_reading()
        async with asyncio.timeout(HANG_S):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await sock.answer()
    assert (await exchange(served, "GET", "/large.bin")).body == bytes(size)


async def test_file_replaced_while_sent_is_sent_unchanged(served, root):
    async with connection(served) as sock:
        sock.writer.transport.pause_reading()
        await sock.send(b"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.sleep(0.3)
        build(root, {"new.bin": b"new"})
        (root / "new.bin").rename(root / "large.bin")
        sock.writer.transport.resume_reading()
        async with asyncio.timeout(HANG_S):
            assert (await sock.answer()).body == LARGE
        assert (await exchange(served, "GET", "/large.bin")).body == b"new"
