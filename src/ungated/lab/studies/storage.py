"""Who takes which run, and what a search has seen: the runs of a study as Optuna's trials.

A study has as many trials as its budget from the beginning, all waiting, and trial number n is run n. A worker takes
one by turning it from waiting to running, which a storage lets one of them do. So the budget is exact, whoever comes
or dies. Trials beyond the budget, which two workers that begin at once may make, are never looked at.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ungated.lab.errors import Interrupted, StudyError
from ungated.lab.studies.journal import open_journal
from ungated.lab.studies.leases import Lease
from ungated.lab.studies.samplers import draw, make_sampler
from ungated.lab.studies.spaces import Dimension, Value

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

T = TypeVar("T")

#: Seconds for which a storage that cannot be reached is tried again.
PATIENCE = 600.0

#: How often the tables of a server are made or found.
_ATTEMPTS = 5


class Trials:
    """The trials of one study. Every call may be made by several processes at once.

    stop: asked while a storage that cannot be reached is tried again. Raises StudyError when patience is over.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        budget: int,
        *,
        patience: float = PATIENCE,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._storage, self._name, self._budget = storage, name, budget
        self.patience, self._stop = patience, stop
        self._ids: dict[int, int] = {}
        self._study = self._patiently(self._join)

    def _join(self) -> int:
        """The study's id; made, and filled with waiting trials, where need be."""
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection
        from optuna.trial import TrialState, create_trial

        try:
            study = self._storage.create_new_study([StudyDirection.MINIMIZE], self._name)
        except DuplicatedStudyError:
            study = self._storage.get_study_id_from_name(self._name)
        waiting = create_trial(state=TrialState.WAITING)
        for _ in range(self._storage.get_n_trials(study), self._budget):
            self._storage.create_new_trial(study, template_trial=waiting)
        return study

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do it, again and again while the storage cannot be reached."""
        from optuna.exceptions import StorageInternalError

        began, pause = time.monotonic(), 0.1
        while True:
            try:
                return action()
            except (StorageInternalError, OSError) as error:
                reason = str(error.__cause__ or error).strip().splitlines()[0]
                if self._stop():
                    raise Interrupted(f"stopped while the study's storage could not be reached ({reason})") from error
                if time.monotonic() - began >= self.patience:
                    raise StudyError(f"the study's storage cannot be reached: {reason}") from error
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._patiently(
                lambda: self._storage.get_trial_id_from_study_id_trial_number(self._study, number)
            )
        return self._ids[number]

    def _trials(self) -> list[FrozenTrial]:
        found = self._patiently(lambda: self._storage.get_all_trials(self._study, deepcopy=False))
        return [trial for trial in found if trial.number < self._budget]

    # What there is

    def waiting(self) -> list[int]:
        """The runs that nobody has taken."""
        return [trial.number for trial in self._trials() if trial.state.name == "WAITING"]

    def running(self) -> list[int]:
        """The runs that someone has taken."""
        return [trial.number for trial in self._trials() if trial.state.name == "RUNNING"]

    def over(self) -> list[int]:
        """The runs that are finished or failed."""
        return [trial.number for trial in self._trials() if trial.state.is_finished()]

    def attributes(self, number: int) -> Mapping[str, Any]:
        """What was noted of a run: "run" (its record), "deaths", "files", "lease"."""
        return self._patiently(lambda: self._storage.get_trial(self._id(number))).user_attrs

    def leases(self) -> dict[int, Lease]:
        """The leases noted of running trials."""
        return {
            trial.number: Lease(*trial.user_attrs["lease"])
            for trial in self._trials()
            if trial.state.name == "RUNNING" and trial.user_attrs.get("lease")
        }

    # What changes

    def take(self, number: int) -> bool:
        """Turn a waiting run into a running one: True for the one who did."""
        return self._set_state(number, "RUNNING")

    def give_back(self, number: int) -> None:
        """Turn a running one into a waiting one; nothing happens where it is finished."""
        self._set_state(number, "WAITING")

    def finish(self, number: int, value: float | None) -> bool:
        """End a running one, with what the search minimises, or None where it failed; False if it was ended before."""
        return self._set_state(number, "FAIL" if value is None else "COMPLETE", value)

    def note(self, number: int, key: str, value: Any) -> None:
        """Keep something with a run that is not finished."""
        with _unless_finished():
            self._patiently(lambda: self._storage.set_trial_user_attr(self._id(number), key, value))

    def _set_state(self, number: int, name: str, value: float | None = None) -> bool:
        from optuna.trial import TrialState

        state: TrialState = TrialState[name]
        values = None if value is None else [value]
        with _unless_finished():
            return self._patiently(
                lambda: self._storage.set_trial_state_values(self._id(number), state=state, values=values)
            )
        return False

    # A search

    def draw(self, number: int, space: Mapping[str, Dimension], sampler: str, seed: int) -> dict[str, Value]:
        """The values of a running trial; the same again if it has some."""
        chosen = make_sampler(sampler, seed, number)
        return self._patiently(lambda: draw(self._storage, self._name, self._id(number), chosen, space))

    def enter(self, number: int, space: Mapping[str, Dimension], values: Mapping[str, Value]) -> None:
        """Note values that a running trial had before the storage was made anew."""

        def note() -> None:
            known = self._storage.get_trial(self._id(number)).params
            for name, entry in space.items():
                if name not in known and name in values and entry.holds(values[name]):
                    distribution = entry.distribution()
                    internal = distribution.to_internal_repr(values[name])
                    self._storage.set_trial_param(self._id(number), name, internal, distribution)

        self._patiently(note)


def _unless_finished() -> contextlib.suppress:
    """What comes too late for a trial that is finished is left out."""
    from optuna.exceptions import UpdateFinishedTrialError

    return contextlib.suppress(UpdateFinishedTrialError)


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """The storage that an address names, postgresql://..., or the journal file. Raises StudyError."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        return open_journal(journal)
    return _open_server(url)


def is_server(url: str | None) -> bool:
    """Whether the storage is a server, so that workers need no shared directory."""
    return url is not None and not url.startswith("sqlite")


def check_storage(url: str | None, workers: int) -> None:
    """Refuse what cannot work, before anything is done. Raises StudyError."""
    if url is None or url.startswith(("postgresql://", "postgresql+psycopg://")):
        return
    if url.startswith("sqlite"):
        if workers > 1:
            raise StudyError(
                "SQLite is for one worker: it locks its whole file for every write, and of several workers that begin"
                " at once all but one fail; leave --storage out, or use postgresql://"
            )
        return
    raise StudyError(
        f"there is no storage {url.partition(':')[0]}: use postgresql://USER@HOST/DATABASE, or leave it out"
    )


def _open_server(url: str) -> BaseStorage:
    try:
        import sqlalchemy
        from optuna.storages import RDBStorage, get_storage
    except ImportError as error:
        raise StudyError("a server as storage needs more packages: pip install 'ungated[lab,postgres]'") from error
    address = url.replace("postgresql://", "postgresql+psycopg://", 1)
    # A connection for each call: none that the server has dropped in between, and few at a time however many workers.
    options: dict[str, Any] = {"poolclass": sqlalchemy.pool.NullPool}
    if address.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": 10}
    for attempt in range(_ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return get_storage(RDBStorage(address, engine_kwargs=options))
        except ImportError as error:
            raise StudyError("a server as storage needs more packages: pip install 'ungated[lab,postgres]'") from error
        except sqlalchemy.exc.SQLAlchemyError as error:
            # Two machines that begin at once both make the tables: one of them finds that they are there already.
            if attempt + 1 < _ATTEMPTS and not isinstance(error, sqlalchemy.exc.OperationalError):
                time.sleep(0.5)
                continue
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise StudyError(f"the storage {without_password(url)} cannot be used: {reason}") from error
    raise AssertionError("the last attempt returns or raises")


def without_password(url: str) -> str:
    """The address as it may be shown and kept."""
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{place}"
