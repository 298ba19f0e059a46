"""A short, fixed run of the fuzzer of the server: nothing is found, and what would be a finding is seen."""

import logging
import socket
import tempfile
import threading

import pytest
import websockets.sync.server

from tests import fuzz_server
from tests.unit.serve.conftest import serving
from tests.unit.tiny import save_tiny_model

NUM_CASES = 8
PLACE = tempfile.gettempdir().encode()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    tiny = str(save_tiny_model(folder / "tiny"))
    with serving(asr_model=tiny, st_model=tiny, tts_model="fsdd-tts", idle_s=5.0, max_text_chars=200) as running:
        yield running.port


@pytest.mark.parametrize("kind", fuzz_server.KINDS)
def test_nothing_is_found(port, kind, caplog):
    with caplog.at_level(logging.ERROR):
        found = {seed: fuzz_server.run_case(port, kind, seed) for seed in range(NUM_CASES)}
    assert not {seed: what for seed, (_, what) in found.items() if what}
    assert not caplog.records


def test_cases_differ_and_some_are_right(port):
    assert len({fuzz_server.transcription(fuzz_server.random.Random(seed)) for seed in range(9)}) == 9
    answers = {fuzz_server.run_case(port, "speech", seed)[0] for seed in range(NUM_CASES)}
    assert "200" in answers


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", "status 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PLACE), PLACE), "shows a path"),
        (b"", "no answer"),
    ],
)
def test_wrong_answers_are_findings(monkeypatch, answer, says):
    monkeypatch.setattr(fuzz_server, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            taken, _ = listening.accept()
            taken.recv(1 << 20)
            taken.sendall(answer)
            ended.wait(10)
            taken.close()

        ended = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert says in fuzz_server.run_case(listening.getsockname()[1], "speech", 0)[1]
        ended.set()
        thread.join(10)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda socket: socket.send('{"type": "error", "error": {"type": "server_error"}}'), "a fault of the server's"),
        (lambda socket: socket.close(1011), "closed by 1011"),
    ],
)
def test_sessions_that_fail_are_findings(does, says):
    with websockets.sync.server.serve(does, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert says in fuzz_server.run_case(server.socket.getsockname()[1], "session", 0)[1]
        server.shutdown()
