"""The study report and the decision: complete, offline, repeatable, and words that turn when the numbers do."""

import html
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill import files, params
from ferdistill.cli import cli
from ferdistill.errors import UsageError
from ferdistill.report import facts, figures, gathered, replication, report
from ferdistill.study import recipes, results, statistics

ROOT = Path(__file__).parents[1]
SETTINGS = params.load(ROOT / "params.yaml")
PUBLISHED = replication.load(ROOT / "conf/report.yaml")
SEEDS = [1337, 2025, 42, 7]
NOISE = [0.004, -0.003, 0.001, -0.002]  # of a seed, common to all recipes
OWN = [0.0005, -0.0004, 0.0003, -0.0004]  # of a seed and recipe, so that differences have an interval; sums to 0
RECIPES = [
    ("none", "none", {}),
    ("6A", "kd", {}),
    ("6B", "kd", {}),
    ("6C", "kd", {}),
    ("6D", "kd", {"lambda": 0.3}),
    ("6D", "kd", {"lambda": 0.7}),
    ("6E", "kd", {}),
    ("6E", "kd", {"views": 4}),
    ("6E", "dkd", {"beta": 2.0}),
    ("6E", "dkd", {"beta": 4.0}),
    ("6C_t1", "kd", {}),
    ("6C_logit", "kd", {}),
    ("efficientnet_b3", "kd", {}),
]
NAMES = ["none", "6A", "6B", "6C", "6D.3", "6D.7", "6E", "views", "dkd2", "dkd4", "t1", "logit", "single"]
FUSIONS = {"6C_t1": "probability_t1", "6C_logit": "logit"}


def table(path, f1=None, ece=None, only=NAMES, jitter=(), **columns):
    """Results of every recipe: macro F1 0.78 and ECE 0.05 unless told, the same on val; `jitter` have wide noise."""
    f1, ece = f1 or {}, ece or {}
    rows = []
    for number, (name, (family, mode, settings)) in enumerate(zip(NAMES, RECIPES, strict=True)):
        if name not in only:
            continue
        # Recipes of one loss agree at every seed, so their own noise is that of the first of them.
        same = {"6C": "6E", "6B": "6D.7"}.get(name, name)
        signs = np.random.default_rng(NAMES.index(same)).permutation(OWN) * (40 if name in jitter else 1)
        for at, seed in enumerate(SEEDS):
            mean = f1.get(name, 0.78) + NOISE[at] + signs[at]
            error = ece.get(name, 0.05) + 0.2 * signs[at]
            row = {
                **dict.fromkeys(results.columns(CLASSES), ""),
                **{"experiment": f"run-{number}-{seed}", "family": family, "mode": mode, "views": 1, "seed": seed},
                **{"fusion": FUSIONS.get(family, "probability"), "alpha": 0.5, "temperature": 2.0},
                **({"dkd_target_term": "official"} if mode == "dkd" else {}),
                **({"fusion": "", "alpha": "", "temperature": ""} if mode == "none" else {}),
                **settings,
                **{"best_epoch": 5 + at, "best_test_epoch": 10, "best_test_macro_f1": mean + 0.01},
                **{"optimism_macro_f1": 0.01, "best_test_acc": mean, "grid_at_edge": str(at == 0).lower()},
                **dict.fromkeys(["val_macro_f1", "calib_macro_f1", "val_accuracy", "macro_f1", "accuracy"], mean),
                **{f"{key}{name}": mean for key in ("f1_", "best_test_f1_") for name in CLASSES},
                **dict.fromkeys(["ece", "ece_scaled", "ece_null", "mce", "mce_scaled"], error),
                **dict.fromkeys(["nll", "nll_scaled", "brier", "brier_scaled"], 0.6),
                **{"t_star": 1.1, "t_star_grid": 1.2, "scale": "embedded", "corpus": "embedded"},
                **{"index_tag": "t", "index_digest": "d" * 64, "misaligned": "false", "code": "c0de"},
                **{"time": "2026-11-25T10:00:00+08:00", **columns},
            }
            rows.append(row)
    frame = pd.DataFrame(rows)[results.columns(CLASSES)]
    frame.to_csv(path, index=False)
    return results.read(path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No results of a working tree near."""
    monkeypatch.chdir(tmp_path)


def studied(tmp_path, published=PUBLISHED, settings=SETTINGS, **numbers):
    return gathered.gather(table(tmp_path / "r.csv", **numbers), settings, None, published)


def told(study, *sections):
    """The Markdown of these sections, without the escapes."""
    environment = report.words("figures")
    return "\n".join(report.told(section, study, environment)[0].replace("\\", "") for section in sections)


def said(tmp_path, **numbers):
    """The findings, by their leads."""
    return dict(re.findall(r"^- \*\*(.+?)\*\* (.+)$", told(studied(tmp_path, **numbers), facts.findings), re.M))


# ---- the page ----------------------------------------------------------------------------------------------


def predictions(store, seed):
    """A predictions.parquet in a DVC cache, under the md5 returned."""
    rng = np.random.default_rng(seed)
    labels = np.arange(140) % 7
    logits = rng.normal(0, 1, (140, 7)) + 2.5 * np.eye(7)[labels]
    frame = pd.DataFrame(logits.astype(np.float32), columns=[f"logit_{name}" for name in CLASSES])
    frame.insert(0, "label", [CLASSES[label] for label in labels])
    frame.insert(0, "subject", [f"s{row // 7}" for row in range(140)])
    frame.insert(0, "group", [f"s{row // 7}" for row in range(140)])
    frame.insert(0, "split", "test")
    frame.insert(0, "path", [f"{row:03d}.png" for row in range(140)])
    frame = pd.concat([frame, frame.assign(split="calib")])
    md5 = f"{seed:032x}"
    path = store / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path)
    return md5


def write(root, out):
    options = {"replication": ROOT / "conf/report.yaml", "store": root / "cache"}
    return report.make(root / "results.csv", SETTINGS, out / "report.html", out / "report.md", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with predictions and curves, and all that it was made from."""
    root = tmp_path_factory.mktemp("report")
    curves = root / "repository"
    for path, values in zip(gathered.CURVES.values(), ("0.7\n0.8", "1.5\n1.1"), strict=True):
        (curves / path).parent.mkdir(parents=True)
        first, last = values.split("\n")
        (curves / path).write_text(f"step\tvalue\n1\t{first}\n2\t{last}\n")
    git = ["git", "-C", str(curves), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "run"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    table(root / "results.csv", commit=commit)
    frame = pd.read_csv(root / "results.csv", dtype=str, keep_default_na=False)
    stored = (frame["family"].isin(["none", "6A", "6E"])) & (frame["mode"] != "dkd") & (frame["views"] == "1")
    frame.loc[stored, "predictions"] = [predictions(root / "cache", seed) for seed in range(int(stored.sum()))]
    frame.to_csv(root / "results.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(curves)
        written = write(root, root)
    return root, curves, written


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_one_file_that_asks_for_nothing(made):
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text and "@media print" in text and 'name="viewport"' in text


def test_every_section_is_there_and_every_figure_has_words(made):
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    ids = [section["id"] for section in page.all("section")]
    assert ids == [
        "findings", "results", "differences", "split-and-fused", "fusions", "sweeps", "classes", "reliability",
        "confusion", "deployment", "curves", "diversity", "misalignment", "threats", "provenance",
    ]  # fmt: skip
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert {link["href"][1:] for link in page.all("a")} <= anchors
    images = page.all("img")
    assert len(images) == 15 and all(len(image["alt"]) > 40 for image in images)
    assert len(ids) == len(set(ids)) and text.count("<h1>") == 1 and '<html lang="en">' in text


def test_the_markdown_says_the_same_and_its_figures_lie_beside_it(made):
    root, _, written = made
    text = (root / "report.md").read_text(encoding="utf-8")
    for path in written[2:]:
        assert path.is_file() and f"(report/{path.name})" in text
    assert len(written) == 2 + 15
    assert "## Threats to validity" in text and "**Null pairs.**" in text


def test_the_same_input_makes_the_same_bytes_and_leaves_no_stale_figure(made, tmp_path, monkeypatch):
    root, curves, written = made
    monkeypatch.chdir(curves)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "old.svg").write_text("<svg/>")
    again = write(root, tmp_path)
    for first, second in zip(written, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    assert not (tmp_path / "report" / "old.svg").exists()


def test_numbers_in_the_page_are_those_of_the_table(made):
    root = made[0]
    text = (root / "report.html").read_text(encoding="utf-8")
    f1 = recipes.select(results.read(root / "results.csv"), "6E:kd")["macro_f1"].to_numpy()
    low, high = statistics.paired_t_interval(f1)
    assert f"{f1.mean():.4f} [{low:.4f}, {high:.4f}]" in text


def test_what_is_not_here_is_said(tmp_path):
    files.write_text(tmp_path / "plots/study/misalignment.png", "")
    other = {"index_digest": "e" * 64, "conditions": [], "run_family": "6E", "run_mode": "kd"}
    files.write_json(tmp_path / "metrics/study/misalignment.json", other)
    files.write_json(tmp_path / "metrics/student.json", other)
    files.write_text(tmp_path / "plots/confusion.csv", "actual,predicted\nhappy,sad\n")
    files.write_text(tmp_path / "plots/reliability.csv", "scaling\n")
    words = told(studied(tmp_path, only=["6A", "6E"]), *facts.SECTIONS)
    for sentence in (
        "No predictions are here", "curves are not in this clone", "soft labels are not here", "Not run on this index",
        "No null pair was run", "lacks the baseline", "no student of a single teacher was run",
    ):  # fmt: skip
        assert sentence in words


def test_too_few_seeds_leave_a_report_without_a_decision(tmp_path):
    frame = table(tmp_path / "r.csv", only=["none", "6A", "6E"])
    frame[frame["seed"] == 42].assign(grid_at_edge="false", misaligned="false").to_csv(tmp_path / "r.csv", index=False)
    report.make(tmp_path / "r.csv", SETTINGS, tmp_path / "r.html", tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert (
        "**not decided**" in text
        and "Nothing is decided: the default recipe, labels alone, has 1 of the 3 seeds" in text
    )


def test_several_students_are_set_beside_what_they_cost(tmp_path):
    own = SETTINGS.decide.model_copy(update={"default": "none:none:student=small", "max_p95_ms": 5.0})
    large = table(tmp_path / "r.csv", f1={"6E": 0.80}, only=["none", "6E"], student="large")
    both = pd.concat([table(tmp_path / "r.csv", only=["none", "6E"], student="small"), large])
    flags = ["grid_at_edge", "misaligned"]
    both.assign(**{name: both[name].map({True: "true", False: "false"}) for name in flags}).to_csv("r.csv", index=False)
    costs = {"p95_ms": 1.0, "size_bytes": 2_300_000, "parameters": 500_000}
    found = {"students": {"small": costs, "large": costs | {"p95_ms": 8.0}}, "machine": "m", "threads": 1}
    files.write_json(tmp_path / "metrics/study/costs.json", found)
    settings = SETTINGS.model_copy(update={"decide": own})
    study = gathered.gather(results.read(tmp_path / "r.csv"), settings, None)
    words, drawn = report.told(facts.deployment, study, report.words("figures"))
    assert "| small | 500,000 | 1.00 | 2.3 |" in words and "| large | 500,000 | 8.00 | 2.3 |" in words
    assert "students.svg" in drawn and "large" in drawn["students.svg"].data.decode()
    assert "since all train one network" not in words


# ---- a study of one's own -----------------------------------------------------------------------------------

OWN_FAMILIES = {
    "none": {"fusion": "probability", "sources": []},
    "both": {"fusion": "probability", "sources": [{"weight": 1.0, "teachers": {"big": 0.5, "small": 0.5}}]},
    "apart": {
        "fusion": "probability",
        "sources": [{"weight": 0.5, "teachers": {"big": 1.0}}, {"weight": 0.5, "teachers": {"small": 1.0}}],
    },
    "scores": {"fusion": "logit", "sources": [{"weight": 1.0, "teachers": {"big": 0.5, "small": 0.5}}]},
    "small": {"fusion": "probability", "sources": [{"weight": 1.0, "teachers": {"small": 1.0}}]},
    "swept": {
        "fusion": "probability",
        "sources": [{"weight": "lambda", "teachers": {"big": 1.0}}, {"weight": "1 - lambda", "teachers": {"small": 1}}],
    },
}
RENAMED = {"6C": "both", "6E": "apart", "6C_logit": "scores", "efficientnet_b3": "small", "6D": "swept"}
DIGITS = dict(zip(CLASSES, ["nought", "one", "two", "three", "four", "five", "six"], strict=True))


def own_study(tmp_path):
    """Digits, two teachers, families of other names: their params and the path of their table."""
    kept = ["none", "6C", "6D.3", "6D.7", "6E", "views", "dkd2", "dkd4", "logit", "single"]
    table(tmp_path / "r.csv", only=kept, f1={"none": 0.77, "logit": 0.775}, corpus="digits")
    frame = pd.read_csv(tmp_path / "r.csv", dtype=str, keep_default_na=False).replace({"family": RENAMED})
    frame.columns = [re.sub(f"({'|'.join(DIGITS)})$", lambda name: DIGITS[name[0]], name) for name in frame.columns]
    frame.to_csv(tmp_path / "r.csv", index=False)
    own = {
        "families": {name: params.Family.model_validate(family) for name, family in OWN_FAMILIES.items()},
        "teachers": ["big", "small"],
        "classes": list(DIGITS.values()),
        "task": params.TaskParams(thing="digit", things="digits", label="number", labels="numbers", detector=None),
    }
    return SETTINGS.model_copy(update=own), tmp_path / "r.csv"


def test_without_a_replication_no_page_speaks_of_another_report(tmp_path):
    settings, path = own_study(tmp_path)
    report.make(path, settings, tmp_path / "r.html", tmp_path / "r.md")
    page = re.sub(r"<style>.*?</style>|data:[^\"]*", "", (tmp_path / "r.html").read_text(encoding="utf-8"), flags=re.S)
    old = r"\b6[A-E]\b|the report\b|report's|§|resnet|convnext|efficientnet|\bvit\b|\bfaces?\b|expression"
    for text in (page, (tmp_path / "r.md").read_text(encoding="utf-8")):
        assert re.findall(old, text, re.I) == []
        assert "apart kd" in text and "small kd is the best" in text
        assert "best test epoch" not in text and "Protocol" not in text


def test_a_report_begins_with_corpus_recipes_and_what_is_shown_in_ten_lines(tmp_path):
    settings, path = own_study(tmp_path)
    report.make(path, settings, tmp_path / "r.html", tmp_path / "r.md")
    head = (tmp_path / "r.md").read_text(encoding="utf-8").partition("\n## ")[0].replace("\\", "")
    assert head.startswith("# Study report: digits\n")
    lines = [line for line in head.splitlines() if line.startswith("- ")]
    assert len(lines) <= 10
    assert "scale embedded" in lines[0] and "2 teachers (big and small)" in lines[0]
    assert "10 recipes in 40 runs" in lines[1] and "apart kd views=4" in lines[1]
    assert "**Shown against labels alone:** 9 of 9 recipes" in head and "cannot be distinguished" in head
    assert "the runs' predictions, learning curves" in lines[-1]


def test_intervals_end_where_the_score_does(tmp_path):
    words = told(studied(tmp_path, f1={"6E": 0.9954}, best_test_macro_f1=0.99), facts.results)
    low, high = re.search(r"6E kd \| \d \| \d \| 0\.995\d* \[(0\.\d+), (\d\.\d+)\]", words).groups()
    assert float(low) < 0.995 and high == "1.0000"


def test_a_report_lies_in_a_folder_of_its_own(tmp_path):
    table(tmp_path / "r.csv", only=["none", "6A", "6E"])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    for words, folder in (([], "embedded"), (["--name", "friday"], "friday")):
        done = CliRunner().invoke(cli, ["study", "report", "--results", "r.csv", *words], catch_exceptions=False)
        assert done.exit_code == 0
        assert (tmp_path / "reports" / folder / "report.html").is_file()
        assert (tmp_path / "reports" / folder / "report.md").is_file()
    assert not (tmp_path / "docs").exists() and not (tmp_path / "plots").exists()


def test_a_study_of_ones_own_is_compared_with_labels_a_single_teacher_and_its_null_pairs(tmp_path):
    settings, path = own_study(tmp_path)
    study = gathered.gather(results.read(path), settings, None)
    found = facts.findings(study)
    assert (found["against_labels"]["count"], found["against_single"]["count"]) == (9, 6)
    assert {(one.label, other.label) for one, other in study.null_pairs} == {("both kd", "apart kd")}
    (group,) = study.variants
    assert group["reference"].label == "apart kd" and group["gap"] is None
    assert {row["label"]: row["fused"] for row in group["rows"]} == {
        **{"both kd": True, "scores kd": True, "apart kd views=4": False},
    }
    assert [one["setting"].key for one in facts.sweeps(study)["swept"]] == ["lambda", "beta"]
    assert [effect["label"] for effect in study.effects] == [
        f"{study.principal.label} − small kd", f"{study.principal.label} − labels alone"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline: 6A:kd", "baseline: 6A:fused", "no recipe can be named"),
        ("candidate: 6E:kd", "candidate: 6E:kd:bta=4", "no setting `bta`"),
        ("seeds: 3", "seeds: 0", "seeds"),
        ("name: the report", "nmae: the report", "nmae"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(tmp_path, old, new, message):
    text = (ROOT / "conf/report.yaml").read_text(encoding="utf-8")
    assert old in text
    files.write_text(tmp_path / "report.yaml", text.replace(old, new))
    with pytest.raises(UsageError, match=message):
        replication.load(tmp_path / "report.yaml")
    with pytest.raises(UsageError, match="no report to repeat here"):
        replication.load(tmp_path / "absent.yaml")


def test_recipes_of_the_report_that_were_not_run_are_said_to_be_so(tmp_path):
    settings, path = own_study(tmp_path)
    study = gathered.gather(results.read(path), settings, None, PUBLISHED)
    assert study.published == [] and "6E:kd and 6A:kd were not both run" in told(study, facts.findings)


def test_markdown_and_page_show_names_as_they_are(tmp_path):
    settings, path = own_study(tmp_path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    odd = "a*b_ &lt; <b>[x](y)|`"
    frame["experiment"] = odd
    frame.to_csv(path, index=False)
    report.make(path, settings, tmp_path / "r.html", tmp_path / "r.md")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count(f'<th scope="row">{html.escape(odd)}</th>') == len(frame) and "<b>" not in page


# ---- words that turn ---------------------------------------------------------------------------------------


def test_distillation_wins_loses_or_cannot_be_told(tmp_path):
    lead = "Does distillation help?"
    assert said(tmp_path, f1={"none": 0.75})[lead].startswith("6E kd beats labels alone, +3.00 points")
    assert said(tmp_path, f1={"none": 0.81})[lead].startswith("6E kd loses to labels alone, −3.00 points")
    unclear = said(tmp_path, f1={"none": 0.781}, jitter=["none"])[lead]
    assert unclear.startswith("6E kd cannot be distinguished from labels alone")


def test_dunnetts_test_is_over_every_recipe_of_the_table(tmp_path):
    study = studied(tmp_path, f1={"none": 0.77, "6A": 0.79})
    others = [recipe for recipe in study.recipes if recipe is not study.baseline]
    values = [recipe.runs["macro_f1"].to_numpy() for recipe in (study.baseline, *others)]
    tested = statistics.dunnett(values[0], values[1:])
    kept = [recipe.label for recipe, one in zip(others, tested, strict=True) if one.p < 0.05]
    found = facts.findings(study)["against_labels"]
    assert kept and found["judged"] == len(others) and found["kept"] == kept


def test_more_teachers_against_the_best_single_one(tmp_path):
    for single, above, below in ((0.76, 9, 0), (0.80, 0, 9)):
        found = facts.findings(studied(tmp_path, f1={"single": single}))["against_single"]
        assert found["baseline"].label == "efficientnet_b3 kd" and (found["above"], found["below"]) == (above, below)


def test_null_pairs_that_agree_blame_the_other_pipeline(tmp_path):
    words = said(tmp_path, f1={"6A": 0.77})["Null pairs."]
    assert "6B kd = 6D kd λ=0.7; 6C kd = 6E kd" in words and "agree to the last digit at every seed" in words
    assert "+1.00 points, is larger than that" in words


def test_a_null_gap_above_the_headline_unmakes_it(tmp_path):
    words = said(tmp_path, f1={"6C": 0.76, "6A": 0.775})["Null pairs."]
    assert "largest mean gap is +2.00 points" in words and "look for a fault" in words
    assert "is no larger than this gap, so it is no evidence" in words
    noisy = said(tmp_path, f1={"6C": 0.775}, jitter=["6C"])["Null pairs."]
    assert "look for a fault" not in noisy and "that much is noise" in noisy


def test_a_published_gap_is_counted_in_the_noise_of_its_seeds(tmp_path):
    study = studied(tmp_path)
    noise, spread = study.null["noise"], float(study.principal.runs["macro_f1"].std(ddof=1))
    assert noise["gap"] == pytest.approx(0.0172) and noise["seeds"] == 2
    assert noise["here"] == pytest.approx(0.0172 / spread)  # two means of two seeds differ as two seeds do
    assert noise["own"] == pytest.approx(np.std(PUBLISHED.headline.per_seed, ddof=1))


def test_the_fusion_that_makes_the_reports_gap_is_named(tmp_path):
    gap = PUBLISHED.differences[0].macro_f1

    def judged(**numbers):
        (group,) = studied(tmp_path, **numbers).variants
        assert group["reference"].label == "6E kd" and group["gap"] == gap
        return {row["label"]: row["reproduces"] for row in group["rows"]}

    none = {"6C kd": "no", "6C_t1 kd": "no", "6C_logit kd": "no", "6E kd views=4": ""}
    assert judged() == none
    assert judged(f1={"logit": 0.78 + gap}) == none | {"6C_logit kd": "yes"}
    assert judged(f1={"t1": 0.775}, jitter=["t1"]) == none | {"6C_t1 kd": "open"}
    assert judged(f1={"t1": 0.79}) == none | {"6C_t1 kd": "other"}
    lead = "Which fusion makes the report's gap?"
    assert "So 6C_logit kd can make such a gap." in said(tmp_path, f1={"logit": 0.78 + gap})[lead]
    assert "6C_t1 kd cannot be ruled out" in said(tmp_path, f1={"t1": 0.775}, jitter=["t1"])[lead]


def test_the_headline_is_set_beside_the_reports(tmp_path):
    lead = "The report's principal comparison."
    assert "agrees in direction with the report's +0.42" in said(tmp_path, f1={"6A": 0.77})[lead]
    assert "contradicts the report's +0.42" in said(tmp_path, f1={"6A": 0.79})[lead]
    assert "does not confirm the report's +0.42" in said(tmp_path, jitter=["6A"])[lead]


def test_views_and_dkd_are_judged(tmp_path):
    found = said(tmp_path, f1={"views": 0.80, "dkd2": 0.76})
    assert found["Recorded views."].startswith("6E kd views=4 minus 6E kd: +2.00 points [")
    assert found["Recorded views."].endswith("which is above zero.")
    assert "clearly worse in 1 (6E dkd β=2)" in found["DKD or KD?"]
    assert "which is below zero" in said(tmp_path, f1={"views": 0.76})["Recorded views."]


# ---- the simplex -------------------------------------------------------------------------------------------


def test_null_pairs_follow_from_params_and_share_a_point(tmp_path):
    found = recipes.of(table(tmp_path / "r.csv"), SETTINGS, [])
    by_label = {recipe.label: recipe for recipe in found}
    assert by_label["6B kd"].point == by_label["6D kd λ=0.7"].point != by_label["6D kd λ=0.3"].point
    assert by_label["6C kd"].point == by_label["6E kd"].point and by_label["6C_logit kd"].point is None
    study = studied(tmp_path)
    pairs = {(one.label, other.label) for one, other in study.null_pairs}
    assert pairs == {("6B kd", "6D kd λ=0.7"), ("6C kd", "6E kd")}


def test_the_projection_keeps_distances_that_lie_in_a_plane():
    mixtures = np.array([[0.7, 0.3, 0, 0], [0.49, 0.21, 0, 0.3], [0.2, 0.5, 0, 0.3]])
    points, corners, kept = figures.project(mixtures)
    assert kept == pytest.approx(1) and corners.shape == (4, 2)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(points[i] - points[j]) == pytest.approx(np.linalg.norm(mixtures[i] - mixtures[j]))
    assert mixtures @ corners == pytest.approx(points)  # a mixture lies where its teachers' corners put it
    assert figures.project(np.eye(4))[2] == pytest.approx(2 / 3)


@pytest.mark.parametrize("broken", ["folder/page.html", "file/page.html"])
def test_a_report_that_cannot_be_written_whole_is_not_written_at_all(tmp_path, broken):
    (tmp_path / "folder/page.html").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    old = tmp_path / "old.md"
    old.write_text("old")
    before = sorted(tmp_path.rglob("*"))
    for pages in ([tmp_path / broken, old], [old, tmp_path / broken]):
        with pytest.raises((UsageError, OSError)):
            report._write_all(dict.fromkeys(pages, b"new"))
        assert old.read_text() == "old" and sorted(tmp_path.rglob("*")) == before
