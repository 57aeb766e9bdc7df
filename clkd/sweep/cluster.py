"""The machines of a Ray cluster: each run is a task of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from clkd import __version__
from clkd.errors import UserError, one_line
from clkd.sweep.local import THREADS, Process
from clkd.sweep.workers import LOOK, Ended, Running

HERE = "auto"
"""Ray's word for `$RAY_ADDRESS` or else the cluster that this machine belongs to."""
PATIENCE_SECONDS = 5.0
CARRIED = ("CLKD_", "MLFLOW_")
"""How variables begin that go with a run. All others are those of the machine that it is made on."""
GONE = 1
"""The exit code of a run whose machine is gone."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one run has of a machine for itself. Without a share of a GPU it sees none."""

    cpus: int = 1
    gpus: float = 0

    def fits(self, machine: Mapping[str, Any]) -> bool:
        has = machine["Resources"]
        return bool(machine["Alive"] and has.get("CPU", 0) >= self.cpus and has.get("GPU", 0) >= self.gpus)

    def __str__(self) -> str:
        return f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines that runs may be made on.

    Attributes:
        machines: names by Ray's ids.
        mark: a file that lies in the working directory as long as the sweep goes on.
    """

    ray: Any
    share: Share
    machines: Mapping[str, str]
    mark: Path
    environment: Mapping[str, str]

    def start(self, words: Sequence[str]) -> Running:
        """Hand a program to the first machine that has room for it."""
        task = self.ray.remote(_run).options(num_cpus=self.share.cpus, num_gpus=self.share.gpus, max_retries=0)
        return _Task(self.ray, task.remote(list(words), self.environment, self.mark, __version__))

    def check(self) -> None:
        """Look at each machine before anything is trained.

        Raises:
            UserError: it lacks this version of clkd or this folder.
        """
        visits = [self._visit(machine) for machine in self.machines]
        found = zip(self.machines.values(), map(self._answer, visits), strict=True)
        if wrong := [f"{name}: {why}" for name, why in found if why]:
            raise UserError(f"--cluster: {'; '.join(wrong)}")

    def _visit(self, machine: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(machine, soft=False)
        task = self.ray.remote(_visit).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        return task.remote(self.mark, __version__)

    def _answer(self, visit: Any) -> str | None:
        try:
            answer: str | None = self.ray.get(visit)
        except self.ray.exceptions.RayError as error:
            return f"clkd does not work there: {_reason(error)}"
        return answer


@contextmanager
def joined(address: str, share: Share) -> Iterator[Cluster]:
    """Take part in a cluster that is there already.

    Args:
        address: HOST:PORT of its head, or `HERE`.

    Raises:
        UserError: there is no Ray, no cluster, or none of its machines has room or is as it must be.
    """
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # where Ray prints what raylets logged
        yield from _joined(_ray(), address, share)


def _joined(ray: Any, address: str, share: Share) -> Iterator[Cluster]:
    _connect(ray, (os.environ.get("RAY_ADDRESS") or HERE) if address == HERE else address)
    try:
        machines = {each["NodeID"]: each["NodeManagerHostname"] for each in ray.nodes() if share.fits(each)}
        if not machines:
            raise UserError(f"--cluster: no machine of it has {share}: ask for less by --cpus and --gpus")
        carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        environment = {**carried, THREADS: str(share.cpus)}
        with NamedTemporaryFile(prefix=".clkd-sweep-", dir=Path.cwd()) as mark:
            cluster = Cluster(ray, share, machines, Path(mark.name), environment)
            cluster.check()
            yield cluster
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster ray: Ray is not installed: pip install 'clkd[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """Ray itself would wait for minutes for a head that is not there."""
    try:
        if address != HERE:
            _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address == HERE:
            raise UserError(
                "--cluster ray: this machine belongs to no cluster: start one by `ray start --head`, or name its head: "
                "ray:HOST:PORT"
            ) from error
        told = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(f"--cluster ray:{address}: {one_line(told)}") from error


def _knock(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit()) or "/" in host:
        raise ValueError("write HOST:PORT, as `ray start --head` told it")
    socket.create_connection((host, int(port)), PATIENCE_SECONDS).close()


@dataclass(slots=True)
class _Task:
    """A program that waits for a machine or is under way on one."""

    ray: Any
    reference: Any
    begun: float = field(default_factory=time.perf_counter)

    def ended(self) -> Ended | None:
        if not self.ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            ended: Ended = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            lost = not isinstance(error, self.ray.exceptions.RayTaskError)
            return Ended(GONE, "", _reason(error), time.perf_counter() - self.begun, lost=lost)
        return ended

    def stop(self) -> None:
        with suppress(self.ray.exceptions.RayError):
            self.ray.cancel(self.reference)


def _reason(error: Exception) -> str:
    """One line of what Ray tells in many."""
    told = getattr(error, "cause", None) or error
    return one_line(str(told).strip().partition("\n")[0], 160) or type(told).__name__


# On the other machine


def _visit(mark: Path, version: str) -> str | None:
    """What this machine lacks; None if all is well."""
    if version != __version__:
        return f"it has clkd {__version__}, and here it is {version}"
    if not mark.is_file():
        return (
            f"{mark.parent} is not there, or another folder: start `clkd sweep` where all machines see the same files"
        )
    return None


def _run(words: Sequence[str], environment: Mapping[str, str], mark: Path, version: str) -> Ended:
    """The program, in the folder of the mark. An interrupt stops it, and it has the time that it needs for that."""
    where = socket.gethostname()
    # Ray cancels by an interrupt, which a cluster started in a shell's background ignores with all its workers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if why := _visit(mark, version):  # it may have come since the others were looked at
        raise UserError(f"{where}: {why}")
    process = Process(words, {**os.environ, **environment}, mark.parent)
    while True:
        try:
            while (ended := process.ended()) is None:
                time.sleep(LOOK)
            return replace(ended, where=where)
        except KeyboardInterrupt:
            process.stop()
