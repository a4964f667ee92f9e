"""The lab's errors: each message is one sentence that says what was wrong, where, and what to do."""

from __future__ import annotations


class LabError(Exception):
    """Base of all; the command line prints the message alone and exits with `exit_status`."""

    exit_status = 1


class UsageError(LabError):
    """Wrong words on the command line."""

    exit_status = 2


class RecipeError(UsageError):
    """An unknown, mistyped or contradictory setting."""


class DataError(LabError):
    """A data file or user's input that cannot be used."""


class DataMissingError(DataError):
    """A data set that is neither here nor to be fetched."""

    exit_status = 3


class CheckpointError(LabError):
    """A saved state or weights that cannot be used."""


class RunError(LabError):
    """A run that cannot start or go on."""


class RunBusyError(RunError):
    """A run directory that another process is writing."""


class StudyError(LabError):
    """A study that cannot start or go on, or whose storage cannot be used."""


class Interrupted(LabError):
    """Stopped on request, with everything saved."""

    exit_status = 75
