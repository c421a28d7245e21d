"""`make gpu` in miniature on the CPU: cheap stages run, and a failing one does not stop others."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gpu import __main__ as command  # noqa: E402
from gpu.catalog import STAGES, Stage  # noqa: E402
from gpu.gpu_page import page  # noqa: E402
from gpu.supervisor import Plan, Result, Supervisor  # noqa: E402

CHEAP = ["make", "bits", "ckpt", "preview", "swap", "oom"]

FAILING = """
import os, time

def raises(rig):
    rig.fact("found before", 1)
    raise ValueError("no such kernel")

def hangs(rig):
    rig.fact("found before", 2)
    while True:
        time.sleep(0.1)

def crashes(rig):
    os._exit(7)

def works(rig):
    rig.row("a step", ms_per_step=1.5)

def hurries(rig):
    if rig.has_time(1000):
        rig.fact("never", 0)
"""


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_cheap_stages_run_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(command, "STAGES", [each for each in STAGES if each.name in CHEAP])
    command.main(
        ["--tiny", "--device", "cpu", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "w")]
    )
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())
    log = (tmp_path / "out" / "gpu.log").read_text()[-3000:]
    status = {name: kept["status"] for name, kept in result["stages"].items()}
    assert status == dict.fromkeys(CHEAP, "measured") | {"oom": "not run"}, log
    assert result["stages"]["oom"]["why"] == "it needs a GPU"
    rows = {row["what"]: row for row in result["stages"]["bits"]["rows"]}
    assert rows["drawn together"]["same bits"] == rows["drawn together"]["pictures"] == 5
    checkpoint = {row["what"]: row["value"] for row in result["stages"]["ckpt"]["rows"]}
    assert checkpoint["the resumed picture has the same bits"] == "yes"
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "not a measurement" in text
    assert "| drawn together | 5 | 5 | 99.0 |" in text
    assert "Not run: it needs a GPU." in text


def stage(name: str, limit_s: int = 60, **options: Any) -> Stage:
    asked = {"needs_s": 1, "uses": "nothing"} | options
    return Stage(name, f"Does {name} work?", f"failing_stages:{name}", limit_s=limit_s, **asked)


def supervised(folder: Path, stages: list[Stage], seconds: float = 200) -> Result:
    (folder / "failing_stages.py").write_text(FAILING)
    paths = (folder, ROOT / "src", BENCHMARKS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    plan = Plan("cpu", True, folder, folder / "log", seconds, environment)
    supervisor = Supervisor(plan, stages, {})
    supervisor.run([each.name for each in stages])
    return supervisor.result


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_stage_that_fails_hangs_or_crashes_is_reported_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu.supervisor.GRACE_S", 0.5)
    stages = [stage("raises"), stage("hurries", 3), stage("hangs", 1), stage("crashes")]
    stages += [stage("works"), stage("late", needs_s=9, uses="model")]
    result = supervised(tmp_path, stages)
    kept = result["stages"]
    assert kept["raises"]["status"] == "failed"
    assert kept["raises"]["why"].startswith("ValueError('no such kernel') at failing_stages.py:")
    assert kept["raises"]["rows"] == [{"what": "found before", "value": 1, "unit": ""}]
    assert kept["hurries"]["why"] == "the time of the stage ended"
    assert kept["hurries"]["rows"] == []
    assert kept["hangs"]["why"] == "it did not end in its time"
    assert kept["hangs"]["rows"] == [{"what": "found before", "value": 2, "unit": ""}]
    assert kept["crashes"]["why"] == "its process ended with code 7"
    assert kept["works"]["rows"] == [{"what": "a step", "ms per step": 1.5}]
    assert kept["late"]["why"] == "it needs the weights that the stage `make` writes"
    text = page({**result, "at": "today"}, stages)
    assert "| `hangs` | Does hangs work? | stopped: it did not end in its time |" in text
    assert "| a step | 1.5 |" in text


def test_stages_that_are_measured_or_have_no_time_do_not_run(tmp_path: Path) -> None:
    stages = [stage("raises"), stage("works")]
    result: Result = {"stages": {"raises": {"status": "measured", "why": "", "rows": []}}}
    saved: list[str] = []
    plan = Plan("cpu", False, tmp_path, tmp_path / "log", 3, {})
    supervisor = Supervisor(plan, stages, result, lambda now: saved.append(json.dumps(now)))
    supervisor.run(["raises", "works"])
    assert result["stages"]["raises"]["status"] == "measured"
    assert result["stages"]["works"]["why"] == "it needs 6 s, and 3 s were left"
    assert json.loads(saved[0]) == result


def test_rows_of_an_earlier_run_stay_if_a_stage_does_not_run_again(tmp_path: Path) -> None:
    rows = [{"what": "a step", "ms per step": 1.5}]
    kept = {"status": "stopped", "why": "it did not end in its time", "rows": rows}
    supervisor = Supervisor(
        Plan("cpu", False, tmp_path, tmp_path / "log", 3, {}),
        [stage("works")],
        {"stages": {"works": dict(kept)}},
    )
    supervisor.run([])
    assert supervisor.result["stages"]["works"] == kept


def test_without_cuda_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match=r"finds no CUDA device, so nothing was measured") as end:
        command.main([])
    assert str(end.value).count("--tiny --device cpu") == 1
