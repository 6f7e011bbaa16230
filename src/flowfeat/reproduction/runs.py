"""Run jobs as console scripts beside this Python, keep what is finished, go on after failures."""

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flowfeat.reproduction.jobs import STAMP, Job, changed, read_figures, read_json, write_json
from flowfeat.reproduction.machine import hardware, versions

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
ERROR = re.compile(r"flowfeat: error: |[\w.]+(Error|Exception|Interrupt)\b")
"""How the line begins that says what went wrong, of our scripts and of Python."""

RESULTS = {"train": "results.json", "evaluate": "results.json", "profile": "profile.json"}


class Outcome(NamedTuple):
    """What a job left: figures by key, or why it has none."""

    figures: Mapping[str, float]
    seconds: float = 0.0
    error: str | None = None
    id: str = ""  # of the run that made them: what comes after it starts from just these weights
    hardware: str = ""
    versions: str = ""


def tell(line: str) -> None:
    """Print a line of progress at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Runner:
    """Starts console scripts, at most ``at_once`` together.

    Args:
        at_once: Runs side by side.
        threads: Of each; None leaves them to torch.
        scripts: Where the console scripts are.
        say: Takes the lines of progress.
    """

    at_once: int = 1
    threads: int | None = None
    scripts: Path = field(default_factory=lambda: Path(sys.executable).parent)
    say: Callable[[str], None] = tell
    _children: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run_all(self, jobs: Iterable[Job]) -> dict[Job, Outcome]:
        """Run jobs, those that others need before them; failures do not stop the rest.

        Raises:
            UsageError: Settings that do not compose, before anything runs.
            FileNotFoundError: A console script that is not installed.
        """
        waiting = list(dict.fromkeys(jobs))
        for command in {job.command for job in waiting}:
            self.script(command)
        settings = {job: job.settings() for job in waiting}
        done: dict[Job, Outcome] = {}
        running: dict[Future[Outcome], Job] = {}
        total = len(waiting)
        with ThreadPoolExecutor(self.at_once) as pool:
            try:
                while waiting or running:
                    for job in [j for j in waiting if set(j.needs.values()) <= done.keys()]:
                        settled = self._settled(job, settings[job], done)
                        if settled is None and len(running) >= self.at_once:
                            break
                        waiting.remove(job)
                        if settled is not None:
                            done[job] = settled
                            how = f"failed: {settled.error}" if settled.error else "kept"
                            self.say(f"[{len(done)}/{total}] {job.name}: {how}")
                        else:
                            ids = {part: done[other].id for part, other in job.needs.items()}
                            running[pool.submit(self._run, job, settings[job], ids)] = job
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        job = running.pop(future)
                        done[job] = outcome = future.result()
                        how = f"failed: {outcome.error}" if outcome.error else "done"
                        self.say(
                            f"[{len(done)}/{total}] {job.name}: {how}, {outcome.seconds:.0f} s"
                        )
            except BaseException:
                for child in list(self._children):
                    child.terminate()
                raise
        return done

    def _settled(
        self, job: Job, settings: Mapping[str, Any], done: Mapping[Job, Outcome]
    ) -> Outcome | None:
        """Return the outcome of a job that need not or cannot run; None where it is to run."""
        for part, other in job.needs.items():
            if done[other].error:
                return Outcome({}, error=f"{part} needs {other.run}, which failed")
        stamp = read_json(job.folder / STAMP)
        figures = read_figures(job.folder / RESULTS[job.command])
        if stamp is None or not stamp.get("finished") or figures is None:
            return None
        reasons = changed(stamp["settings"], settings, job.overrides)
        for part, other in job.needs.items():
            if stamp["needs"].get(part) != done[other].id:
                reasons.append(f"{part} was run again")
        if reasons:
            more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            self.say(f"{job.name}: changed since it ran: {', '.join(reasons[:3])}{more}")
            return None
        return Outcome(
            figures, stamp["seconds"], None, stamp["id"], stamp["hardware"], stamp["versions"]
        )

    def _run(self, job: Job, settings: Mapping[str, Any], ids: Mapping[str, str]) -> Outcome:
        try:
            clear(job.folder)
        except ValueError as foreign:
            return Outcome({}, error=str(foreign))
        stamp: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "command": job.command,
            "overrides": list(job.overrides),
            "settings": settings,
            "needs": ids,
            "hardware": hardware(),
            "versions": versions(),
            "finished": False,
        }
        write_json(job.folder / STAMP, stamp)
        self.say(f"{job.name}: running")
        begin = time.perf_counter()
        error = self.call(job.command, job.words(), job.folder / "log.txt")
        seconds = time.perf_counter() - begin
        if error is None and job.command == "evaluate":
            lift(job.folder)
        figures = read_figures(job.folder / RESULTS[job.command])
        if error is None and figures is None:
            error = f"it left no {RESULTS[job.command]}"
        if error is not None:
            return Outcome({}, seconds, error)
        write_json(job.folder / STAMP, {**stamp, "seconds": seconds, "finished": True})
        return Outcome(
            figures or {}, seconds, None, stamp["id"], stamp["hardware"], stamp["versions"]
        )

    def call(
        self, command: str, words: Sequence[str], log: Path, threads: int | None = None
    ) -> str | None:
        """Run `flowfeat-<command>`, its output in a file; return the last line of what went wrong.

        Args:
            command: train, evaluate or profile.
            words: Its arguments.
            log: Takes what it prints.
            threads: Other threads than usual.
        """
        threads = self.threads if threads is None else threads
        environment = {name: str(threads) for name in THREADS} if threads else {}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            child = subprocess.Popen(
                [str(self.script(command)), *words],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
            self._children.add(child)
            try:
                status = child.wait()
            except BaseException:
                child.terminate()
                child.wait()
                raise
            finally:
                self._children.discard(child)
        return None if status == 0 else last_line(log, status)

    def script(self, command: str) -> Path:
        """Return the console script of a command; FileNotFoundError where it is not installed."""
        path = self.scripts / f"flowfeat-{command}"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not installed, expected it after `make setup`")
        return path


def clear(folder: Path) -> None:
    """Remove what an earlier run left; ValueError where something else lies there."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / STAMP).is_file():
            raise ValueError(f"{folder}: expected a run of reproduce or nothing, found other files")
        shutil.rmtree(folder)


def lift(folder: Path) -> None:
    """Bring the report of an evaluation, in a folder of its own below, up into ``folder``."""
    reports = sorted(folder.glob("*/*/*/results.json"), key=lambda path: path.stat().st_mtime)
    for path in reports[-1:]:
        for name in ("results.json", "config.yaml"):
            shutil.copyfile(path.parent / name, folder / name)


def last_line(log: Path, status: int) -> str:
    """Return the line that says what went wrong, without the scripts' prefix."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if ERROR.match(line)]
    found = (errors or [line for line in lines if line] or ["no output"])[-1]
    return f"{found.removeprefix('flowfeat: error: ')} (status {status})"
