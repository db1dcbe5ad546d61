"""The experiment file: what is read, what is filled in, and one clear sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from comparing import TRAIN, small, toml

from noisegan.cli.compare import split_variants
from noisegan.compare.experiment import Evaluation, Experiment, Variant, read_experiment, refuse_another
from noisegan.compare.inversion_options import InversionOptions
from noisegan.compare.pairing import config_differences, pairing_problems, strange_differences
from noisegan.errors import NoiseganError
from noisegan.manager import Plugins

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))


def message(content: dict[str, Any], plugins: Plugins) -> str:
    with pytest.raises(NoiseganError) as caught:
        Experiment(**content).resolve(plugins)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_and_the_same_content_are_the_same_experiment(tmp_path: Path, plugins: Plugins) -> None:
    content = small("none", "fuzzy(alpha=0.3)", baseline="none")
    path = tmp_path / "e.toml"
    path.write_text(toml(content))
    assert read_experiment(path).resolve(plugins) == Experiment(**content).resolve(plugins)


def test_resolving_fills_in_labels_seeds_and_the_baseline(plugins: Plugins) -> None:
    experiment = Experiment(**small("none", "additive")).resolve(plugins)
    assert [v.label for v in experiment.variants] == ["none", "additive"]
    assert experiment.baseline == "none"
    assert experiment.seeds == (0, 1)
    assert Experiment(**small() | {"replicates": None}).resolve(plugins).seeds == (0, 1, 2)


def test_a_resolved_experiment_survives_its_file(plugins: Plugins) -> None:
    experiment = Experiment(**small(allow_differences=["gamma"])).resolve(plugins)
    assert Experiment(**experiment.as_dict()).resolve(plugins) == experiment


def test_a_relative_path_of_data_is_recorded_whole(plugins: Plugins) -> None:
    experiment = Experiment(**small(train=TRAIN | {"data": "photos.zip"})).resolve(plugins)
    assert experiment.train["data"] == str(Path("photos.zip").absolute())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"replicate": 3}, "no option 'replicate'; did you mean 'replicates'?"),
        ({"evaluation": {"sampels": 3}}, "no option 'evaluation.sampels'; did you mean 'samples'"),
        ({"variants": [{"noise": "none", "lable": "x"}, {"noise": "fuzzy"}]}, "did you mean 'label'?"),
        ({"replicates": 0}, "replicates 0: input should be greater than or equal to 1"),
        ({"replicates": "many"}, "replicates 'many': input should be a valid integer"),
        ({"replicates": None, "seeds": []}, "seeds []: tuple should have at least 1 item"),
        ({"replicates": None, "seeds": [1, 1]}, "1 is there twice"),
        ({"seeds": [1, 2]}, "give replicates or seeds, not both"),
        ({"variants": [{"noise": "none"}]}, "variants [{'noise': 'none'}]: tuple should have at least 2 items"),
        ({"baseline": "nothing"}, "the baseline 'nothing' is not a variant; they are none, additive"),
        ({"variants": [{"noise": "none"}, {"noise": "none"}]}, "two variants have the label 'none'"),
        ({"variants": [{"noise": "none"}, {"noise": "fuzy"}]}, "unknown noise strategy 'fuzy'; did you mean 'fuzzy'?"),
        ({"train": TRAIN | {"gama": 1}}, "no option 'gama'; did you mean 'gamma'"),
        ({"train": TRAIN | {"seed": 1}}, "[train] must not set 'seed': an experiment sets it by seeds or replicates"),
        ({"train": {"data": "digits"}}, "[train] lacks kimg"),
        ({"train": {"kimg": 1}}, "[train] lacks data, what all variants are trained on"),
        ({"self": 1}, "no option 'self'"),
        (
            {"variants": [{"noise": "none"}, {"noise": "fuzzy", "train": {"mirror": True}}], "allow_unpaired": True},
            "variant 'fuzzy' sets 'mirror' for itself, but all variants are trained and scored on the same images",
        ),
        ({"alpha": 1.5}, "alpha 1.5: input should be less than or equal to 0.5"),
        ({"equal_time": True, "evaluation": {"snapshots": "final"}}, "equal_time needs the scores of all snapshots"),
        ({"selection": "best", "evaluation": {"snapshots": "final"}}, "selection = 'best' needs the scores of all"),
        ({"selection": "luckiest"}, "selection 'luckiest': input should be 'final' or 'best'"),
        ({"evaluation": {"metrics": ["fd", "fd"]}}, "fd is there twice"),
        (
            {"variants": [{"noise": "none"}, {"noise": "fuzzy", "train": {"gamma": 1.0}}]},
            "variant 'fuzzy' sets 'gamma' for itself, but only the noise may differ between variants; to compare with "
            "that difference, set allow_differences = ['gamma']",
        ),
        (
            {
                "variants": [{"noise": "none"}, {"noise": "fuzzy", "train": {"batch": 4}}],
                "allow_differences": ["batch"],
            },
            "variant 'fuzzy' sets 'batch' for itself: its runs would not be paired",
        ),
    ],
)
def test_each_mistake_gets_one_clear_sentence(change: dict[str, Any], sentence: str, plugins: Plugins) -> None:
    assert sentence in message(small() | change, plugins)


def test_a_missing_section_is_named(plugins: Plugins) -> None:
    content = small()
    del content["variants"]
    assert "variants is missing (what is compared)" in message(content, plugins)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("name = ", "is not a TOML file"), ("nam = 1\n[train]\n", "no option 'nam'"), (None, "cannot read the")],
)
def test_a_bad_file_is_named(text: str | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NoiseganError, match=sentence) as caught:
        read_experiment(path)
    assert str(path) in str(caught.value)


def test_slugs_are_file_names_and_differ_where_labels_do() -> None:
    labels = [
        "fuzzy",
        "fuzzy(alpha=0.3)",
        "fuzzy(alpha=0,3)",
        "../x",
        "ü",
        "a/b",
        "a b",
        "a_b",
        "A b",
        "Fuzzy",
        "x" * 60,
        "x" * 99,
        ".",
    ]
    slugs = [Variant(noise="none", label=label).slug for label in labels]
    assert len({slug.lower() for slug in slugs}) == len(labels)
    assert max(map(len, slugs)) < 70
    assert slugs[0] == "fuzzy"
    assert all(slug and "/" not in slug and not slug.startswith(".") for slug in slugs)


def test_an_experiment_may_grow_and_not_change(plugins: Plugins) -> None:
    known = Experiment(**small()).resolve(plugins).as_dict()

    def grown(**change: Any) -> dict[str, Any]:
        return Experiment(**small() | change).resolve(plugins).as_dict()

    folder = Path("out")
    refuse_another(known, grown(replicates=5), folder)
    refuse_another(known, grown(variants=[{"noise": "none"}, {"noise": "additive"}, {"noise": "fuzzy"}]), folder)
    refuse_another(known, grown(evaluation={"samples": 99}, alpha=0.1, name="other"), folder)
    for change, what in [
        ({"replicates": 1}, "seed 1 is gone"),
        ({"train": TRAIN | {"kimg": 9}}, "train.kimg 0.08 -> 9"),
        ({"variants": [{"noise": "none"}, {"noise": "fuzzy"}]}, "variant 'additive' is gone"),
        ({"variants": [{"noise": "none"}, {"noise": "fuzzy", "label": "additive"}]}, "variant 'additive' has changed"),
    ]:
        with pytest.raises(NoiseganError, match="out holds another experiment") as caught:
            refuse_another(known, grown(**change), folder)
        assert what in str(caught.value)
        assert "Choose another --outdir" in str(caught.value)


def test_commas_inside_parentheses_do_not_part_variants() -> None:
    assert split_variants("none, fuzzy(alpha=0.3,form=additive),additive") == [
        "none",
        "fuzzy(alpha=0.3,form=additive)",
        "additive",
    ]
    with pytest.raises(NoiseganError, match="empty entry"):
        split_variants("none,,fuzzy")


def test_examples_are_valid(plugins: Plugins) -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        experiment = read_experiment(path).resolve(plugins)
        assert len(experiment.variants) >= 2, path


CERTIFICATE = {"seed": 0, "data": "d", "initial_weights": "w", "data_order": "o", "z": "z", "steps": 5}


@pytest.mark.parametrize("key", ["data", "initial_weights", "data_order", "z", "steps"])
def test_every_difference_of_certificates_is_a_problem(key: str) -> None:
    other = CERTIFICATE | {key: "another"}
    assert not pairing_problems({("a", 0): CERTIFICATE, ("b", 0): CERTIFICATE, ("b", 1): other}, "a")
    problems = pairing_problems({("a", 0): CERTIFICATE, ("b", 0): other}, "a")
    assert len(problems) == 1
    assert problems[0].startswith("'b' with seed 0 met ")


def test_recorded_options_are_diffed() -> None:
    configs = {
        ("a", 0): {"noise": "none", "gamma": 1, "seed": 0, "batch": 4},
        ("b", 0): {"noise": "fuzzy", "gamma": 2, "seed": 0, "batch": 4},
    }
    shared, differing = config_differences(configs)
    assert shared == {"batch": 4}
    assert differing == {"noise": {"a": "none", "b": "fuzzy"}, "gamma": {"a": 1, "b": 2}}
    assert strange_differences(differing, []) == ["the runs differ in gamma beside their noise"]
    assert strange_differences(differing, ["gamma"]) == []


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "experiment.md").read_text()
    first = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {word for cell in first for word in re.findall(r"`\[*(\w+)\]*`", cell)}
    sections = (Experiment, Variant, Evaluation, InversionOptions)
    keys = {name for section in sections for name in section.model_fields}
    assert documented == keys
