"""Pages and summaries about what somebody else wrote: names and values are text there, never markup or commands.

Findings of an attack, a test each; docs/robustness.md has the table.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from ferdistill.deployment.card import model_card
from ferdistill.tracking import offline_html
from support.browser import launch
from support.repository import ROOT, run

SCRIPT = '"</script><script>document.title=\'run\'</script><img src=x onerror=""document.title=\'run\'"">"'


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A repository whose last commit stands for main, and a change to its metrics, params, plots and dvc.lock."""
    root = tmp_path_factory.mktemp("changed") / "ferdistill"
    names = run(ROOT, "git", "ls-files", "-z", "--", ".ci", ".dvc", ".dvcignore", "src", "metrics", "plots").stdout
    names += run(ROOT, "git", "ls-files", "-z", "--", "conf", "dvc.*", "params.yaml", ".gitignore", "Makefile").stdout
    for name in filter(None, names.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    run(root, "git", "init", "-qb", "main")
    run(root, "git", "config", "user.name", "tester")
    run(root, "git", "config", "user.email", "tester@example.org")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "state")
    offline_html.write(root / offline_html.PAGE)
    run(root, "dvc", "config", "--local", "plots.html_template", "plots/offline.html")
    cells = root / "plots/per_class_f1.csv"
    cells.write_text(cells.read_text().replace("angry,", f"{SCRIPT},", 1))
    scores = json.loads((root / "metrics/evaluation.json").read_text())
    scores["test"]["macro_f1"] = "<b>0.9</b> | x\n\n### Drift\n\nCode, params and data give what dvc.lock says."
    scores["test"]["[a](http://x)\n```"] = 1
    scores["test"]["accuracy"] = [1]
    (root / "metrics/evaluation.json").write_text(json.dumps(scores))
    return root


def policy(page):
    return dict(
        part.split(None, 1) for part in re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].split("; ")
    )


def test_plots_stand_where_no_browser_reads_markup_and_one_script_may_run(tmp_path):
    offline_html.write(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy(page)["script-src"] == f"'sha256-{digest}'"
    assert policy(page)["default-src"] == policy(page)["base-uri"] == policy(page)["form-action"] == "'none'"
    # Nothing ends <plaintext>, so all that DVC puts in is text; and there is no other place for it.
    assert page.endswith("<plaintext hidden>\n{plot_divs}\n") and page.count("{plot_divs}") == 1


def test_the_study_report_runs_nothing_and_asks_for_nothing():
    page = (ROOT / "src/ferdistill/report/templates/report.html.j2").read_text(encoding="utf-8")
    assert "script-src" not in policy(page)
    assert policy(page)["default-src"] == policy(page)["base-uri"] == policy(page)["form-action"] == "'none'"


@pytest.mark.slow
@pytest.mark.web
def test_a_cell_of_a_plot_does_not_run_in_the_page_that_dvc_writes(changed, playwright):
    run(changed, "dvc", "plots", "diff", "main", "--out", "drawn")
    page = (changed / "drawn/index.html").read_text(encoding="utf-8")
    assert "<script>document.title=" in page  # DVC does not escape it
    browser = launch(playwright, [])
    shown = browser.new_page()
    asked = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto((changed / "drawn/index.html").as_uri())
    shown.wait_for_selector("main svg.marks")
    plots = len(yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"])
    shown.wait_for_function(f"document.querySelectorAll('main svg.marks').length === {plots}")
    assert shown.title() == "ferdistill: plots" and shown.locator("img").count() == 0
    assert "</script>" in shown.locator("main").text_content()  # the cell is shown, as text
    assert asked == [shown.url]
    browser.close()


@pytest.mark.slow
@pytest.mark.web
def test_pictures_are_shown_and_what_is_no_json_is_said(tmp_path, playwright):
    from dvc_render.image import ImageRenderer

    offline_html.write(tmp_path / "page.html")
    name = "<img src=x onerror=document.title='run'>"
    dot = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    drawn = ImageRenderer([{"rev": name, "src": dot}], "picture").generate_html()
    drawn += '\n            var spec = {"a": NaN};\n'
    page = (tmp_path / "page.html").read_text(encoding="utf-8").replace("{plot_divs}", drawn)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browser = launch(playwright, [])
    shown = browser.new_page()
    shown.goto((tmp_path / "page.html").as_uri())
    assert shown.locator("main img").evaluate_all("all => all.map((one) => one.naturalWidth)") == [1]
    assert "could not be drawn" in shown.locator("main p").inner_text()
    assert shown.title() == "ferdistill: plots"
    browser.close()


def review(root, base="main", lock=None):
    kept = (root / "dvc.lock").read_bytes()
    if lock is not None:
        (root / "dvc.lock").write_text(lock)
    done = run(root, sys.executable, ".ci/review.py", base, check=False)
    (root / "dvc.lock").write_bytes(kept)
    assert "Traceback" not in done.stdout + done.stderr
    return (root / "review/summary.md").read_text(encoding="utf-8"), done


def test_a_review_shows_text_among_metrics_as_text(changed):
    summary, done = review(changed)
    assert done.returncode == 1  # the change belongs to no run
    assert "<b>" not in summary and "&lt;b&gt;0.9&lt;/b&gt; \\|" in summary
    assert summary.count("\n### Drift\n") == 1 and "Code, params and data give" not in summary.split("### Drift\n")[1]
    assert re.findall(r"^\| macro F1 on test \| [\d.]+ \| - \| - \|$", summary, re.M)
    assert "\\[a\\]" in summary and "(http://" not in summary
    assert all(len(line) < 2000 for line in summary.splitlines())


@pytest.mark.parametrize("lock", ["stages: [", "stages: 3\n", "\0", "- a\n", "[" * 3000])
@pytest.mark.slow
def test_a_review_survives_a_damaged_lock_and_says_so(changed, lock):
    summary, done = review(changed, lock=lock)
    assert done.returncode == 1 and "dvc.lock" in summary.split("### Drift")[1]


@pytest.mark.parametrize(
    "name", ["x;touch${IFS}run", "x$(touch${IFS}run)", 'x"`touch${IFS}run`"', "x'$(shell touch run)"]
)
def test_the_name_of_a_branch_is_one_argument_of_the_review(tmp_path, name):
    stub = tmp_path / "env/bin"
    stub.mkdir(parents=True)
    (stub / "python").write_text(f'#!/bin/sh\nprintf %s "$2" > {tmp_path}/argument\n')
    (stub / "python").chmod(0o755)
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    command = ["make", "-o", "setup", "review", f"VENV={tmp_path / 'env'}"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"BASE": f"origin/{name}"}, check=True, capture_output=True)
    assert (tmp_path / "argument").read_text() == f"origin/{name}"
    assert not (tmp_path / "run").exists()


def workflows():
    return sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("file", workflows(), ids=lambda file: file.name)
def test_a_workflow_reads_alone_runs_pinned_actions_and_no_text_of_a_pull_request(file):
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            action = step.get("uses", "")
            assert not action or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
            assert "checkout" not in action or step["with"]["persist-credentials"] is False


def test_a_model_card_shows_names_as_text():
    odd = "<img src=x onerror=f()>|[a](b)"
    scores = dict.fromkeys(["macro_f1", "accuracy", "ece_null"], 0.5) | {"n": 1, "f1": {odd: 0.5}}
    sides = {side: dict.fromkeys(["nll", "brier", "ece"], 0.5) for side in ("raw", "scaled")}
    info = {
        "task": dict.fromkeys(["thing", "things", "label", "labels", "detector"], odd),
        "classes": [odd, "b"], "image": {"size": 8, "channels": 1}, "architecture": "a", "seed": 1, "t_star": 1.0,
        "run_family": odd, "run_mode": "kd", "index_digest": "d", "test": scores | sides,
        "thresholds": {"confidence": 0.5}, "guarantee": None,
        "sets": {"method": "lac", "coverage": 0.9, "by_class": False, "limits": {}},
        "alerts": {"precision": 0.9, "failure": 0.1, "thresholds": {}},
        "abstention": {"accuracy": 0.5, "coverage": 0.5}, "int8": None,
    }  # fmt: skip
    card = model_card(info, pd.DataFrame({"train": [1]}, index=["embedded"]))
    assert "<img" not in card and "&lt;img" in card
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    assert "<img" not in page and 'href="b"' not in page


def advisories(folder, answer, code=0):
    """The script with a stand-in for pip-audit, that prints this."""
    (folder / "pip_audit.py").write_text(f"import sys\nprint({answer!r})\nsys.exit({code})\n")
    (folder / "constraints.txt").write_text("pillow==13.0.0\nTypes.Some_Thing==1\n")
    command = [sys.executable, str(ROOT / ".ci/advisories.py")]
    env = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_what_no_source_knows_is_not_called_free_of_advisories(tmp_path):
    clean, vulnerable = {"vulns": []}, {"vulns": [{"id": "CVE-1", "fix_versions": ["13.1"]}]}
    pillow, other = {"name": "pillow", "version": "13.0.0"}, {"name": "types-some-thing", "version": "1"}
    unknown = {"name": "pillow", "skip_reason": "not found"}

    def run_with(*found, code=0):
        return advisories(tmp_path, json.dumps({"dependencies": list(found)}), code)

    done = run_with(pillow | clean, other | clean)
    assert done.returncode == 0 and "2 pinned" in done.stdout
    done = run_with(pillow | vulnerable, other | clean, code=1)
    assert done.returncode == 1 and "CVE-1" in done.stderr and "13.1" in done.stderr
    done = run_with(unknown, other | clean)
    assert done.returncode == 3 and "NOT AUDITED: 1 of 2" in done.stderr and "pillow 13.0.0" in done.stderr
    assert advisories(tmp_path, "no answer", 1).returncode == 3
    assert run_with().returncode == 3
