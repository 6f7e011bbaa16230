"""On what a figure was measured: processor, GPU, load, versions, and the commit of the code."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "timm", "pytorch-lightning", "torchmetrics", "hydra-core")


def hardware() -> str:
    """Name the processor, its cores and the GPUs."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # no affinity on macOS and Windows
        cores = os.cpu_count() or 1
    parts = [f"{processor()}, {cores} cores"]
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        parts.append((f"{count} x " if count > 1 else "") + torch.cuda.get_device_name())
    return ", ".join(parts)


def processor() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def load() -> float | None:
    """Return how many processes wanted to run in the last minute; None where nobody tells."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def load_word() -> str:
    """Say the load with one digit."""
    known = load()
    return "unknown" if known is None else f"{known:.1f}"


def versions() -> str:
    """Name the code's commit (``-dirty`` where files differ from it), Python and libraries."""
    known = [f"flowfeat {commit()}", f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)


def commit() -> str:
    """Return the commit of this checkout; ``unknown`` outside one."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
