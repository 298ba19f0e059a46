"""The measurement of a server under load: answers that are lost or crossed are counted."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serving import measure, nearest


@pytest.fixture
def clips(tmp_path):
    texts = {"a": "the cat sat on the mat", "b": "a dog ran home", "c": "good day to you"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {tmp_path / name: text for name, text in texts.items()}


def test_an_answer_that_differs_in_a_letter_is_not_crossed(clips):
    a, b, c = clips
    assert nearest("the cat sat on the mat", a, clips) == a
    assert nearest("the cat sat on a mat", a, clips) == a
    assert nearest("a dog ran home", a, clips) == b
    assert nearest("", c, {**clips, c: ""}) == c
    assert nearest("good day to you", c, {**clips, a: clips[c]}) == c


@pytest.mark.parametrize(
    ("fault", "lost", "crossed"), [("none", False, False), ("lose", True, False), ("cross", False, True)]
)
def test_what_is_lost_and_crossed_is_counted(clips, fault, lost, crossed):
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"])).decode()
            (text,) = [text for text in clips.values() if text in content]
            is_cat = "cat" in text
            text = "good day to you" if is_cat and fault == "cross" else text
            body = json.dumps({"text": text}).encode()
            self.send_response(503 if is_cat and fault == "lose" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = measure(url, os.getpid(), "any", dict.fromkeys(clips, 5.0), clips, 3, 0.3)
        server.shutdown()
    assert found["requests"] >= 3
    assert (found["lost"] > 0, found["crossed"] > 0) == (lost, crossed)
    assert found["median_s"] <= found["p95_s"] <= found["p99_s"]
    assert found["mib_at_the_end"] > 1
