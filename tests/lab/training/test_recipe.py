"""Recipes: typed, complete, with origins; wrong ones end in one sentence."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ungated.cells import CELLS
from ungated.cells.cell import Cell
from ungated.lab.errors import DataMissingError, RecipeError, UsageError
from ungated.lab.training.recipe import Recipe, cells_of, load_recipe, recipe_names
from ungated.lab.training.sections import ModelSettings, Training

OWN_CELL = """
import torch
from torch import nn
from ungated.cells.cell import Cell

class Elman(Cell):
    def __init__(self, input_size, hidden_size, *, gain: float = 1.0, kind: str = "tanh", device=None):
        super().__init__(input_size, hidden_size)
        if gain <= 0:
            raise ValueError("gain should be above 0")
        self.W = nn.Parameter(torch.zeros(input_size + hidden_size, hidden_size))

    def step(self, x, h, noise=None):
        h = torch.tanh(torch.cat([x, h], dim=-1) @ self.W)
        return h, h

class GRU(Elman):
    pass

not_a_cell = 3
"""


@pytest.fixture
def own_cell(tmp_path):
    file = tmp_path / "my cells.py"
    file.write_text(OWN_CELL)
    return f"{file}:Elman"


def test_sections_are_typed_objects():
    recipe = load_recipe("jsb", "rru")
    assert recipe.name == "jsb/rru"
    assert (recipe.dataset, recipe.cell, recipe.protocol, recipe.kind) == ("jsb", "rru", "paper", "music")
    assert recipe.model == ModelSettings(parameters=6_900_000)
    assert recipe.cell_options["expansion"] == 1.76958
    assert recipe.cell_class is CELLS["rru"]
    assert recipe.optimizer.learning_rate == 0.00495
    assert recipe.training == Training(batch_size=16, patience=7)
    assert recipe.task.window == 200
    assert recipe.published is not None and recipe.published.value == 7.72
    assert recipe == load_recipe("jsb/rru")


def test_overrides_win_and_are_marked():
    recipe = load_recipe("jsb", "rru", ["learning_rate=1e-3", "model.parameters=2M", "cell.relu_layers=2"])
    assert recipe.optimizer.learning_rate == 1e-3
    assert recipe.model.parameters == 2_000_000
    assert recipe.cell_options["relu_layers"] == 2
    assert recipe.overridden == ["model.parameters", "cell.relu_layers", "optimizer.learning_rate"]
    assert recipe.origin["training.patience"].startswith("recipe: Zakovskis et al.")
    assert recipe.origin["optimizer.learning_rate"] == "command line"
    assert recipe.origin["model.hidden_size"] == "default"
    typed = load_recipe("jsb", "rru").override({"learning_rate": 1e-3, "parameters": 2_000_000, "relu_layers": 2})
    assert typed == recipe


@pytest.mark.parametrize("overrides", [[], ["learning_rate=1e-3", "patience=none", "clip_multiplier=none"]])
def test_toml_round_trip_keeps_everything(overrides):
    recipe = load_recipe("nottingham", "mogrifier", overrides)
    text = recipe.to_toml()
    assert Recipe.from_toml(text) == recipe
    assert Recipe.from_toml(text).to_toml() == text


def test_values_lists_every_setting():
    recipe = load_recipe("jsb", "lstm")
    values = recipe.values()
    assert values["protocol"] == "paper"
    assert values["cell.forget_bias"] == 0.76843
    assert list(values) == list(recipe.origin)
    assert {f"training.{field.name}" for field in fields(Training)} <= set(values)


def test_a_size_replaces_the_other():
    assert load_recipe("jsb", "gru", ["hidden_size=100"]).model == ModelSettings(hidden_size=100)
    sized = load_recipe("jsb", "gru", ["hidden_size=100"])
    assert sized.origin["model.parameters"] == "command line"
    assert sized.override(["parameters=1M"]).model == ModelSettings(parameters=1_000_000)
    with pytest.raises(RecipeError, match="not both"):
        load_recipe("jsb", "gru", ["hidden_size=100", "parameters=1M"])
    with pytest.raises(RecipeError, match="needs a size"):
        load_recipe("jsb", "gru", ["parameters=none"])


def test_another_optimizer_starts_from_its_own_defaults():
    recipe = load_recipe("jsb", "gru", ["optimizer=sgd", "clip_norm=5"])
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("sgd", 1e-3)
    assert recipe.origin["optimizer.learning_rate"] == "default"
    assert recipe.origin["optimizer.name"] == recipe.origin["optimizer.clip_norm"] == "command line"
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("expnsion=3", 'no setting "expnsion" (did you mean expansion?)'),
        ("cell.expnsion=3", "(did you mean cell.expansion?)"),
        ("depth=3", 'no setting "depth"'),
        ("batch_size=abc", 'training.batch_size should be an integer, got "abc"'),
        ("batch_size=0", "batch_size should be at least 1, got 0"),
        ("patience=-1", "patience should be at least 1, got -1"),
        ("accumulate=17", "accumulate should be at most batch_size 16"),
        ("autocast=fp8", 'training.autocast should be "none" or "bfloat16"'),
        ("learning_rate=nan", "optimizer.learning_rate should be a number"),
        ("learning_rate=-1", "learning_rate should be above 0"),
        ("model.dropout=1", "dropout is a probability"),
        ("window=0", "window"),
        ("residual=two", "RRUCell refuses its settings: residual should be"),
        ("relu_layers=1e9", "cell.relu_layers should be at most 10,000"),
        ("num_layers=1e9", "num_layers should be at most 1,000"),
        ("expansion=-1", "RRUCell refuses its settings"),
        ("recurrent_dropout=1.5", "recurrent_dropout is a probability"),
        ("protocol=papr", 'protocol should be "paper" or "standard"'),
        ("optimizer=admm", 'there is no optimizer "admm" (did you mean adam?)'),
        ("name=x", "a recipe's name is not a setting"),
        ("optimizer.name=3", 'there is no optimizer "3"'),
        ("cell=gru", "choose the cell with --cell"),
        ("dataset=jsb", "name another data set"),
        ("learning_rate", "write key=value"),
        ("=3", "write key=value"),
        ("x" * 5000 + "=3", "write key=value"),
        ("a.b.c=3", 'no setting "a.b.c"'),
    ],
)
def test_wrong_override_is_one_sentence(override, words):
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        load_recipe("jsb", "rru", [override])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.exit_status == 2


KEYS = st.sampled_from([*load_recipe("jsb", "rru").values(), "dropout", "learning_rate", "optimizer", "a.b", ""])
VALUES = st.sampled_from(["", "0", "1", "-1", "1e9", "1e400", "nan", "none", "true", "2M", "sgd", "[1]", "\x00", "ä=="])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(KEYS, VALUES | st.text(max_size=20)), max_size=3))
def test_any_overrides_make_a_recipe_or_one_sentence(pairs):
    try:
        recipe = load_recipe("jsb", "rru", [f"{key}={value}" for key, value in pairs])
    except RecipeError as error:
        assert str(error).isprintable()
        return
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 60), st.sampled_from(["", "x = 1", "[model]", "x = {", '"', "[a.b]"]) | st.text(max_size=20))
def test_any_file_makes_a_recipe_or_one_sentence(line, text):
    lines = load_recipe("jsb", "rru").to_toml().splitlines()
    lines[line % len(lines)] = text
    try:
        recipe = Recipe.from_toml("\n".join(lines))
    except RecipeError as error:
        assert str(error).isprintable()
        return
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_the_same_key_twice_is_refused():
    with pytest.raises(RecipeError, match="given twice"):
        load_recipe("jsb", "rru", ["patience=3", "training.patience=4"])


@pytest.mark.parametrize(
    ("name", "cell", "words"),
    [
        ("jbs", "rru", "(did you mean jsb?)"),
        ("jsb", "rruu", 'there is no cell "rruu" (did you mean rru?)'),
        ("jsb", None, "choose one of gru, lstm, mogrifier, rhn, rru"),
        ("jsb/rru", "gru", "give one of them"),
        ("../jsb", "rru", 'there is no data set or recipe "../jsb"'),
        ("", "rru", 'there is no data set or recipe ""'),
        ("nowhere.toml", None, "nowhere.toml cannot be read: No such file"),
        ("jsb", "nowhere.py:Cell", "there is no file nowhere.py"),
    ],
)
def test_wrong_names_are_one_sentence(name, cell, words):
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        load_recipe(name, cell)
    assert "\n" not in str(caught.value)


def test_names_are_listed():
    assert "jsb/rru" in recipe_names()
    assert cells_of("jsb") == ["gru", "lstm", "mogrifier", "rhn", "rru"]
    assert cells_of("nothing") == []


def edited(old: str, new: str) -> str:
    text = load_recipe("jsb", "gru").to_toml()
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not TOML"),
        ("a = " + "[" * 30_000 + "]" * 30_000, "nested too deeply"),
        ("a = 1\n" * 20_000, "longer than 64 KB"),
        ("x = 1", 'unknown entry "x"'),
        ("dataset = 3", "dataset should be text"),
        ("model = 3", "model should be a section"),
        ('protocol = "paper"', "should say dataset"),
        ('dataset = "jsb"', "should say protocol"),
        ('dataset = "jbs"\nprotocol = "paper"', 'no data set "jbs" (did you mean jsb?)'),
        ('dataset = "jsb"\nprotocol = "paper"', "should name its cell"),
    ],
)
def test_wrong_files_are_one_sentence(text, words):
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        Recipe.from_toml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gate_bias = 1.0", "gate_bais = 1.0", "unknown setting, cell.gate_bais (did you mean cell.gate_bias?)"),
        ("gate_bias = 1.0", 'gate_bias = "1"', "cell.gate_bias should be a number"),
        ("gate_bias = 1.0", "gate_bias = 1979-05-27", "cell.gate_bias should be a number"),
        ("gate_bias = 1.0", "gate_bias = {a = 1}", "cell.gate_bias is nested"),
        ("gate_bias = 1.0", "gate_bias = [[1]]", "cell.gate_bias is nested"),
        ('name = "jsb/gru"', 'name = "../../etc"', "should be of a-z"),
        ('name = "jsb/gru"', 'name = "JSB"', "should be of a-z"),
        ('name = "gru"', 'name = "rru"', "unknown setting, cell."),
        ('name = "gru"', 'name = "evil.py:Cell"', "give it with --cell"),
        ('name = "rectified-laprop"', 'name = "lapprop"', "there is no optimizer"),
        ('metric = "nll_per_frame"', "", "[published] should give metric, value, protocol, source"),
        ('metric = "nll_per_frame"', "metrik = 3", "published.metrik"),
        ("value = 8.2", 'value = "8.2"', "[published] should be a number"),
        ("[source]", "[source]\n\"cell.depth\" = 'x'", "source for an unknown setting, cell.depth"),
        ("[source]", '[source]\n"model.dropout" = 3', "the source of model.dropout should be text"),
    ],
)
def test_wrong_entries_are_named(old, new, words):
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        Recipe.from_toml(edited(old, new))
    assert "\n" not in str(caught.value)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(edited("patience = 7", "patience = 3").partition("[source]")[0].replace('name = "jsb/gru"\n', ""))
    recipe = load_recipe(str(file))
    assert recipe.name == "mine"
    assert recipe.training.patience == 3
    assert recipe.origin["training.patience"] == f"recipe: {file}"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(file))


@pytest.fixture
def own_data(tmp_path):
    (tmp_path / "My Text.txt").write_text("abcdefgh\n" * 50)
    (tmp_path / "table.csv").write_text("a,b\n" + "1,2\n" * 50)
    (tmp_path / "songs").mkdir()
    for name in "abc":
        (tmp_path / "songs" / f"{name}.mid").touch()
    return {"text": "My Text.txt", "csv": "table.csv", "midi": "songs"}


@pytest.mark.parametrize(("kind", "label"), [("text", "text-my-text"), ("csv", "csv-table"), ("midi", "midi-songs")])
def test_own_data_take_our_settings_for_their_kind(tmp_path, monkeypatch, own_data, kind, label):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(f"{kind}:{own_data[kind]}", "lstm", ["batch_size=8"])
    assert (recipe.name, recipe.dataset, recipe.data_set.name) == (f"{label}/lstm", label, label)
    assert recipe.own_data == f"{kind}:{tmp_path / own_data[kind]}"
    assert recipe.origin["training.patience"] == "recipe: ours"
    monkeypatch.chdir("/")
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.data_set.paths == recipe.data_set.paths
    assert again.override(["patience=1"]).own_data == recipe.own_data


def test_own_data_with_an_own_cell(tmp_path, own_data, own_cell):
    recipe = load_recipe(f"text:{tmp_path / own_data['text']}", own_cell, ["unit=word"])
    assert recipe.name == "text-my-text/elman"
    assert recipe.data.unit == "word"


def test_own_data_that_are_not_there(tmp_path):
    with pytest.raises(DataMissingError, match="there is no text file"):
        load_recipe(f"text:{tmp_path / 'nothing.txt'}", "gru")
    with pytest.raises(UsageError, match="text:PATH"):
        load_recipe("txt:file.txt", "gru")
    assert not [name for name in recipe_names() if name.startswith("own-")]


def test_own_cell_takes_the_settings_of_the_gru(own_cell):
    recipe = load_recipe("jsb", own_cell, ["gain=2"])
    gru = load_recipe("jsb", "gru")
    assert (recipe.name, recipe.cell) == ("jsb/elman", "elman")
    assert recipe.cell_options == {"gain": 2.0, "kind": "tanh"}
    assert recipe.origin["cell.kind"] == "default"
    assert (recipe.model, recipe.task, recipe.optimizer) == (gru.model, gru.task, gru.optimizer)
    assert recipe.published is None
    assert isinstance(recipe.cell_class(2, 3), Cell)
    assert recipe.cell_class is load_recipe("jsb", own_cell).cell_class
    with pytest.raises(RecipeError, match="Elman refuses its settings: gain should be above 0"):
        recipe.override(["gain=-1"])


def test_own_cell_is_not_loaded_because_a_file_says_so(own_cell):
    recipe = load_recipe("jsb", own_cell)
    text = recipe.to_toml()
    assert Recipe.from_toml(text, cell=own_cell) == recipe
    with pytest.raises(RecipeError, match=re.escape(f"give it with --cell {own_cell}")):
        Recipe.from_toml(text)
    with pytest.raises(RecipeError, match="is a recipe for the cell elman, not gru"):
        Recipe.from_toml(text, cell="gru")


def test_own_cell_named_as_one_of_ours(own_cell):
    assert load_recipe("jsb", own_cell.replace("Elman", "GRU")).cell == "own-gru"


def test_own_cell_as_a_class():
    class Leaky(Cell):
        def __init__(self, input_size: int, hidden_size: int, leak=0.5) -> None:
            super().__init__(input_size, hidden_size)
            self.W = nn.Parameter(torch.zeros(input_size, hidden_size))

    recipe = load_recipe("jsb", Leaky, ["leak=1"])
    assert recipe.cell_options == {"leak": 1.0}
    assert recipe.override(["leak=0.25"]).cell_class is Leaky
    with pytest.raises(RecipeError, match="int is no cell"):
        load_recipe("jsb", int)


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("x = 1", "Elman", "has no cell Elman: it has no subclass of ungated.Cell"),
        (OWN_CELL, "Elmann", "has no cell Elmann: it has Elman, GRU"),
        (OWN_CELL, "not_a_cell", "has no cell not_a_cell"),
        ("def", "Elman", "fails when run: SyntaxError"),
        ("1 / 0", "Elman", "fails when run: ZeroDivisionError: division by zero"),
        (
            "from ungated.cells.cell import Cell\nclass C(Cell):\n    def __init__(self, m, n, f: object): ...",
            "C",
            "C takes f, which a recipe cannot give",
        ),
    ],
)
def test_wrong_own_cells_are_one_sentence(tmp_path, code, name, words):
    file = tmp_path / "cells.py"
    file.write_text(code)
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        load_recipe("jsb", f"{file}:{name}")
    assert "\n" not in str(caught.value)
