"""The page of `ferdistill serve`, on loopback: a fixed list of files, and nothing else.

The page runs the bundle itself, in the browser. No image comes here: the server only hands files out.
"""

import errno
import os
import socket
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..errors import CheckError, FerdistillError, UsageError
from ..runtime.classifier import read_bundle

WEB = Path(__file__).parent / "web"
PAGE = ("app.js", "box.js", "detector.js", "index.html", "model.js", "pixels.js", "style.css")
SAMPLES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# What `make web` puts into web/vendor; web/build.py says from where.
VENDOR = (
    "full_range.onnx",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.wasm.min.mjs",
)

# Each has a thread and a file of the system's, which it may allow 64. A browser opens six to a page at most.
MAX_CONNECTIONS = 20
HOST = "127.0.0.1"
# A page elsewhere can point its own name at 127.0.0.1; the browser then sends that name as Host.
LOOPBACK_NAMES = frozenset({HOST, "localhost"})

# Not from `mimetypes`: that reads the system's tables, and some give .mjs or .wasm a type that browsers refuse.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".wasm": "application/wasm",
}

HEADERS = {
    # No request leaves this server's origin, whatever the page or a library in it tries.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src 'self'; "
        "style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # These two give the page shared memory, without which ONNX Runtime has one thread.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A reload shows the bundle that is on disk now.
    "Cache-Control": "no-store",
}


def listed_files() -> dict[str, Path]:
    """Every URL path of the page itself, with its file.

    Raises UsageError if the page's libraries have not been built, or a file of the page is gone.
    """
    files = {f"/{name}": WEB / name for name in PAGE}
    files |= {f"/samples/{name}.png": WEB / "samples" / f"{name}.png" for name in SAMPLES}
    files |= {f"/vendor/{name}": WEB / "vendor" / name for name in VENDOR}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise UsageError(
            f"the page lacks {len(missing)} of its {len(files)} files",
            where=str(missing[0]),
            expected="the page, with onnxruntime-web and its other libraries beside it",
            hint="run `make web` in a checkout of ferdistill (it needs npm), then serve again",
        )
    return files | {"/": WEB / "index.html"}


def bundle_files(directory: Path) -> dict[str, Path]:
    """The URL paths of a bundle, with their files, which hold now what bundle.json says by their digests.

    So a link in place of one gives away nothing that the bundle does not hold.

    Raises UsageError or CheckError as `read_bundle` does, or if model.onnx is none of the bundle's.
    """
    variants = read_bundle(directory)["variants"]
    if variants.get("fp32") != "model.onnx":
        raise CheckError(
            "the page runs model.onnx, which is not the bundle's float32 model",
            where=str(directory / "bundle.json"),
            expected="model.onnx under variants.fp32, as the stage `export` writes it",
            hint="export it again",
        )
    return {f"/bundle/{name}": directory / name for name in ("bundle.json", "model.onnx")}


class Server(ThreadingHTTPServer):
    """Hands out the page's `files` (URL path to file) and a bundle on 127.0.0.1.

    At most `MAX_CONNECTIONS` are open: where another comes, the one that has been silent for longest is closed. So
    those that ask nothing, or never end asking, keep nobody out.
    """

    daemon_threads = True
    request_queue_size = 128  # that wait to be accepted; where it is full, a browser tries again a second later
    # On Windows this option would let two servers share a port.
    allow_reuse_address = os.name != "nt"

    def __init__(self, files: dict[str, Path], bundle: Path, port: int) -> None:
        self.files, self.bundle = files, bundle
        self.connections: dict[socket.socket, None] = {}  # the longest silent first
        super().__init__((HOST, port), Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, at the cost of the longest silent one where there are too many."""
        try:
            connection, address = super().get_request()
        except OSError:  # no file is left for it
            self._close_one()
            time.sleep(0.05)  # else this is asked again at once, since the connection still waits
            raise
        while len(self.connections) >= MAX_CONNECTIONS:
            self._close_one()
        self.connections[connection] = None
        return connection, address

    def heard_from(self, connection: socket.socket) -> None:
        """Move a connection to the end of the line of those that are closed."""
        if self.connections.pop(connection, self) is None:
            self.connections[connection] = None

    def _close_one(self) -> None:
        """Shut a connection down: its thread then reads an end, and closes it."""
        for connection in list(self.connections)[:1]:
            self.connections.pop(connection, None)
            with suppress(OSError):  # it went by itself
                connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection for good."""
        self.connections.pop(request, None)
        super().shutdown_request(request)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of the listed files; other methods get 501 from the base class."""

    server: Server
    file: Path | None
    protocol_version = "HTTP/1.1"
    server_version = "ferdistill"
    sys_version = ""
    timeout = 30  # seconds in which a silent connection gives its thread back
    extensions_map = MEDIA_TYPES
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(explain)s\n"  # the page shows it

    def send_head(self) -> Any:
        """Refuse what is not asked of this server by its name, or is not listed; else send the headers."""
        self.server.heard_from(self.connection)
        if self.headers.get("Host", "").partition(":")[0].lower() not in LOOPBACK_NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, explain=f"This server answers to {HOST} and localhost alone.")
            return None
        # Looked up as it was sent: no decoding, no joining, so no path can leave the list.
        path, problem = self.path.partition("?")[0], None
        self.file = self.server.files.get(path)
        if path.startswith("/bundle/"):
            try:
                self.file = bundle_files(self.server.bundle).get(path)
            except FerdistillError as error:
                problem = f"{error.what}: {error.where}"
        if self.file is None or not self.file.is_file():
            problem = problem or (f"{self.file.name} is gone from the disk." if self.file else None)
            self.send_error(HTTPStatus.NOT_FOUND, explain=problem)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """The file that `send_head` found."""
        return str(self.file)

    def end_headers(self) -> None:
        """Close the headers of every answer, errors too, with `HEADERS`."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep still: one page load is two dozen requests."""

    def handle(self) -> None:
        """Let a browser that goes away mid-answer go in peace."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True


def listen(bundle_dir: Path, port: int) -> Server:
    """A server bound to a TCP port on 127.0.0.1, a free one for 0: `serve_forever` sets it going.

    Raises UsageError if files of the page are missing, or the port cannot be had. What is wrong with the bundle the
    page says.
    """
    try:
        return Server(listed_files(), bundle_dir, port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is in use" if error.errno == errno.EADDRINUSE else "may not be used by this account"
        raise UsageError(
            f"port {port} {why}", where=f"{HOST}:{port}", hint="choose another with --port, or --port 0 for a free one"
        ) from None
