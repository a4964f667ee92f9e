"""A SLURM job array whose every job is one worker of a study: a script for a person to read, change and submit."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ungated.lab.errors import UsageError
from ungated.lab.files import atomic_write_text
from ungated.lab.studies.study import Study

_SCRIPT = """\
#!/bin/bash
# {name}: {runs} runs, worked off by a job array. Read this, change what your cluster wants, then: sbatch {file}
# A job that is cancelled or runs out of time saves its run and gives it back; submit again to go on to the same total.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --time={time}
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory}
{gres}#SBATCH --signal=B:TERM@120
#SBATCH --output="{folder}/slurm-%A_%a.log"
set -eu

cd {place}
{storage}exec {python} -m ungated study run {directory} --workers {workers} --device {device} --quiet{data}
"""


def write_script(
    study: Study,
    *,
    jobs: int,
    workers: int = 1,
    device: str = "cpu",
    time: str = "12:00:00",
    cpus: int = 4,
    memory: str = "8G",
    data_dir: str | Path | None = None,
    server: bool = False,
) -> Path:
    """Write DIR/worker.sbatch and return its path. jobs: of the array; workers: of each job.

    Signals reach `ungated` itself since the script gives way to it (exec). server: the address of the storage comes
    from UNGATED_STORAGE, which holds a password and is therefore not written down. Raises UsageError, LabError (disk).
    """
    if jobs < 1 or workers < 1 or cpus < 1:
        raise UsageError("a job array needs at least one job, worker and CPU")
    directory = study.directory.path.absolute()
    path = directory / "worker.sbatch"
    lines = ': "${UNGATED_STORAGE:?set it to the postgresql:// address of the study before sbatch}"\n'
    text = _SCRIPT.format(
        name=study.definition.name,
        runs=len(study.points),
        file=shlex.quote(str(path)),
        last=min(jobs, len(study.points)) - 1,
        time=time,
        cpus=cpus,
        memory=memory,
        gres="#SBATCH --gres=gpu:1\n" if device.startswith("cuda") else "",
        folder=str(directory),
        place=shlex.quote(str(Path.cwd())),
        storage=lines if server else "",
        python=shlex.quote(sys.executable),
        directory=shlex.quote(str(directory)),
        workers=workers,
        device=shlex.quote(device),
        data="" if data_dir is None else f" --data-dir {shlex.quote(str(Path(data_dir).absolute()))}",
    )
    atomic_write_text(path, text)
    return path
