"""What all benchmarks share: seconds of variants that take turns, peak memory, the machine in a line."""

import ctypes
import datetime
import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

MEBI = 2**20


class Peak:
    """Peak memory above what was held at the start, in MiB: of the device's allocator, or of this process."""

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")

    def __enter__(self):
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            try:
                ctypes.CDLL("libc.so.6").malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
                self.start = self._status("VmRSS")
            except OSError:
                self.start = None
        return self

    def __exit__(self, *_):
        if self.cuda:
            self.mebibytes = (torch.cuda.max_memory_allocated() - self.start) / MEBI
        else:
            self.mebibytes = float("nan") if self.start is None else (self._status("VmHWM") - self.start) / MEBI

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(variants: dict[str, Callable], device: str, repeats: int) -> dict[str, tuple[list[float], float, object]]:
    """For each variant (seconds of the repeats, which take turns; peak MiB of a warm-up call; its result)."""

    def synchronize():
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds, peaks, results = {name: [] for name in variants}, {}, {}
    for name, call in variants.items():
        with Peak(device) as peak:
            results[name] = call()
            synchronize()
        peaks[name] = peak.mebibytes
    for _ in range(repeats):
        for name, call in variants.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: (seconds[name], peaks[name], results[name]) for name in variants}


def hardware(device: str) -> str:
    """The machine and the versions, in a line."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        models = [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        flags = next((line.split() for line in info.read_text().splitlines() if line.startswith("flags")), [])
        wide = ", ".join(f for f in ("avx2", "avx512f", "amx_tile") if f in flags)
        name = f"{models[0] if models else platform.processor()} ({wide}), {torch.get_num_threads()} threads"
    return (
        f"{datetime.date.today()} · {name} · Python {platform.python_version()}, torch {torch.__version__}, "
        f"NumPy {np.__version__}"
    )
