"""A data set: addresses, checksums, a licence, published counts, and a parser from bytes to tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ungated.lab.data import store
from ungated.lab.data.families import Family
from ungated.lab.data.store import DataFile, Progress, data_directory
from ungated.lab.errors import DataError, LabError, RecipeError
from ungated.lab.files import sha256_of


@dataclass(frozen=True)
class NoOptions:
    """The options of a data set that has none."""


@dataclass(frozen=True)
class Verification:
    """What `DataSet.verify` found. `ok` if every file is right and every count is the published one."""

    name: str
    state: str
    files: dict[str, str]  # path: "present", "missing", or what is wrong with it
    counts: dict[str, int]  # as measured
    problems: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class DataSet:
    """One named data set; `load` gives the object of its family.

    kind: "music", "language", "classification", "regression" or "copy": which task it is for.
    files: what it needs below the data directory; none if it is built in. alternatives: other sets of files
        that do as well, looked at in order where `files` are not all there, and never downloaded.
    paths: the user's own files instead, each of at most `path_limit` bytes.
    parse: (contents by path, options) -> family object. count: (family object, options) -> measured counts.
    counts: the published counts; every measured count of the same name has to equal it.
    Options: the dataclass of the data set's own options. variants: the options that `verify` goes through.
    """

    name: str
    kind: str
    summary: str
    licence: str
    source: str
    parse: Callable[[Mapping[str, bytes], Any], Family]
    count: Callable[[Any, Any], dict[str, int]]
    counts: Mapping[str, int] = field(default_factory=dict)
    files: tuple[DataFile, ...] = ()
    alternatives: tuple[tuple[DataFile, ...], ...] = ()
    paths: tuple[Path, ...] = ()
    path_limit: int = 1 << 30
    Options: type[Any] = NoOptions
    variants: tuple[Mapping[str, object], ...] = ({},)

    @property
    def size(self) -> int:
        """Bytes of the plain files."""
        return sum(file.size for file in self.files)

    def load(
        self,
        directory: str | Path | None = None,
        options: object | None = None,
        *,
        download: bool = True,
        progress: Progress | None = None,
    ) -> Family:
        """The data, with the counts checked. Files that are missing are downloaded first, if `download`.

        directory: see `data_directory`. options: an instance of `Options`, None for its defaults.
        Raises UsageError (no such directory), RecipeError (options), DataMissingError (not here, and not to be
        had), DataError (a file is not the published one, or its counts are not).
        """
        options = self.options() if options is None else options
        if not isinstance(options, self.Options):
            raise RecipeError(f"options of {self.name} should be {self.Options.__name__}, got {options!r}")
        contents = {str(path): store.read_own(path, self.path_limit) for path in self.paths}
        if self.files:
            place = data_directory(directory)
            if download and self._chosen(place) is None:
                self.fetch(place, progress)
            contents = {file.path: store.read(place, file) for file in self._chosen(place) or self.files}
        data = self.parse(contents, options)
        for what, measured in self.count(data, options).items():
            if measured != self.counts.get(what, measured):
                raise DataError(
                    f"{self.name} has {measured:,} {what} where {self.counts[what]:,} are published: "
                    "its files are right, so this is an error in reading them; please report it"
                )
        return data

    def options(self, **values: object) -> Any:
        """An instance of `Options`; RecipeError for a name or a value it does not have."""
        try:
            return self.Options(**values)
        except TypeError as error:
            known = ", ".join(f.name for f in dataclasses.fields(self.Options)) or "none"
            raise RecipeError(f"{error} (options of {self.name}: {known})") from None

    def state(self, directory: str | Path | None = None) -> str:
        """ "built in", "present" (all files there and right), "missing" (some), or "damaged" (some)."""
        return self._state(self.check(directory))

    def fingerprint(self) -> str:
        """A SHA-256 that differs where the files do: of the published checksums, or of one's own files' content."""
        known = [f"{file.path} {file.checksum}" for file in self.files]
        own = [sha256_of(store.read_own(path, self.path_limit)) for path in self.paths]
        return sha256_of("\n".join([self.name, *known, *own]).encode())

    def check(self, directory: str | Path | None = None) -> dict[str, str]:
        """For each file "present", "missing", or a sentence on what is wrong with it."""
        if self.paths:
            return {str(path): "present" if path.is_file() else "missing" for path in self.paths}
        if not self.files:
            return {}
        place = data_directory(directory)
        return {file.path: store.check(place, file) for file in self._chosen(place) or self.files}

    def fetch(self, directory: str | Path | None = None, progress: Progress | None = None) -> None:
        """Download what is missing, and check what is there; see `store.fetch` for the errors."""
        if not self.files:
            return
        place = data_directory(directory)
        for file in self._chosen(place) or self.files:
            store.fetch(place, file, progress)

    def verify(self, directory: str | Path | None = None) -> Verification:
        """Check every file, load every variant, and compare every count with the published one."""
        files = self.check(directory)
        state = self._state(files)
        problems = [
            f"{path} is missing" if found == "missing" else found for path, found in files.items() if found != "present"
        ]
        counts: dict[str, int] = {}
        if not problems:
            for variant in self.variants:
                options = self.options(**variant)
                try:
                    counts |= self.count(self.load(directory, options, download=False), options)
                except LabError as error:
                    problems.append(str(error))
        return Verification(self.name, state, files, counts, problems)

    def _chosen(self, place: Path) -> tuple[DataFile, ...] | None:
        """The first set of files that is all there."""
        for files in (self.files, *self.alternatives):
            if all(store.find(place, file) for file in files):
                return files
        return None

    @staticmethod
    def _state(files: Mapping[str, str]) -> str:
        if not files:
            return "built in"
        found = set(files.values())
        if found == {"present"}:
            return "present"
        return "damaged" if found - {"present", "missing"} else "missing"
