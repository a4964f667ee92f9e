"""The trials of a study, from the journal in its directory or from the server that it was begun with."""

from __future__ import annotations

import time
from collections.abc import Callable

from ungated.lab.errors import StudyError
from ungated.lab.studies.storage import Trials, is_server, open_storage, without_password
from ungated.lab.studies.study import Study


def check_same_storage(study: Study, storage: str | None) -> None:
    """Refuse to hand out, from the journal, runs that a server hands out too; remember the server."""
    known = study.directory.read_server()
    if is_server(storage):
        study.directory.write_server(without_password(str(storage)))
    elif known is not None:
        raise StudyError(
            f"the runs of {study.directory} are handed out by {known}: name it with --storage or UNGATED_STORAGE, or"
            f" remove {study.directory}/server.json if it is no more"
        )


def open_trials(
    study: Study, storage: str | None, stop: Callable[[], bool] = lambda: False, *, patience: float = 0.0
) -> Trials:
    """The study's trials in a storage, made if need be; tried again for `patience` seconds. Raises StudyError."""
    began = time.monotonic()
    while True:
        try:
            opened = open_storage(storage, study.directory.journal)
        except StudyError:
            if stop() or time.monotonic() - began >= patience:
                raise
            time.sleep(1.0)
        else:
            return Trials(opened, study.identity, len(study.points), stop=stop)
