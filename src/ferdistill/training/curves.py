"""Learning curves: one file a quantity and an epoch a row, written as training goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive import Live


@contextmanager
def curves(directory: Path) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield a function that logs one epoch's record, to be passed to `loop.fit`.

    `val_macro_f1` goes to `directory`/plots/metrics/val/macro_f1.tsv, and so on, where `dvc plots` and DVC's VS Code
    extension show it live. It makes no experiment of its own: the pipeline does.
    """
    with Live(str(directory), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False) as live:

        def log(record: dict[str, float]) -> None:
            live.step = int(record["epoch"])
            for name, value in record.items():
                if name != "epoch":
                    live.log_metric(name.replace("_", "/", 1), value)
            live.make_summary()

        yield log
