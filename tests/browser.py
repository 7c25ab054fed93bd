"""Headless Chromium for tests of pages: what a page's outer page finds in it, and what the browser complained of."""

import json
import os
import queue
import signal
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import CHROMIUM

FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--enable-logging=stderr", "--window-size=1280,900",
)  # fmt: skip


@contextmanager
def served(pages):
    """A server of pages (dict of path to text): its address, and the queue of what browsers send to it."""
    received = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, text=""):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self):
            self.answer(pages[self.path])

        def do_POST(self):
            received.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", received
        finally:
            server.shutdown()


def visit(folder, pages):
    """Open pages["/"]: the JSON that it sends to "result", and the lines the browser wrote to its console."""
    with served(pages) as (address, received), open(folder / "log", "w") as log:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", address]
        with subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as browser:
            try:
                answer = json.loads(received.get(timeout=60))
            except queue.Empty:
                pytest.fail(f"the page reported nothing: {(folder / 'log').read_text()[-2000:]}")
            finally:
                os.killpg(browser.pid, signal.SIGTERM)  # Debian's chromium is a script
    lines = [line for line in (folder / "log").read_text().splitlines() if ":CONSOLE" in line]
    return answer, [line for line in lines if "(OpenGL, Performance" not in line]  # reading back waits for the GPU
