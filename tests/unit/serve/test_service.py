"""What the routes of a server share."""

import asyncio
from dataclasses import dataclass

import pytest

from speechnar.errors import ModelNotFoundError
from speechnar.serve import service as service_module
from speechnar.serve.faults import RequestError
from speechnar.serve.options import ServeOptions
from speechnar.serve.service import OPENAI_ASR, OPENAI_TTS, Service, unless_left


@pytest.fixture
def service():
    service = Service(ServeOptions(device="cpu", asr_model="joint-asr", tts_model="fsdd-tts", max_sessions=2))
    yield service
    service.close()


@dataclass
class Client:
    """As much of a request as is asked."""

    asked_until: int

    async def is_disconnected(self) -> bool:
        self.asked_until -= 1
        return self.asked_until < 0


def test_names_of_openai_stand_for_the_servers_own(service):
    assert {service.transcribers.find(name) for name in OPENAI_ASR} == {"joint-asr"}
    assert {service.synthesizers.find(name) for name in OPENAI_TTS} == {"fsdd-tts"}
    with pytest.raises(ModelNotFoundError):
        service.transcribers.find("../secret")


def test_sessions_are_counted_and_the_next_one_is_sent_away(service):
    with service.session(), service.session():
        assert "speechnar_sessions 2.0" in service.metrics.render().decode()
        with pytest.raises(RequestError) as refused, service.session():
            pass
        assert refused.value.status == 429
    with pytest.raises(ZeroDivisionError), service.session():
        raise ZeroDivisionError
    assert service.num_sessions == 0


def test_work_ends_with_the_client_who_asked(monkeypatch):
    monkeypatch.setattr(service_module, "DISCONNECT_POLL_S", 0.01)
    ended = []

    async def work(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append(seconds)
            raise
        return "done"

    async def both() -> str:
        with pytest.raises(RequestError) as left:
            await unless_left(Client(3), work(60.0))
        assert left.value.status == 499
        await asyncio.sleep(0)  # in which it is cancelled
        return await unless_left(Client(1000), work(0.05))

    assert asyncio.run(both()) == "done"
    assert ended == [60.0]
