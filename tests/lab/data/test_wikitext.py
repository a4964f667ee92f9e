"""WikiText-2 by hand; its published counts are checked where the files are."""

from __future__ import annotations

from ungated.lab.data import DATASETS, wikitext


def test_tokens() -> None:
    contents = {
        "train": " \n = Title = \n \n a \u3000b <unk> \n".encode(),
        "valid": b" a \n",
        "test": b" = <unk> \n",
    }
    data = wikitext._parse(contents, None)
    tokens = [data.vocabulary[i] for i in data.train.tolist()]
    assert tokens == ["<eos>", "=", "Title", "=", "<eos>", "<eos>", "a", "\u3000b", "<unk>", "<eos>"]
    assert data.vocabulary[:2] == ["<eos>", "="]


def test_the_reordered_file_never_stands_for_the_canonical_one() -> None:
    canonical, reordered = DATASETS["wikitext-2"], DATASETS["wikitext-2-reordered"]
    assert canonical.files[0].path != reordered.files[0].path
    assert canonical.files[0].checksum != reordered.files[0].checksum
    assert canonical.files[1:] == reordered.files[1:]
    assert canonical.alternatives == ()
