"""Work shared by processes, one a core."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


def on_every_core(
    function: Callable[[Work], Result], chunks: Sequence[Work], each: int, workers: int | None = None
) -> Iterator[Result]:
    """What `function` gives for each chunk, in their order, which the number of processes does not change.

    Parameters
    ----------
    function
        Processes must be able to import it.
    each : int
        Chunks that repay starting a process.
    workers : int or None
        Processes, at least 1; one is this one. If None, one a core, where there are enough chunks.
    """
    if workers is None:
        # Of the cores, those this process may run on, where the system tells.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, len(chunks) // each or 1)
    if workers == 1:
        yield from map(function, chunks)
        return
    # Spawned, not forked: a fork of a process whose libraries run threads may hang.
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")))
        stack.callback(pool.shutdown, cancel_futures=True)
        yield from pool.map(function, chunks)
