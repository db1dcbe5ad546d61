"""A comparison from end to end: what it leaves, what it does again, and what it refuses."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import forking
import numpy as np
import pytest
from comparing import SCORES, TRAIN, Inline, compare, inline, read, run_here, small, toml, without_times  # noqa: F401
from rich.console import Console

import noisegan
from noisegan.compare import runner
from noisegan.compare.board import print_verdict
from noisegan.compare.runner import report
from noisegan.core.checkpoint import read_facts, read_tensors, save_snapshot, snapshots
from noisegan.errors import NoiseganError


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of two strategies."""
    folder = tmp_path_factory.mktemp("done") / "out"
    compare(small("none", "additive(strength=0.3)"), folder, drawn=True)
    return folder


def test_it_leaves_results_and_a_report(done: Path) -> None:
    results = read(done)
    assert results["schema"] == "noisegan-results"
    assert [(r["variant"], r["seed"], r["status"], r["nimg"]) for r in results["runs"]] == [
        ("none", 0, "done", 80),
        ("none", 1, "done", 80),
        ("additive(strength=0.3)", 0, "done", 80),
        ("additive(strength=0.3)", 1, "done", 80),
    ]
    assert [m["key"] for m in results["metrics"]] == ["fd@pixels", "brightness@pixels"]
    assert results["metrics"][0]["title"] == "FD (pixels)"
    assert results["pairing"]["paired"] is True
    assert len(results["pairing"]["certificates"]) == 4
    assert results["config"]["differing"].keys() == {"noise"}
    assert results["config"]["shared"]["batch"] == 8
    assert {c["metric"] for c in results["comparisons"]} == {"fd@pixels", "brightness@pixels"}
    assert (done / "report" / "index.html").is_file()
    assert "From a plugin" in (done / "report" / "index.html").read_text()


def test_every_documented_key_is_there_and_no_other(done: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    keys = set(read(done))
    documented = {
        name.strip("`")
        for line in page.split("## Keys")[1].split("A comparison:")[0].splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].strip().split(", ")
    }
    assert keys == documented
    own = {
        name.strip("`")
        for line in page.split("A comparison:")[1].splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].strip().split(", ")
    }
    assert set(read(done)["comparisons"][0]) == own


def test_plugins_hear_of_each_evaluation(done: Path) -> None:
    lines = (done / "runs" / "none-seed1" / "evaluations.txt").read_text().splitlines()
    assert lines == ["none 40 fd@pixels,brightness@pixels", "none 80 fd@pixels,brightness@pixels"]


def test_scores_are_paired_differences(done: Path) -> None:
    results = read(done)
    values = {(r["variant"], r["seed"]): r["scores"]["fd@pixels"]["value"] for r in results["runs"]}
    comparison = results["comparisons"][0]
    differences = [values["additive(strength=0.3)", seed] - values["none", seed] for seed in (0, 1)]
    assert [pair["difference"] for pair in comparison["pairs"]] == differences
    assert comparison["mean_difference"] == pytest.approx(np.mean(differences))
    for run in results["runs"]:
        assert run["curve"][-1]["scores"]["fd@pixels"] == run["scores"]["fd@pixels"]["value"]
        assert [point["nimg"] for point in run["curve"]] == [40, 80]


def test_pictures_are_paired_and_the_spread_is_of_the_noise_alone(done: Path) -> None:
    runs = {(r["variant"], r["seed"]): r for r in read(done)["runs"]}
    arrays = {
        key: {name: np.load(done / path, allow_pickle=False) for name, path in run["files"].items()}
        for key, run in runs.items()
    }
    none, noisy = arrays["none", 0], arrays["additive(strength=0.3)", 0]
    assert none["samples"].shape == (64, 1, 8, 8)
    assert none["noise_std"].shape == (8, 8, 8)
    assert (none["noise_std"] == 0).all()
    assert (noisy["noise_std"] > 0).all()
    assert runs["none", 0]["noise_std"] == 0
    assert runs["additive(strength=0.3)", 0]["noise_std"] == pytest.approx(float(noisy["noise_std"].mean()), rel=1e-6)
    assert noisy["noise_images"].shape == (8, 1, 8, 8)


def test_added_parameters_are_counted(done: Path) -> None:
    by_label = {v["label"]: v for v in read(done)["variants"]}
    assert by_label["none"]["parameters"]["added"] == 0
    assert by_label["additive(strength=0.3)"]["parameters"]["added"] == 3  # one strength at each of three sites
    assert by_label["additive(strength=0.3)"]["provenance"][0]["plugin"] == "noisegan.plugins.additive"


def without_date(page: Path) -> str:
    return re.sub(r"finished \d+-\d+-\d+ \d+:\d+", "finished", page.read_text())


def test_again_nothing_is_trained_and_the_results_are_the_same(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(done, copy)
    before = read(copy)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")}
    assert len(times) == 8
    page = without_date(copy / "report" / "index.html")

    class Nobody:
        def run(self, jobs: list[object], notify: object) -> None:
            assert jobs == []

    runner.compare(small("none", "additive(strength=0.3)"), copy, plugins=[SCORES], executor=Nobody(), quiet=True)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")} == times
    assert without_times(read(copy)) == without_times(before)
    assert before["timing"]["runs"] == read(copy)["timing"]["runs"]
    assert without_date(copy / "report" / "index.html") == page


def test_it_grows_by_a_variant_a_replicate_and_a_metric(done: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(done, copy)
    before = {(r["variant"], r["seed"]): r["scores"]["fd@pixels"] for r in read(copy)["runs"]}
    grown = small("none", "additive(strength=0.3)", "fuzzy", replicates=3)
    grown["evaluation"] = grown["evaluation"] | {"metrics": ["fd", "brightness", "kid"]}
    results = compare(grown, copy)
    assert len(results["runs"]) == 9
    after = {(r["variant"], r["seed"]): r["scores"]["fd@pixels"] for r in results["runs"]}
    assert {key: after[key] for key in before} == before


def test_another_experiment_is_refused_in_the_folder(done: Path) -> None:
    before = (done / "experiment.json").read_bytes()
    with pytest.raises(NoiseganError, match=r"holds another experiment: train\.kimg 0\.08 -> 0\.2"):
        compare(small("none", "additive(strength=0.3)", train=TRAIN | {"kimg": 0.2}), done)
    assert (done / "experiment.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(NoiseganError, match="is not empty and holds no comparison: choose another --outdir"):
        compare(small(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_variant_is_reported_and_the_others_are_compared(tmp_path: Path) -> None:
    """A learning rate that makes one variant's loss infinite."""
    content = small(
        variants=[{"noise": "none"}, {"noise": "additive"}, {"noise": "fuzzy", "train": {"glr": 1e30}}],
        allow_differences=["glr"],
        replicates=1,
    )
    with pytest.raises(NoiseganError, match="1 of 3 runs failed") as caught:
        compare(content, tmp_path / "out")
    assert "'fuzzy' with seed 0: training stopped at step" in str(caught.value)
    results = read(tmp_path / "out")
    assert [r["status"] for r in results["runs"]] == ["done", "done", "failed"]
    assert results["variants"][2]["failed"] == 1
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "1 of 3 runs failed" in page
    assert "training stopped at step" in page


def test_when_the_baseline_fails_nobody_says_one_replicate(tmp_path: Path) -> None:
    content = small(
        variants=[{"noise": "none", "train": {"glr": 1e30}}, {"noise": "additive"}], allow_differences=["glr"]
    )
    with pytest.raises(NoiseganError, match="2 of 4 runs failed"):
        compare(content, tmp_path / "out")
    results = read(tmp_path / "out")
    assert "too many runs failed" in results["verdict"]
    assert "no training seed has a finished run of both" in results["comparisons"][0]["sentence"]


def test_one_replicate_gives_no_interval_and_says_so(tmp_path: Path) -> None:
    results = compare(small(replicates=1), tmp_path / "out")
    for comparison in results["comparisons"]:
        assert comparison["interval"] is None
        assert comparison["p_value"] is None
        assert comparison["verdict"] == "cannot tell"
        assert "one replicate" in comparison["sentence"]
    assert results == read(tmp_path / "out")  # plain data


def test_the_same_strategy_twice_cannot_be_told_apart(tmp_path: Path) -> None:
    content = small(variants=[{"noise": "additive", "label": "A"}, {"noise": "additive", "label": "also A"}])
    results = compare(content, tmp_path / "out")
    for comparison in results["comparisons"]:
        assert [pair["difference"] for pair in comparison["pairs"]] == [0, 0]
        assert comparison["verdict"] == "cannot tell"


def test_unpaired_runs_are_refused_and_flagged_if_the_user_insists(tmp_path: Path) -> None:
    content = small(
        variants=[{"noise": "none"}, {"noise": "additive", "train": {"batch": 4}}], allow_differences=["batch"]
    )
    with pytest.raises(NoiseganError, match="would not be paired with the others'"):
        compare(content, tmp_path / "out")
    results = compare(content | {"allow_unpaired": True}, tmp_path / "out")
    assert results["pairing"]["paired"] is False
    assert "the images in another order" in results["pairing"]["problems"][0]
    assert "not paired" in (tmp_path / "out" / "report" / "index.html").read_text()


def test_certificates_decide_not_options(done: Path, tmp_path: Path) -> None:
    """Somebody put a run of other origin into the folder."""
    copy = tmp_path / "out"
    shutil.copytree(done, copy)
    (run,) = copy.glob("runs/additive-strength-0-3-*-seed1")
    last = snapshots(run)[-1]
    facts = read_facts(last)
    facts["counters"]["pairing"]["z"] = "00"
    save_snapshot(last, read_tensors(last), facts)
    content = small("none", "additive(strength=0.3)")
    with pytest.raises(NoiseganError, match="these runs are not paired") as caught:
        compare(content, copy)
    assert "'additive(strength=0.3)' with seed 1 met other latents than 'none'" in str(caught.value)
    assert "allow_unpaired" in str(caught.value)
    results = compare(content | {"allow_unpaired": True}, copy)
    assert results["pairing"]["paired"] is False
    assert results["metrics"][0]["title"] == "FD (pixels), not paired"
    assert "not paired" in results["verdict"]


def test_best_of_a_run_is_labelled(tmp_path: Path) -> None:
    results = compare(small(selection="best", replicates=1), tmp_path / "out")
    assert results["protocol"]["snapshot_selection"] == "best"
    assert "best snapshot" in results["verdict"]
    assert "best snapshot" in (tmp_path / "out" / "report" / "tables" / "metrics.tex").read_text()
    for run in results["runs"]:
        assert run["scores"]["fd@pixels"]["value"] == min(p["scores"]["fd@pixels"] for p in run["curve"])


def test_evaluation_seeds_are_averaged(tmp_path: Path) -> None:
    content = small(replicates=1)
    content["evaluation"] = content["evaluation"] | {"seeds": [0, 5], "snapshots": "final"}
    results = compare(content, tmp_path / "out")
    score = results["runs"][0]["scores"]["fd@pixels"]
    assert len(set(score["by_evaluation_seed"])) == 2
    assert score["value"] == pytest.approx(np.mean(score["by_evaluation_seed"]))
    assert [point["nimg"] for point in results["runs"][0]["curve"]] == [80]


def test_equal_time_compares_what_was_reached(tmp_path: Path) -> None:
    results = compare(small(equal_time=True), tmp_path / "out")
    equal = results["timing"]["equal_time"]
    assert equal["seconds"] > 0
    assert {run["nimg"] for run in equal["runs"]} <= {40, 80}
    fastest = min(results["timing"]["runs"], key=lambda run: run["train_s"])
    assert {"variant": fastest["variant"], "seed": fastest["seed"], "nimg": 80} in equal["runs"]
    assert len(equal["comparisons"]) == 2


def test_python_and_the_command_line_agree(done: Path, tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(toml(small("none", "additive(strength=0.3)")))
    ended = forking.run("compare", str(file), "--outdir", str(tmp_path / "out"), "--plugin", str(SCORES), "--jobs", "2")
    assert ended.returncode == 0, ended.stderr
    assert str(tmp_path / "out" / "report" / "index.html") in ended.stdout.replace("\n", "")
    assert "cannot tell" in ended.stdout
    assert without_times(read(tmp_path / "out")) == without_times(read(done))
    assert callable(noisegan.compare)


@pytest.mark.usefixtures("inline")
def test_the_short_form_needs_no_file(tmp_path: Path) -> None:
    words = {k: v for k, v in TRAIN.items() if k in ("data", "kimg", "batch", "resolution")}
    options = [word for k, v in words.items() for word in (f"--{k}", str(v))]
    status = run_here(
        "compare", *options, "--variants", "none,additive(strength=0.1,per_channel=true)", "--replicates", "1",
        "--metrics", "brightness,kid", "--extractors", "pixels", "--samples", "16", "--snapshots", "final",
        "--outdir", str(tmp_path / "out"), "--plugin", str(SCORES),
    )  # fmt: skip
    assert status == 0
    results = read(tmp_path / "out")
    assert [v["noise"] for v in results["variants"]] == ["none", "additive(strength=0.1,per_channel=true)"]
    assert [m["key"] for m in results["metrics"]] == ["brightness@pixels", "kid@pixels"]


def test_report_is_written_anew_without_training(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(done, copy)
    page = (copy / "report" / "index.html").read_bytes()
    shutil.rmtree(copy / "report")
    shutil.rmtree(copy / "runs")
    assert run_here("report", str(copy), "--plugin", str(SCORES)) == 0
    assert capsys.readouterr().out.strip() == str(copy / "report" / "index.html")
    assert (copy / "report" / "index.html").read_bytes() == page
    with pytest.raises(NoiseganError, match=r"holds no results\.json: finish the comparison there first"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--variants", "none,fuzzy", "--data", "digits"], "[train] lacks kimg"),
        (["--data", "digits"], "give an experiment FILE.toml, or --data, --variants and --kimg"),
        (["missing.toml"], "cannot read the experiment missing.toml"),
        (["e.toml", "--kimg", "3"], "--kimg cannot stand beside a FILE: write it into e.toml"),
        (["--variants", "none,fuzzy", "--data", "digits", "--kimg", "1", "--jobs", "0"], "--jobs must be 1 or more"),
        (["--variants", "none,fuzzy", "--data", "nowhere", "--kimg", "1"], "nowhere"),
        (["--variants", "none,fuzzy", "--data", "digits", "--kimg", "1", "--metrics", "fdi"], "unknown metric 'fdi'"),
        (["--variants", "none,fuzzy", "--data", "digits", "--kimg", "1", "--metrics", "fid"], "'fid' is the Frechet"),
        (
            ["--variants", "none,fuzzy", "--data", "digits", "--kimg", "1", "--extractors", "incepton"],
            "unknown feature extractor 'incepton'",
        ),
        (
            ["--variants", "none,fuzzy", "--data", "digits", "--kimg", "1", "--extractors", "inception"],
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        (
            ["--variants", "none,fuzzy", "--data", "digits", "--kimg", "1", "--baseline", "additive"],
            "the baseline 'additive' is not a variant",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOISEGAN_OFFLINE", "1")
    assert run_here("compare", *arguments, "--outdir", str(tmp_path / "out")) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert sentence in told[0]
    assert not (tmp_path / "out" / "runs").exists()


def test_a_kill_after_the_last_snapshot_costs_nothing(done: Path, tmp_path: Path) -> None:
    """Before the certificate's own file, the scores or some of the pictures were written."""
    copy = tmp_path / "out"
    shutil.copytree(done, copy)
    (copy / "runs" / "none-seed0" / "pairing.json").unlink()
    (copy / "evaluations" / "none-seed0" / "noise_std.npy").unlink()
    for path in (copy / "evaluations" / "none-seed1").glob("*.json"):
        path.unlink()
    assert without_times(compare(small("none", "additive(strength=0.3)"), copy)) == without_times(read(done))


def test_data_that_changed_after_training_are_noticed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "d.npy", pixels)
    content = small(train=TRAIN | {"data": str(tmp_path / "d.npy"), "kimg": 0.04}, replicates=1)
    compare(content, tmp_path / "out")
    np.save(tmp_path / "d.npy", pixels[::-1])
    with pytest.raises(NoiseganError, match=r"d\.npy has changed since .* was trained on it"):
        compare(content, tmp_path / "out")


def test_another_version_of_a_metric_is_computed_anew(done: Path, tmp_path: Path) -> None:
    copy, plugin = tmp_path / "out", tmp_path / "plugin_scores.py"
    shutil.copytree(done, copy)
    plugin.write_text(SCORES.read_text().replace("Score(value=float(", "Score(value=100 * float("))
    content = small("none", "additive(strength=0.3)")
    results = runner.compare(content, copy, plugins=[plugin], executor=Inline([plugin]), quiet=True)
    for before, after in zip(read(done)["runs"], results["runs"], strict=True):
        key = "brightness@pixels"
        assert after["scores"][key]["value"] == pytest.approx(100 * before["scores"][key]["value"])


def test_labels_may_be_anything(tmp_path: Path) -> None:
    labels = ["a [/b] c", "A", "a", "a_b", "ü \\ <b>", "additive(strength=0.3,per_channel=true) + fuzzy(alpha=0.3,r=2)"]
    variants = [{"noise": "none", "label": label} for label in labels]
    evaluation = small()["evaluation"] | {"snapshots": "final"}
    content = small(variants=variants, replicates=1, evaluation=evaluation, train=TRAIN | {"kimg": 0.008})
    results = compare(content, tmp_path / "out")
    console = Console(file=io.StringIO(), width=200)
    print_verdict(results, tmp_path / "out", console)
    assert isinstance(console.file, io.StringIO)
    for label in labels:
        assert label in console.file.getvalue()
    files = [path for run in results["runs"] for path in run["files"].values()]
    assert len({file.lower() for file in files}) == len(files)
    assert len(list((tmp_path / "out" / "report" / "figures").glob("samples-*.png"))) == len(labels)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(NoiseganError, match=r"experiment\.json is damaged, or of another version: train is missing"):
        compare(small(), tmp_path)
