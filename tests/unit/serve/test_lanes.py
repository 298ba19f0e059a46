"""Jobs wait their turn, like ones are done together, and nobody gets another's text."""

import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from speechnar.asr.options import DecodeOptions
from speechnar.errors import AudioError, SpeechnarError
from speechnar.serve.faults import RequestError
from speechnar.serve.lanes import Job, TranscriptionLane, Wish
from speechnar.serve.uploads import HeldAudio
from speechnar.text.transcript import Transcript

WISH = Wish("a", None, "auto", False, DecodeOptions())


class Recogniser:
    """Says the name of a recording, when it may."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.batches: list[list[str]] = []

    @contextmanager
    def use(self, name):
        if name == "broken":
            raise MemoryError
        yield self

    def transcribe_many(self, audios, **wish):
        self.batches.append([audio.name for audio in audios])
        assert self.may_go.wait(10)
        for audio in audios:
            try:
                list(audio.blocks(16000))
            except SpeechnarError as error:
                yield error
            else:
                text = f"{audio.name} {wish['language']}"
                yield Transcript(audio.name, "a", "transcribe", "eng", 1.0, 1.0, text, ())


@pytest.fixture
def recogniser():
    return Recogniser()


def lane(recogniser, **options):
    return TranscriptionLane("test", recogniser, **{"max_queue_s": 100, "batch_s": 20, **options})


def job(name, seconds=5.0, wish=WISH):
    return Job(wish, HeldAudio(name, np.zeros(160, dtype=np.float32)), seconds)


def wait_for_first(recogniser):
    while not recogniser.batches:
        threading.Event().wait(0.005)


def test_what_waits_together_is_done_together_up_to_a_limit(recogniser):
    queue = lane(recogniser)
    jobs = [job(str(number)) for number in range(7)]
    other = job("x", wish=replace(WISH, language="deu"))
    queue.put(jobs[0])
    wait_for_first(recogniser)
    for waiting in (*jobs[1:4], other, *jobs[4:]):
        queue.put(waiting)
    recogniser.may_go.set()
    queue.close()
    assert [each.future.result(0).text for each in jobs] == [f"{number} auto" for number in range(7)]
    assert other.future.result(0).text == "x deu"
    assert recogniser.batches == [["0"], ["1", "2", "3", "4"], ["x"], ["5", "6"]]


def test_alone_where_nothing_is_to_be_joined(recogniser):
    queue = lane(recogniser, batch_s=0)
    for name in "abc":
        queue.put(job(name))
    recogniser.may_go.set()
    queue.close()
    assert recogniser.batches == [["a"], ["b"], ["c"]]


def test_a_full_queue_says_when_to_come_back(recogniser):
    queue = lane(recogniser, max_queue_s=10)
    queue.put(job("a", 50))  # nothing waits: however long it is
    wait_for_first(recogniser)
    queue.put(job("b", 8))
    assert queue.queued_s == 8
    with pytest.raises(RequestError) as refused:
        queue.put(job("c", 3))
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) > 0
    queue.put(job("d", 2))
    recogniser.may_go.set()
    queue.close()
    with pytest.raises(RequestError) as refused:
        queue.put(job("e"))
    assert refused.value.status == 503


def test_who_has_left_is_passed_over_or_stopped(recogniser):
    queue = lane(recogniser)
    first, left, last = job("a"), job("b"), job("c")
    queue.put(first)
    wait_for_first(recogniser)
    queue.put(left)
    queue.put(last)
    left.future.cancel()
    first.left.set()
    recogniser.may_go.set()
    queue.close()
    assert recogniser.batches == [["a"], ["c"]]
    with pytest.raises(SpeechnarError, match="nobody waits"):
        first.future.result(0)
    with pytest.raises(CancelledError):
        left.future.result(0)
    assert last.future.result(0).text == "c auto"


def test_an_error_is_told_to_those_whom_it_concerns(recogniser):
    queue = lane(recogniser)
    queue.put(job("a", wish=replace(WISH, model="b")))
    wait_for_first(recogniser)
    bad, good, broken = job("bad"), job("good"), job("x", wish=replace(WISH, model="broken"))
    bad.blocks = lambda rate: (_ for _ in ()).throw(AudioError("torn"))
    for each in (bad, good, broken):
        queue.put(each)
    recogniser.may_go.set()
    queue.close()
    with pytest.raises(AudioError, match="torn"):
        bad.future.result(0)
    assert good.future.result(0).text == "good auto"
    with pytest.raises(MemoryError):
        broken.future.result(0)
