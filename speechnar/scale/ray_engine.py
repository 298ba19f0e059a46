"""Units of a corpus on a Ray cluster: actors with warm models, replaced when they die.

The driver alone hands out units and keeps the journal. At most `IN_FLIGHT` units a worker are on their way, so that
however long the corpus is, what waits in the cluster stays bounded. Actors end with their driver.

Source: Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018 (actors, section 3.1).
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechnar.errors import ConfigError, SpeechnarError
from speechnar.extras import needs
from speechnar.scale.units import Backlog, Job, Unit, UnitFailure, UnitReport, limit_threads

with needs("scale"):
    import ray
    import ray.exceptions

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Units of each worker: one at work and one waiting, so that it never waits for the driver."""
TOLD_EVERY_S = 120.0
"""Without a finished unit."""
MAX_LOSSES = 100
"""Workers that may die between two finished units before the run is left: a model that fits no machine kills all."""


class UnitActor:
    """A worker: what a job has loaded, in a process of its own, where paths mean what they mean to the driver."""

    def __init__(self, job: Job, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        limit_threads(job)
        self._work = job.worker()

    def do(self, unit: Unit[Any]) -> UnitReport | UnitFailure:
        """Do a unit."""
        return self._work(unit)


class RayEngine:
    """Workers on a cluster, which is started on this machine where there is none.

    Raises:
        ConfigError: there is no cluster at the address, or nothing on it to run on.
    """

    def __init__(self, job: Job, *, address: str | None = None, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        if not ray.is_initialized():
            found = address or os.environ.get("RAY_ADDRESS")
            try:
                ray.init(address=found, log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False
                         if found is None else None)  # fmt: skip
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"no Ray cluster at {found} ({' '.join(str(error).split())[:200]})") from None
        has = ray.cluster_resources()
        gpus, cpus, threads = int(has.get("GPU", 0)), int(has.get("CPU", 0)), job.threads or 1
        on_gpu = gpus > 0 and job.device != "cpu"
        self._resources: dict[str, float] = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": threads}
        self._workers = workers or (gpus if on_gpu else cpus // threads)
        if self._workers < 1:
            raise ConfigError(f"the cluster has {cpus} CPUs, of which a worker needs {threads}; lower --threads")
        self._actors: list[Any] = []
        """Those that have loaded what they need."""
        self._flying: dict[Any, tuple[Any, Unit[Any] | None]] = {}
        """By reference of a result, who makes it of what; of nothing: it is loading."""
        self._losses = 0
        """Since the last unit that was finished."""
        self._worker = ray.remote(max_restarts=0, max_task_retries=0, **self._resources)(UnitActor)
        self._arguments = (ray.put(job), str(Path.cwd()))

    def run(self, backlog: Backlog) -> Iterator[UnitReport]:
        """Yield what is finished, in any order.

        Units are given to workers that have started: the cluster may be smaller than it says, as when a machine of it
        has just died, and what waits for a place on it may wait for ever.

        Raises:
            SpeechnarError: nothing can be done any more.
        """
        for _ in range(min(self._workers, len(backlog.waiting))):
            self._start()
        try:
            while backlog.waiting or any(unit is not None for _, unit in self._flying.values()):
                self._hand_out(backlog)
                ready, _ = ray.wait(list(self._flying), num_returns=1, timeout=TOLD_EVERY_S)
                if not ready:
                    logger.info("no unit was finished in the last %.0f s; is the cluster large enough?", TOLD_EVERY_S)
                for reference in ready:
                    actor, unit = self._flying.pop(reference)
                    result = self._result(reference)
                    if isinstance(result, UnitFailure):
                        if result.is_loss:
                            self._replace(actor, unit, result)
                        if unit is not None and (given_up := backlog.put_back(unit, result)) is not None:
                            yield given_up
                        elif unit is None and result.is_final:
                            raise SpeechnarError(result.reason)
                    elif unit is None:
                        self._actors.append(actor)
                    else:
                        self._losses = 0
                        yield result
        finally:
            for actor in (*self._actors, *(actor for actor, unit in self._flying.values() if unit is None)):
                ray.kill(actor)
            self._flying.clear()

    def _start(self) -> None:
        actor = self._worker.remote(*self._arguments)
        self._flying[actor.__ray_ready__.remote()] = (actor, None)

    def _replace(self, actor: Any, unit: Unit[Any] | None, loss: UnitFailure) -> None:
        """Start a worker in the place of one that is no more, unless that was done when another unit failed with it.

        Raises:
            SpeechnarError: too many were lost.
        """
        if unit is not None:
            if actor not in self._actors:
                return
            self._actors.remove(actor)
        self._losses += 1
        if self._losses > MAX_LOSSES:
            raise SpeechnarError(f"{self._losses} workers were lost one after the other; {loss.reason}")
        ray.kill(actor)
        self._start()

    def _hand_out(self, backlog: Backlog) -> None:
        """Give units to the workers that have the fewest, of those that have started."""
        load = {id(actor): 0 for actor in self._actors}
        for actor, unit in self._flying.values():
            if unit is not None and id(actor) in load:
                load[id(actor)] += 1
        while backlog.waiting and self._actors:
            actor = min(self._actors, key=lambda actor: load[id(actor)])
            if load[id(actor)] >= IN_FLIGHT:
                return
            unit = backlog.waiting.popleft()
            load[id(actor)] += 1
            self._flying[actor.do.remote(unit)] = (actor, unit)

    def _result(self, reference: Any) -> Any:
        """Return what a worker returns, or how it failed."""
        try:
            return ray.get(reference)
        except (ray.exceptions.RayError, OSError) as error:
            text = " ".join(str(error).split())
            # A model that cannot be loaded is no accident: it ends the worker's constructor with an error of ours.
            wrong = _OUR_ERROR.search(text)
            if wrong is not None:
                return UnitFailure(wrong[1], is_final=True)
            return UnitFailure(f"a worker was lost ({text[:200]})", is_loss=True)


_OUR_ERROR = re.compile(r"speechnar\.errors\.\w+: (.{1,300})")
