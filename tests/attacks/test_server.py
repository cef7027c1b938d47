"""`ferdistill serve` before those who would keep others out, or have files handed out that are not the bundle's."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ferdistill.cli import cli
from ferdistill.errors import CheckError
from ferdistill.faces import server
from ferdistill.files import read_json, sha256_file, write_json
from support.serving import ask


@pytest.fixture
def secret(tmp_path_factory):
    file = tmp_path_factory.mktemp("home") / "key"
    file.write_text("a secret of this account")
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_the_bundle_does_not_list_is_not_served(running, bundle, secret):
    (bundle / "model.onnx").rename(bundle / "other.onnx")
    (bundle / "model.onnx").symlink_to(secret)
    files = {"other.onnx": sha256_file(bundle / "other.onnx")}
    write_json(
        bundle / "bundle.json",
        read_json(bundle / "bundle.json") | {"files": files, "variants": {"fp32": "other.onnx"}},
    )
    answer, body = ask(running, "/bundle/model.onnx")
    assert answer.status == 404 and b"a secret" not in body and b"not the bundle's" in body
    result = CliRunner().invoke(cli, ["serve", "--bundle", str(bundle), "--port", "0"])
    assert isinstance(result.exception, CheckError) and "runs model.onnx" in result.exception.what


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_a_link_put_in_while_it_serves_is_not_followed_to_something_else(running, bundle, secret, name):
    (bundle / name).unlink()
    (bundle / name).symlink_to(secret)
    for asked in ("model.onnx", "bundle.json"):
        answer, body = ask(running, f"/bundle/{asked}")
        assert answer.status == 404 and b"a secret" not in body


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_into_a_cache_are_served_by_what_they_hold(running, bundle, tmp_path_factory):
    """As DVC makes them with `cache.type symlink`."""
    cache = tmp_path_factory.mktemp("cache")
    for name in ("model.onnx", "bundle.json"):
        shutil.move(bundle / name, cache / name)
        (bundle / name).symlink_to(cache / name)
        answer, body = ask(running, f"/bundle/{name}")
        assert answer.status == 200 and body == (cache / name).read_bytes()


def test_a_model_exchanged_while_it_serves_is_not_handed_out(running, bundle):
    with (bundle / "model.onnx").open("ab") as model:
        model.write(b"\0")
    answer, body = ask(running, "/bundle/model.onnx")
    assert answer.status == 404 and b"damaged" in body


HALF = {
    "silent": b"",
    "half a line": b"GET / HT",
    "half of the headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n",
    "kept alive": b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a body without end": b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n",
}


@pytest.mark.parametrize("kind", HALF)
def test_connections_that_end_nothing_keep_nobody_out(running, kind, capfd):
    threads = threading.active_count()
    held = []
    try:
        for _ in range(200):
            connection = socket.create_connection(running.server_address)
            connection.sendall(HALF[kind])
            held.append(connection)
        start = time.monotonic()
        assert ask(running, "/")[0].status == 200
        assert time.monotonic() - start < 5
        deadline = time.monotonic() + 10
        while threading.active_count() > threads + server.MAX_CONNECTIONS + 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= threads + server.MAX_CONNECTIONS + 1
    finally:
        for connection in held:
            connection.close()
    assert capfd.readouterr().err == ""


def test_who_asks_now_and_then_is_kept(running):
    """The longest silent goes first: one that still asks outlives fifty that do not."""
    lively = http.client.HTTPConnection(server.HOST, running.server_port, timeout=5)
    held = []
    try:
        lively.connect()
        first = lively.sock
        for _ in range(10):
            for _ in range(server.MAX_CONNECTIONS // 4):
                held.append(socket.create_connection(running.server_address))
            lively.request("GET", "/style.css")
            answer = lively.getresponse()
            assert answer.status == 200 and answer.read()
            assert lively.sock is first
    finally:
        lively.close()
        for connection in held:
            connection.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc is Linux's")
def test_a_system_that_allows_64_files_serves_through_62_half_open_connections(web, bundle):
    program = f"""
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from ferdistill.faces import server
from ferdistill.cli import app
server.WEB = Path({str(web)!r})
sys.argv = ["ferdistill", "serve", "--bundle", {str(bundle)!r}, "--port", "0", "--json"]
app()
"""
    held = []
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            port = int(json.loads(process.stdout.readline())["url"].rstrip("/").rpartition(":")[2])
            for _ in range(62):
                connection = socket.create_connection((server.HOST, port))
                connection.sendall(b"GET / HTTP/1.1\r\n")
                held.append(connection)
            start = time.monotonic()
            for path in ("/", "/app.js", "/bundle/bundle.json", "/bundle/model.onnx"):
                asking = http.client.HTTPConnection(server.HOST, port, timeout=10)
                asking.request("GET", path)
                assert asking.getresponse().status == 200
                asking.close()
            assert time.monotonic() - start < 10
            ticks = Path(f"/proc/{process.pid}/stat").read_text().split()[13]
            time.sleep(1)
            spent = int(Path(f"/proc/{process.pid}/stat").read_text().split()[13]) - int(ticks)
            assert spent < 50  # hundredths of a second of processor time: it does not spin
        finally:
            for connection in held:
                connection.close()
            process.kill()
        assert b"Traceback" not in process.stderr.read()
