"""The metric `inversion` of a comparison: made in the worker of each run, shared with `invert-eval --experiment`."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import inverting
import numpy as np
import pytest
from comparing import SCORES, read, toml, without_times
from forking import PATIENCE_S, Forked
from inverting import Watched, asking, compare, evaluation
from test_cli_train import mistake

from noisegan import facade
from noisegan.compare import worker
from noisegan.compare.inversion import invert_experiment
from noisegan.compare.report.inversion import inversion_section
from noisegan.compare.report.results import read_results
from noisegan.compare.report.tables import metric_cells
from noisegan.compare.worker import Job
from noisegan.errors import NoiseganError
from noisegan.inversion.projector import Projector
from noisegan.manager import Plugins

data = inverting.data
no_report = inverting.no_report


@pytest.fixture(scope="module")
def made(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, dict[str, Any]]]]:
    folder, executor = tmp_path_factory.mktemp("made") / "out", Watched()
    compare(asking(data), folder, executor)
    return folder, executor.events


@pytest.fixture
def done(made: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the finished comparison."""
    return Path(shutil.copytree(made[0], tmp_path / "out"))


@pytest.fixture
def inverted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each batch that is inverted from now on has; nothing is trained from now on."""
    batches: list[int] = []
    run = Projector.run

    def counted(self: Projector, targets: Any, **options: Any) -> Any:
        batches.append(len(targets))
        return run(self, targets, **options)

    def refused(**options: Any) -> None:
        pytest.fail("something is trained")

    monkeypatch.setattr(Projector, "run", counted)
    monkeypatch.setattr(facade, "train", refused)
    return batches


def test_the_score_is_the_mean_distance_of_held_out_images(made: tuple[Path, Any]) -> None:
    folder, events = made
    results = read(folder)
    assert [m["key"] for m in results["metrics"]] == ["fd@pixels", "inversion"]
    column = results["metrics"][1]
    assert (column["title"], column["extractor"]) == ("Inversion (w, noise off, mse)", None)
    assert (column["better"], column["primary"]) == ("lower", False)
    assert len(results["runs"]) == 2
    for run in results["runs"]:
        (cell,) = [
            cell
            for cell in evaluation(folder, run)["cells"]
            if (cell["images"], cell["space"], cell["noise"]) == ("real", "w", "off")
        ]
        distances = [row["distance"] for row in cell["images_measured"]]
        score = run["scores"]["inversion"]
        assert len(distances) == 4
        assert score["value"] == pytest.approx(np.mean(distances), rel=1e-12)
        assert score["std_error"] == pytest.approx(np.std(distances, ddof=1) / 2, rel=1e-12)
        assert [list(point["scores"]) for point in run["curve"]] == [["fd@pixels"]]
    (found,) = [c for c in results["comparisons"] if c["metric"] == "inversion"]
    none, additive = (run["scores"]["inversion"]["value"] for run in results["runs"])
    assert found["mean_difference"] == pytest.approx(additive - none)
    protocol = results["protocol"]["inversion"]
    assert (protocol["images"], protocol["of"], protocol["space"], protocol["noise"]) == (4, "new", "w", "off")
    inverting = [event for variant, event in events if event["event"] == "inverting" and variant == "none"]
    assert [(event["done"], event["of"]) for event in inverting] == [(0, 1), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert ("none", "inversion") in [(v, next(iter(e["scores"]))) for v, e in events if e["event"] == "score"]


def test_the_report_has_its_column_and_its_section(made: tuple[Path, Any]) -> None:
    folder, _ = made
    results = read_results(folder / "results.json")
    values = [run.scores["inversion"].value for run in results.runs]
    assert [float(cell["mean"]) for cell in metric_cells(results, results.metrics[1])] == pytest.approx(
        values, rel=1e-3
    )
    found = json.loads((folder / "inversion" / "inversion.json").read_text())
    title, section = inversion_section(folder / "inversion", found, read(folder))
    assert title == "Inversion"
    # Two curves for each kind of noise, and a histogram for each variant and kind of noise, and its ROC curves.
    assert section.count("<svg viewBox") == 2 * 2 + 2 * 2 + 2
    for what in ("against steps", "against seconds per image"):
        assert section.count(f"<figcaption>w, noise off: {what}</figcaption>") == 1
        assert section.count(f"<figcaption>w, noise optimised: {what}</figcaption>") == 1
    assert "What the noise carries" in section
    for heading in ("MSE", "PSNR (dB)", "SSIM", "seconds per image", "autocorrelation, all lags"):
        assert f'<th scope="col" class="number">{heading}</th>' in section
    assert (
        "Spaces w; noise off, optimised; 3 steps; loss mse; precision fp32. Weights: mse <code>none</code>." in section
    )
    as_before(found)
    _, without = inversion_section(folder / "inversion", found, read(folder))
    assert without.count("<svg viewBox") == 2 * 2
    assert "On the way" not in without
    assert "What the noise carries" not in without


def as_before(found: dict[str, Any]) -> None:
    """inversion.json as earlier versions wrote it: without curves, with four measures, without tests by image."""
    del found["curves"]
    for part in found["attribution"]:
        del part["roc"]
    for cell in found["cells"]:
        for part in ("all", "hard", "hard_labels"):
            measures = cell.get(part, {})
            for name in measures.keys() - {"distance", "mse", "ssim", "fresh_distance"}:
                del measures[name]
            for measure in measures.values():
                del measure["better"]
                for comparison in measure["comparisons"]:
                    for name in ("p_value", "p_holm", "p_wilcoxon"):
                        (comparison.get("by_image") or {}).pop(name, None)


def test_curves_are_means_with_the_best_and_the_worst_training() -> None:
    from test_invert_experiment import made_up

    (cell,) = made_up(0.0, 0.1)["curves"]
    assert (cell["space"], cell["noise"]) == ("w", "off")
    assert cell["variants"]["a"] == {
        "step": [1, 3],
        "seconds": [0.5, 2.5],
        "distance": [1.0, pytest.approx(0.4)],
        "low": [1.0, pytest.approx(0.3)],
        "high": [1.0, 0.5],
    }


def test_invert_eval_makes_the_same_and_each_takes_over(done: Path, inverted: list[int], data: str) -> None:
    before = {path: path.read_bytes() for path in done.glob("inversion/*/inversions/*/*/proj.png")}
    arrays = {path: dict(np.load(path)) for path in done.glob("inversion/*/inversions/*/*/projected_w.npz")}
    scores = {run["variant"]: evaluation(done, run) for run in read(done)["runs"]}
    assert len(before) == 2 * 2 * (4 + 2)
    lines = list(invert_experiment(done, plugins=Plugins([SCORES])))
    assert lines[:2] == ["4 real images of new", "network 1 of 2: none, seed 0, there already"]
    assert inverted == []

    shutil.rmtree(done / "inversion")
    list(invert_experiment(done, plugins=Plugins([SCORES])))
    assert inverted == [4, 4, 2, 2] * 2
    assert {path: path.read_bytes() for path in before} == before
    for path, wanted in arrays.items():
        now = np.load(path)
        assert all(np.array_equal(now[name], array) for name, array in wanted.items()), path
    for run in read(done)["runs"]:
        for cell, wanted in zip(evaluation(done, run)["cells"], scores[run["variant"]]["cells"], strict=True):
            for row, other in zip(cell["images_measured"], wanted["images_measured"], strict=True):
                assert {**row, "seconds": 0} == {**other, "seconds": 0}

    inverted.clear()
    results = read(done)
    assert without_times(compare(asking(data), done)) == without_times(results)
    assert inverted == []


def test_a_finished_comparison_grows_by_the_metric(done: Path, inverted: list[int], data: str) -> None:
    whole = read(done)
    shutil.rmtree(done / "inversion")
    without = compare(asking(data, metrics=["fd"]), done)
    assert [m["key"] for m in without["metrics"]] == ["fd@pixels"]
    assert "inversion" not in without["protocol"]
    assert inverted == []
    assert without_times(compare(asking(data), done)) == without_times(whole)
    assert inverted == [4, 4, 2, 2] * 2

    inverted.clear()
    more = compare(asking(data, images=5, spaces=["w", "w+"], noises=["optimised"]), done)
    assert inverted == [1, 4, 1, 2] * 2  # w: one image more; w+: all, in batches of four
    assert more["metrics"][1]["title"] == "Inversion (w, noise optimised, mse)"
    assert more["protocol"]["inversion"]["images"] == 5


def test_alone_it_needs_no_extractor(done: Path, inverted: list[int], data: str) -> None:
    content = asking(data, metrics=["inversion"])
    content["evaluation"] |= {"snapshots": "final", "extractors": ["weights-nobody-has"]}
    results = compare(content, done)
    assert inverted == []
    assert [m["key"] for m in results["metrics"]] == ["inversion"]
    assert results["metrics"][0]["primary"]
    assert results["extractors"] == {}
    assert "Inversion (w, noise off, mse)" in results["verdict"]


def test_a_failed_run_is_left_out(done: Path, data: str) -> None:
    for path in done.glob("*/additive*"):
        shutil.rmtree(path)
    with pytest.raises(NoiseganError, match=r"1 of 2 runs failed .*: it broke"):
        compare(asking(data), done, Watched(failing="additive(strength=0.3)"))
    results = read(done)
    assert [(run["status"], "inversion" in run.get("scores", {})) for run in results["runs"]] == [
        ("done", True), ("failed", False),
    ]  # fmt: skip
    found = json.loads((done / "inversion" / "inversion.json").read_text())
    assert [run["variant"] for run in found["runs"]] == ["none"]
    _, html = inversion_section(done / "inversion", found, results)
    assert "additive(strength=0.3)</th>" in html


def test_stopped_while_inverting_it_goes_on(
    done: Path, inverted: list[int], data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(done)
    shutil.rmtree(done / "inversion")
    counted = Projector.run

    def stopping(self: Projector, targets: Any, **options: Any) -> Any:
        if len(inverted) == 2:
            raise KeyboardInterrupt
        return counted(self, targets, **options)

    monkeypatch.setattr(Projector, "run", stopping)
    with pytest.raises(NoiseganError, match="all runs failed; the first: stopped: 0 of 2 images are finished"):
        compare(asking(data), done)
    assert inverted == [4, 4]
    monkeypatch.setattr(Projector, "run", counted)
    assert without_times(compare(asking(data), done)) == without_times(whole)
    assert inverted == [4, 4, 2, 2, 4, 4, 2, 2]


def test_other_inversions_are_refused_before_anything_is_written(done: Path, data: str) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file() and path.name[0] != "."}
    with pytest.raises(NoiseganError) as error:
        compare(asking(data, steps=4), done)
    assert str(error.value) == (
        f"{done}/inversion/none-seed0 holds inversions made otherwise (projector differ): set [evaluation.inversion] "
        f"back, or delete {done}/inversion to invert all networks anew"
    )
    assert {path: path.read_bytes() for path in before} == before
    settings = done / "inversion" / "none-seed0" / "settings.json"
    settings.write_text(settings.read_text().replace('"network_sha256": "', '"network_sha256": "0'))
    with pytest.raises(NoiseganError) as error:
        compare(asking(data), done)
    assert str(error.value) == (
        f"{done}/inversion/none-seed0 holds inversions of another network than "
        "network-snapshot-000000.040.safetensors, "
        f"which counts now: delete {done}/inversion to invert all networks anew"
    )


def test_for_one_network_there_is_another_command(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = next((done / "runs").iterdir())
    assert mistake(capsys, "metrics", "--network", str(network), "--metrics", "inversion") == (
        "error: the metric 'inversion' belongs to `noisegan compare`; for one network there is `noisegan invert-eval`"
    )


def start(file: Path, folder: Path) -> Forked:
    return Forked("compare", str(file), "--outdir", str(folder), "--plugin", str(SCORES), "--jobs", "2")


@pytest.mark.slow
def test_workers_invert_are_interrupted_and_go_on(made: tuple[Path, Any], data: str, tmp_path: Path) -> None:
    """Two processes; a run that would take hours is stopped, and the same folder is finished with fewer steps."""
    file, folder = tmp_path / "e.toml", tmp_path / "out"
    file.write_text(toml(asking(data, steps=10**7)))
    process = start(file, folder)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(list(folder.glob("inversion/*/inversions/real-w-off"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Run the same command again to go on" in error
    assert "Traceback" not in error
    assert not list(folder.rglob("proj.png"))

    shutil.rmtree(folder / "inversion")
    file.write_text(toml(asking(data)))
    process = start(file, folder)
    out, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, error
    assert "none, seed 0: inverting, 50%" in out
    assert read(folder)["runs"] == read(made[0])["runs"]


def test_a_worker_without_the_images_says_so(done: Path) -> None:
    (done / "inversion" / "held_out.npz").unlink()
    with pytest.raises(NoiseganError) as error:
        worker.work(Job(str(done), "none", 0, (str(SCORES),)), lambda event, **facts: None)
    assert str(error.value) == (
        f"cannot read {done}/inversion/held_out.npz: [Errno 2] No such file or directory: "
        f"'{done}/inversion/held_out.npz'; run the command again"
    )
