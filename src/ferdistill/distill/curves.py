"""Learning curves: one file a quantity and an epoch a row, written as training goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvclive import Live

from .loop import is_main_process


@contextmanager
def curves(directory: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that logs one epoch's record, to be passed to `loop.fit`.

    `val_macro_f1` goes to `directory`/plots/metrics/val/macro_f1.tsv, and so on, where `dvc plots` and DVC's VS Code
    extension show it live. It makes no experiment of its own: the pipeline does. Of several processes only the first
    logs.
    """
    if not is_main_process():
        yield lambda record: None
        return
    with Live(str(directory), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False) as live:

        def log(record: dict[str, Any]) -> None:
            live.step = int(record["epoch"])
            for name, value in record.items():
                if name != "epoch" and isinstance(value, float):
                    live.log_metric(name.replace("_", "/", 1), value)
            live.make_summary()

        yield log
