"""What a study's file may say, which runs follow from it, and what is refused in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ungated.cells import CELLS
from ungated.lab.errors import StudyError, UsageError
from ungated.lab.studies.changes import changed, searched
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.packaged import definition_names, load_definition
from ungated.lab.studies.points import Point, fixed_settings, points, settings_of
from ungated.lab.studies.spaces import Dimension
from ungated.lab.studies.study import create_study, open_study, with_settings
from ungated.lab.training.recipe import load_recipe

GRID = """
kind = "grid"
recipe = "nottingham"
cells = ["rru", "lstm"]
seeds = [0, 1]
[settings]
max_epochs = 3
[settings.lstm]
forget_bias = 0.5
[axes]
learning_rate = [1e-3, 1e-2]
parameters = [1_000_000, 2_000_000, 3_000_000]
"""


def test_a_grid_is_every_combination_with_every_cell_and_seed() -> None:
    definition = Definition.from_toml(GRID, "grid.toml")
    found = points(definition)
    assert [point.number for point in found] == list(range(2 * 2 * 2 * 3))
    assert len({(p.cell, p.seed, *p.values.values()) for p in found}) == 24
    assert {point.seed for point in found[:12]} == {0}
    assert settings_of(definition, found[0]) == {"learning_rate": 1e-3, "parameters": 1_000_000}
    assert fixed_settings(definition, "rru") == {"max_epochs": 3}
    assert fixed_settings(definition, "lstm") == {"max_epochs": 3, "forget_bias": 0.5}
    assert Definition.from_toml(definition.to_toml(), "again") == definition


@pytest.mark.parametrize("name", definition_names())
def test_every_packaged_study_fits_its_recipes(name: str) -> None:
    definition = load_definition(name)
    assert Definition.from_toml(definition.to_toml(), name) == definition
    assert definition.source
    cells = definition.cells if definition.kind != "tpe" else tuple(CELLS)
    for cell in cells:
        one = definition.replace(cells=(cell,))
        recipe = with_settings(
            load_recipe("jsb" if name == "tune-music" else one.recipe, cell), fixed_settings(one, cell)
        )
        for point in (points(one)[0], points(one)[-1]):
            drawn = {key: entry.corners()[point.number > 0] for key, entry in one.space_of(cell).items()}
            recipe.override(settings_of(one, Point(0, cell, point.variant, point.values or drawn)))


def test_the_papers_grids_sweeps_variants_and_depths_have_their_sizes() -> None:
    sizes = {name: len(points(load_definition(name))) for name in definition_names()}
    assert sizes["robustness-nottingham"] == sizes["robustness-ptb-word"] == 4 * 100
    assert sizes["dropout-nottingham"] == sizes["dropout-ptb-char"] == 4 * 10
    assert sizes["ablation"] == 6
    assert sizes["depth-ptb-word"] == sizes["depth-ptb-word-wt"] == 10
    assert sizes["tune-music"] == 100


def test_the_search_space_is_that_of_table_3() -> None:
    music, words = load_definition("tune-music"), load_definition("tune-ptb-word")
    assert music.space["learning_rate"] == Dimension(1e-4, 1e-2, log=True)
    assert music.space["recurrent_dropout"] == Dimension(0.0, 0.8)
    assert music.space["parameters"] == Dimension(1e6, 15e6, round=True)
    assert words.space["parameters"] == Dimension(10e6, 30e6, round=True)
    names = {cell: set(music.space_of(cell)) - {"learning_rate", "recurrent_dropout", "parameters"} for cell in CELLS}
    assert names["rru"] == {"expansion"}
    assert names["lstm"] == {"forget_bias"}
    assert names["mogrifier"] == {"rounds", "rank"}
    assert names["gru"] == set()
    assert music.keys_for("rhn", "recurrent_dropout") == ("cell.input_dropout", "cell.state_dropout")


def test_depths_go_along_with_their_hidden_sizes() -> None:
    definition = load_definition("depth-ptb-word")
    sizes = [settings_of(definition, point) for point in points(definition)]
    assert sizes[0] == {"depth": 1, "hidden_size": 1275}
    assert sizes[9] == {"depth": 10, "hidden_size": 830}
    some = changed(definition, ["depth=2,3"])
    assert [settings_of(some, point)["hidden_size"] for point in points(some)] == [1180, 1110]
    small = changed(definition, ["depth=2,12", "parameters=2M"])
    assert [settings_of(small, point) for point in points(small)] == [{"depth": 2}, {"depth": 12}]
    assert small.settings == {"model.parameters": 2_000_000}
    with pytest.raises(UsageError, match="parameters="):
        changed(definition, ["depth=12"])


def test_settings_of_the_command_line_take_the_place_of_the_studys() -> None:
    definition = changed(load_definition("dropout", "nottingham"), ["learning_rate=0.5", "max_epochs=2"])
    assert definition.settings == {
        "parameters": 5_000_000,
        "optimizer.learning_rate": 0.5,
        "training.max_epochs": 2,
    }
    assert changed(definition, ["recurrent_dropout=0,0.5"]).axes == {"recurrent_dropout": (0.0, 0.5)}
    assert changed(definition, [], cells=["gru"], seeds=3).seeds == (0, 1, 2)


def test_what_is_given_is_not_searched() -> None:
    definition = searched(load_definition("tune", "jsb"), ["hidden_size=20", "recurrent_dropout=0.5"])
    assert set(definition.space_of("rru")) == {"learning_rate", "expansion"}
    assert definition.settings == {"model.hidden_size": 20, "cell.recurrent_dropout": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind = 'grid'", "should say recipe"),
        ("kind = ", "is not TOML"),
        (GRID.replace('"grid"', '"gird"'), "did you mean grid?"),
        (GRID.replace("[axes]", "[axis]"), "did you mean axes?"),
        (GRID.replace("[1e-3, 1e-2]", "[]"), "at least one value"),
        (GRID.replace("[1e-3, 1e-2]", "[1e-3, 1e-3]"), "a value twice"),
        (GRID.partition("[axes]")[0], "empty [axes]"),
        (GRID.replace('"grid"', '"sweep"'), "one axis"),
        (GRID.replace('"grid"', '"repeats"'), "no meaning"),
        (GRID.replace('["rru", "lstm"]', "[]"), "at least one cell"),
        (GRID.replace("[0, 1]", "[-1]"), "seeds"),
        (GRID.replace("[0, 1]", "[1, 1]"), "twice"),
        (GRID.replace("kind", "trials = 5\nkind", 1), "trials is for a search"),
        (GRID.replace("kind", 'name = "../up"\nkind', 1), "its name"),
        (GRID + "[along.depth]\nhidden_size = [1]", "axis of that name"),
        (GRID + "[along.learning_rate]\nhidden_size = [1]", "should have 2 values"),
    ],
    ids=lambda value: value if len(value) < 30 else "",
)
def test_a_wrong_file_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Definition.from_toml(text, "mine.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).partition("TOML")[0]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{ low = 2.0, high = 1.0 }", "is empty"),
        ("{ low = 0.0, high = 1.0, log = true }", "above 0"),
        ("{ low = 0.0 }", "low and high"),
        ("{ low = 0.0, high = nan }", "low and high"),
        ("{ choices = [] }", "at least one"),
        ("{ choices = [1], low = 0.0 }", "both"),
        ("{ low = 0.0, hihg = 1.0 }", "did you mean high?"),
        ("3", "a range"),
    ],
)
def test_a_wrong_space_is_one_sentence(entry: str, said: str) -> None:
    text = f'kind = "tpe"\nrecipe = "jsb"\ncells = ["gru"]\ntrials = 5\n[space]\nlearning_rate = {entry}\n'
    with pytest.raises(UsageError) as caught:
        Definition.from_toml(text, "mine.toml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"trials": 0}, "trials should be at least 1"),
        ({"trials": None}, "trials should be at least 1"),
        ({"space": {}}, "empty"),
        ({"space": {"expansion": Dimension(1.0, 2.0, cells=("rru",))}}, "nothing to search"),
        ({"cells": ("gru", "lstm")}, "one cell"),
        ({"sampler": "random"}, "optuna, paper"),
        ({"objective": "train"}, "valid, test"),
    ],
)
def test_a_search_that_cannot_be(entries: dict[str, object], said: str) -> None:
    fine = Definition("tpe", "jsb", ("gru",), trials=3, space={"learning_rate": Dimension(1e-4, 1e-2)})
    with pytest.raises(UsageError, match=said):
        fine.replace(**entries)


def test_a_drawn_number_becomes_the_setting() -> None:
    assert Dimension(1.0, 9.0, round=True).value(4.6) == 5
    assert Dimension(1.0, 9.0).value(4.6) == 4.6
    assert Dimension(choices=(5, 6)).value(6) == 6
    assert Dimension(1.0, 9.0).holds(9.0) and not Dimension(1.0, 9.0).holds(math.nextafter(9.0, 10))


def test_settings_that_no_recipe_has_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    definition = Definition("sweep", "digits", ("gru",), axes={"lerning_rate": (0.1,)})
    with pytest.raises(UsageError, match="did you mean"):
        create_study(tmp_path / "study", definition)
    budget = Definition("sweep", "digits", ("gru",), axes={"parameters": (1000, 5)})
    with pytest.raises(UsageError, match="too small"):
        create_study(tmp_path / "study", budget)
    assert not list(tmp_path.iterdir())


def test_a_directory_is_of_one_study(tmp_path: Path) -> None:
    definition = Definition("sweep", "digits", ("gru",), axes={"learning_rate": (0.1, 0.2)})
    study = create_study(tmp_path / "study", definition)
    assert create_study(tmp_path / "study", definition).identity == study.identity
    assert open_study(tmp_path / "study").identity == study.identity
    with pytest.raises(StudyError, match="its seeds is"):
        create_study(tmp_path / "study", definition.replace(seeds=(0, 1)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(StudyError, match=r"thesis\.tex"):
        create_study(tmp_path / "other", definition)
    with pytest.raises(StudyError, match="is a file"):
        create_study(tmp_path / "other" / "thesis.tex", definition)
    with pytest.raises(StudyError, match="no study"):
        open_study(tmp_path / "other")
