"""Tasks by the kind of data they are for: what is predicted, with which head, and how it is scored."""

from ungated.lab.tasks.classification import ClassificationTask
from ungated.lab.tasks.copy_memory import CopyTask
from ungated.lab.tasks.language import LanguageTask
from ungated.lab.tasks.music import MusicTask
from ungated.lab.tasks.regression import RegressionTask
from ungated.lab.tasks.task import Task

#: Every task by the kind of its data: the only list.
TASKS: dict[str, type[Task]] = {
    task.kind: task for task in (MusicTask, LanguageTask, ClassificationTask, RegressionTask, CopyTask)
}
