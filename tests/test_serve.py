"""The server of `ferdistill serve`: what it hands out, what it refuses, how it starts and stops."""

import http.client
import json
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferdistill.cli import app
from ferdistill.errors import UsageError
from ferdistill.faces import server
from support.serving import ask

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/style.css?v=1", "text/css; charset=utf-8"),
        ("/samples/happy.png", "image/png"),
        ("/vendor/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("/vendor/ort.wasm.min.mjs", "text/javascript; charset=utf-8"),
        ("/bundle/bundle.json", "application/json"),
        ("/bundle/model.onnx", "application/octet-stream"),
    ],
)
def test_a_listed_file_has_its_type_and_every_guard(running, path, media_type):
    answer, body = ask(running, path)
    assert answer.status == 200
    assert answer.getheader("Content-Type") == media_type
    files = running.files | server.bundle_files(running.bundle)
    assert body == files[path.partition("?")[0]].read_bytes()
    for name, value in server.HEADERS.items():
        assert answer.getheader(name) == value
    head, nothing = ask(running, path, "HEAD")
    assert head.status == 200 and nothing == b"" and int(head.getheader("Content-Length")) == len(body)


def test_the_page_may_ask_nobody_else():
    """Every source that the policy allows is the page's own origin, or inline data for images."""
    rules = dict(rule.split(" ", 1) for rule in server.HEADERS["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'", "data:"}


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/samples/../../server.py",
        "/%2e%2e/server.py",
        "/samples/..%2f..%2fserver.py",
        "/..\\server.py",
        "//etc/passwd",
        "/samples",
        "/samples/",
        "/vendor/",
        "/bundle/",
        "/bundle/MODEL_CARD.md",
        "/app.js/",
        "/app.js%00",
        "*",
        "file:///etc/passwd",
        "http://[/",
    ],
)
def test_nothing_else_is_found(running, path):
    answer, body = ask(running, path)
    assert answer.status == 404
    assert b"def " not in body and b"root:" not in body
    assert answer.getheader("Content-Security-Policy") == server.HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9999", "LOCALHOST:80"])
def test_loopback_names_are_answered(running, host):
    assert ask(running, "/", host=host)[0].status == 200


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "0"])
def test_a_rebound_name_is_refused(running, host):
    answer, body = ask(running, "/bundle/bundle.json", host=host)
    assert answer.status == 403
    assert b"classes" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(running, method):
    assert ask(running, "/", method)[0].status == 501


def test_only_loopback_is_bound(running):
    assert running.server_address[0] == "127.0.0.1"


def test_a_file_that_goes_away_is_a_404_and_the_server_lives(running, bundle):
    (bundle / "model.onnx").unlink()
    answer, body = ask(running, "/bundle/model.onnx")
    assert answer.status == 404 and b"model.onnx" in body
    assert ask(running, "/")[0].status == 200


def test_a_browser_that_hangs_up_makes_no_noise(running, web, capfd):
    (web / "vendor" / "ort-wasm-simd-threaded.wasm").write_bytes(bytes(20_000_000))
    for _ in range(3):
        with socket.create_connection(running.server_address) as connection:
            connection.sendall(b"GET /vendor/ort-wasm-simd-threaded.wasm HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(100)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not close
    assert len(ask(running, "/vendor/ort-wasm-simd-threaded.wasm")[1]) == 20_000_000
    assert capfd.readouterr().err == ""


def test_the_list_is_what_is_on_disk(web):
    listed = {str(file.relative_to(web)) for file in server.listed_files().values() if web in file.parents}
    on_disk = {file.relative_to(web).as_posix() for file in web.rglob("*") if file.is_file()}
    assert listed == on_disk


def test_samples_are_what_the_renderer_draws():
    draw = runpy.run_path(str(ROOT / "web" / "samples.py"))["draw"]
    for name in server.SAMPLES:
        sample = np.asarray(Image.open(server.WEB / "samples" / f"{name}.png"))
        assert np.array_equal(sample, draw(name)), name


# ---- the command --------------------------------------------------------------------------------------------


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["ferdistill", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        app()
    return stop.value.code


def test_without_the_libraries_the_error_names_the_command(web, bundle, monkeypatch, capsys):
    (web / "vendor" / "full_range.onnx").unlink()
    assert run(monkeypatch, "--bundle", bundle, "--port", 0) == 2
    message = capsys.readouterr().err
    assert "make web" in message and "full_range.onnx" in message


def test_a_port_in_use_is_an_error(running, bundle, monkeypatch, capsys):
    assert run(monkeypatch, "--bundle", bundle, "--port", running.server_port) == 2
    assert f"port {running.server_port} is in use" in capsys.readouterr().err


def test_a_port_of_the_system_is_an_error(web, bundle, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(server.Server, "server_bind", refuse)
    with pytest.raises(UsageError, match="port 80 may not be used by this account"):
        server.listen(bundle, 80)


def test_a_damaged_or_missing_bundle_is_refused_at_the_start(web, bundle, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--bundle", tmp_path / "nowhere", "--port", 0) == 2
    with (bundle / "model.onnx").open("ab") as model:
        model.write(b"\0")
    assert run(monkeypatch, "--bundle", bundle, "--port", 0) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_the_command_serves_until_ctrl_c(web, bundle):
    program = f"""
import signal, sys
from pathlib import Path
from ferdistill.faces import server
from ferdistill.cli import app
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
server.WEB = Path({str(web)!r})
sys.argv = ["ferdistill", "serve", "--bundle", {str(bundle)!r}, "--port", "0", "--json"]
app()
assert not {{"torch", "pandas"}} & set(sys.modules)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        started = json.loads(process.stdout.readline())
        port = int(started["url"].rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection(server.HOST, port, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert err == b""
