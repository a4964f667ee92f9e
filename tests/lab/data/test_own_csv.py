"""One's own table: windows and targets, names, and every cell that is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ungated.lab.data import RegressionData, csv_data
from ungated.lab.data.own_csv import CsvOptions, read_table
from ungated.lab.errors import DataError, DataMissingError, RecipeError


def load(path: Path, text: str, **options: object) -> RegressionData:
    file = path / "sensor.csv"
    file.write_text(text)
    data = csv_data(file, **options).load()  # type: ignore[arg-type]
    assert isinstance(data, RegressionData)
    return data


ROWS = np.random.RandomState(0).normal(3.0, 2.0, size=(100, 3)).round(3)
TABLE = "\n".join(",".join(map(str, row)) for row in ROWS)


def test_windows_are_the_rows_before_the_target(tmp_path: Path) -> None:
    data = load(tmp_path, "a,b,c\n" + TABLE, length=4, standardize=False)
    assert data.names == ("a", "b", "c")
    for part, start, end in ((data.train, 0, 70), (data.valid, 70, 85), (data.test, 85, 100)):
        rows = torch.from_numpy(ROWS[start:end]).float()
        assert part.inputs.shape == (end - start - 4, 4, 3)
        assert part.targets.shape == (end - start - 4, 3)
        for i in (0, len(part) - 1):
            assert torch.equal(part.inputs[i], rows[i : i + 4])
            assert torch.equal(part.targets[i], rows[i + 4])
    assert torch.equal(data.train.targets[-1], torch.from_numpy(ROWS[69]).float())


def test_standardized_by_the_training_part(tmp_path: Path) -> None:
    data = load(tmp_path, TABLE, length=1)
    assert data.mean is not None
    assert data.std is not None
    np.testing.assert_allclose(data.mean, ROWS[:70].mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.std, ROWS[:70].std(0), rtol=1e-5)
    np.testing.assert_allclose(data.test.targets * data.std + data.mean, ROWS[86:], atol=1e-5)


def test_a_target_column(tmp_path: Path) -> None:
    data = load(tmp_path, "a,b,c\n" + TABLE, length=2, target="b", standardize=False)
    assert data.names == ("b",)
    assert data.train.inputs.shape[2] == 3
    assert torch.equal(data.train.targets[:, 0], torch.from_numpy(ROWS[2:70, 1]).float())
    with pytest.raises(DataError, match=r"has no column 'd'; its columns are a, b, c"):
        load(tmp_path, "a,b,c\n" + TABLE, target="d")


def test_a_constant_column(tmp_path: Path) -> None:
    data = load(tmp_path, "\n".join(f"{row[0]},0.1" for row in ROWS), length=2)
    assert (data.train.inputs[..., 1].abs() < 1e-6).all()


def test_names_and_forms_of_numbers() -> None:
    names, table = read_table(' 1 ,-2.5,.5,"3."\n1e3,+2E-2,0,7\n\n\n', "x", ",")
    assert names == ["1", "2", "3", "4"]
    assert table.tolist() == [[1, -2.5, 0.5, 3], [1000, 0.02, 0, 7]]
    assert read_table("\n t ; v \n1;2\n", "x", ";")[0] == ["t", "v"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x\n", r"line 3, column 'b': 'x' is not a finite number"),
        ("a,b\n1,2\n,4\n", r"line 3, column 'a': the value is missing"),
        ("1,2\n3, \n", r"line 2, column '2': the value is missing"),
        ("a,b\n1,nan\n", r"line 2, column 'b': 'nan' is not a finite number"),
        ("a,b\n1,-inf\n", r"line 2, column 'b': '-inf' is not a finite number"),
        ("a,b\n1,1e999\n", r"line 2, column 'b': 1e999 is too large"),
        ("a,b\n1,1_000\n", r"line 2, column 'b': '1_000' is not"),
        ("a,b\n1,٣\n", r"line 2, column 'b': '٣' is not"),
        ("a,b\n1,0x10\n", r"line 2, column 'b': '0x10' is not"),
        ("a,b\n1,2,3\n", r"line 2: 3 cells where 2 are expected"),
        ("a,b\n1,2\n3\n", r"line 3: 1 cells where 2 are expected"),
        ("a;b\n1;2\n3;4\n", r"line 2, column 'a;b': '1;2' is not a finite number; are the cells apart by another"),
        ("a,b\n1,2\n3;4\n", r"line 3: 1 cells where 2 are expected, apart by ','"),
        ("a,b\n1,2\n\n3,4\n", r"line 3: a blank line within the table"),
        ("a,a\n1,2\n", r"line 1: two columns are called 'a'"),
        ("a,\n1,2\n", r"line 1: column 2 has no name"),
        ("a,b\n", r"x has no row of numbers"),
        ("", r"x has no row of numbers"),
        ('a,b\n1,"2\n', r"line 2: unexpected end of data"),
        ('a,b\n1,"2"x\n', r"line 2: ',' expected after"),
        ("a,b\n1," + "2" * 200_000, r"line 2: field larger than field limit"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(text, "x", ",")


def test_a_table_too_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 100 rows, 70 \+ 15 \+ 15 for train, valid and test.*length=15"):
        load(tmp_path, TABLE, length=15)
    assert len(load(tmp_path, TABLE, length=14).test) == 1


@pytest.mark.parametrize("standardize", [True, False])
def test_values_beyond_single_precision(standardize: bool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too far apart for single precision"):
        load(tmp_path, "\n".join(["1e308", "-1e308"] * 50), length=2, standardize=standardize)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"1,2\n\xff\xfe")
    with pytest.raises(DataError, match=r"x.csv, line 2: byte 4 \(0xff\) is not utf-8; save the table as UTF-8"):
        csv_data(tmp_path / "x.csv").load()
    with pytest.raises(DataMissingError, match=r"there is no CSV file"):
        csv_data(tmp_path / "y.csv")


@pytest.mark.parametrize("options", [{"length": 0}, {"length": 2.0}, {"delimiter": ""}, {"delimiter": ";;"}])
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        CsvOptions(**options)  # type: ignore[arg-type]
