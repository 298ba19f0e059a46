"""Turns of those who compute: who is next, what ends, and who is told of warnings."""

import logging
import threading
import time
from itertools import count

import pytest

pytest.importorskip("gradio")

from demo.machine import Machine, Stopped, Turns


def test_whoever_had_least_is_next():
    turns, order = Turns(1), []
    turns.take(0.0)

    def work(used_s):
        turns.take(used_s)
        order.append(used_s)
        turns.give()

    threads = []
    for number, used_s in enumerate((3.0, 1.0, -1.0, 2.0), 1):
        threads.append(threading.Thread(target=work, args=(used_s,)))
        threads[-1].start()
        while len(turns._waiting) < number:
            time.sleep(0.001)
    turns.give()
    for thread in threads:
        thread.join(10)
    assert order == [-1.0, 1.0, 2.0, 3.0]
    turns.take(0.0)  # is free again


def test_short_work_passes_long_work():
    machine, steps = Machine(at_once=1), []

    def long():
        with machine.job() as job:
            for number in job.each(iter(range(1000))):
                steps.append(number)
                job.run(lambda: time.sleep(0.01))
                if is_done.is_set():
                    return

    is_done = threading.Event()
    thread = threading.Thread(target=long)
    thread.start()
    while len(steps) < 5:
        time.sleep(0.001)
    before = len(steps)
    with machine.job() as job:
        assert job.run(lambda: 7) == 7
    assert len(steps) - before <= 3, "a step or two at most"
    is_done.set()
    thread.join(10)
    assert machine.num_jobs == 0


def test_reports_come_while_a_call_computes_and_its_result_last():
    machine = Machine()

    def call(report):
        for number in range(3):
            report(number)
        return "done"

    with machine.job() as job:
        watching = job.watch(call)
        assert [next(watching) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(StopIteration) as end:
            next(watching)
    assert end.value.value == "done"


def test_others_go_first_between_reports():
    machine, others = Machine(at_once=1), []

    def long(report):
        for number in range(200):
            time.sleep(0.005)
            report(number)
        return len(others)

    with machine.job() as job:
        watching = job.watch(long)
        next(watching)
        with machine.job() as short:
            short.run(lambda: others.append(1))
        for _ in watching:
            break
        assert others == [1], "the call is not over yet"


def test_a_call_that_nobody_waits_for_ends():
    machine, ended, begun = Machine(), threading.Event(), []

    def call(report):
        try:
            for number in range(100_000):
                begun.append(number)
                report(number)
                time.sleep(0.001)
        except Stopped:
            ended.set()
            raise

    def visit():
        with machine.job() as job:
            yield from job.watch(call)

    visitor = visit()
    next(visitor)
    visitor.close()  # as gradio does when a page is closed
    assert ended.wait(10) and len(begun) < 100_000
    assert machine.num_jobs == 0
    machine.turns.take(0.0)
    machine.turns.take(0.0)  # its turn is free again


def test_a_job_that_is_stopped_begins_no_other_step():
    machine, done = Machine(), []
    with machine.job() as job:
        job.run(lambda: done.append(1))
        items = job.each(count())
        assert next(items) == 0
        watching = job.watch(lambda report: [report(number) for number in count()])
        next(watching)
        job.stop()
        with pytest.raises(Stopped):
            job.run(lambda: done.append(2))
        with pytest.raises(Stopped):
            next(items)
        with pytest.raises(Stopped):
            list(watching)
    assert done == [1]
    machine.turns.take(0.0)
    machine.turns.take(0.0)  # all turns are free again


def test_errors_come_to_whoever_asked():
    with Machine().job() as job:
        with pytest.raises(ZeroDivisionError):
            job.run(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(job.watch(lambda report: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            list(job.each(1 / 0 for _ in range(3)))
        assert job.run(lambda: 1) == 1


def test_warnings_come_to_the_job_in_which_they_are_logged():
    machine, logger = Machine(), logging.getLogger("speechnar.test")
    with machine.job() as one, machine.job() as other:
        one.run(lambda: logger.warning("first %d", 1))
        other.run(lambda: logger.warning("second"))
        other.run(lambda: logger.info("not told"))
        logger.warning("of nobody")
    assert (one.notes, other.notes) == (["first 1"], ["second"])


def test_few_threads_compute_whoever_asks():
    """Torch keeps buffers for each thread that ever computes."""
    machine, seen = Machine(), set()

    def visit():
        with machine.job() as job:
            for _ in range(3):
                seen.add(job.run(threading.get_ident))

    with machine.job():  # whoever leaves last returns memory, which takes longer than all this
        for _ in range(20):
            thread = threading.Thread(target=visit)
            thread.start()
            thread.join(10)
    assert len(seen) <= 2
