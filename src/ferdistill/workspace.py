"""Where every artifact lies, relative to the repository's root. dvc.yaml names the same paths; a test compares them."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
STUDY_GRID = Path("conf/study.yaml")
MIXTURE_GRID = Path("conf/mixture.yaml")
ORACLE = Path("pretrained/oracle.csv")

CHECKED = Path("data/checked")

RAW = Path("data/raw")
EMBEDDED = RAW / "embedded"
PRETRAINED = Path("pretrained")
TARGETS = Path("data/targets")
CROSS_FIT = Path("data/cross_fit")
MISALIGNMENT = Path("data/study/misalignment")

TEACHERS = Path("models/teachers")
STUDENT = Path("models/student")
PREDICTIONS = STUDENT / "predictions.parquet"
BUNDLE = Path("models/bundle")

METRICS = Path("metrics")
STUDENT_METRICS = METRICS / "student.json"
CALIBRATION_METRICS = METRICS / "calibration.json"
EVALUATION_METRICS = METRICS / "evaluation.json"
GROUP_METRICS = METRICS / "groups.json"
ROBUSTNESS_METRICS = METRICS / "robustness.json"
EXPORT_METRICS = METRICS / "export.json"
BENCHMARK_METRICS = METRICS / "benchmark.json"
SUMMARY = METRICS / "study/results_summary.csv"
RESCORED = METRICS / "study/rescored.csv"
COSTS = METRICS / "study/costs.json"

PLOTS = Path("plots")
STUDENT_CURVES = PLOTS / "student"

REPORTS = Path("reports")

# What DVC and git ignore.
SCRATCH = Path(".dvc/tmp")


def shared_scratch() -> Path:
    """`SCRATCH` of the main repository, also where a queued run has a workspace of its own."""
    return Path(os.environ.get("DVC_ROOT", ".")) / SCRATCH


def memo() -> Path:
    """What was computed before; deleting it costs time and nothing else."""
    return shared_scratch() / "memo.sqlite"


def duration(stage: str) -> Path:
    """How long a stage took when it last ran here."""
    return shared_scratch() / "durations" / f"{stage}.json"


def checked_weights(network: str) -> Path:
    """Which starting or frozen weights a teacher, or `student`, has, with their digest."""
    return CHECKED / "weights" / f"{network}.json"


def results(corpus: str) -> Path:
    """The table of the study on a corpus; the repository has the embedded one's own."""
    return SUMMARY if corpus == EMBEDDED.name else SUMMARY.with_name(f"{corpus}.csv")


def corpus(name: str) -> Path:
    """The images of a corpus and their corpus.yaml."""
    return RAW / name


def index_csv(tag: str) -> Path:
    """The rows of an index; the JSON with its digests has the same name but for the suffix."""
    return Path("data/index") / f"{tag}.csv"


def images(tag: str) -> Path:
    """The packed images of an index, in shards."""
    return Path("data/images") / tag


def softlabels(teacher: str, tag: str) -> Path:
    """One teacher's soft labels for the images of an index."""
    return Path("data/softlabels") / f"{teacher}_{tag}"


def ranges(teacher: str) -> Path:
    """Where a teacher's soft labels that were made in ranges wait for their stage, one file a range."""
    return SCRATCH / "ranges" / teacher


def range_made(name: str) -> Path:
    """What a run of one range makes, by the name of its stage."""
    return Path("data/ranges") / f"{name}.safetensors"


def teacher(name: str) -> Path:
    """One teacher's weights and config.json."""
    return TEACHERS / name
