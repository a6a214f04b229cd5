"""Where a driver leaves the next task for its workers: a plain class that runs as a Ray actor."""

from typing import Any

_KEPT = 2  # a rank may ask for the task before the newest while the others have just heard of it


class TaskBoard:
    """Tasks by number, from 1 on; the last of them may be the end."""

    def __init__(self) -> None:
        self._tasks: dict[int, Any] = {}
        self._newest = 0

    def post(self, task: Any) -> int:
        """Leave a task (None: there will be no other); its number."""
        self._newest += 1
        self._tasks[self._newest] = task
        self._tasks.pop(self._newest - _KEPT, None)
        return self._newest

    def newest(self) -> int:
        """The number of the newest task; 0 where there is none."""
        return self._newest

    def take(self, number: int) -> tuple[bool, Any]:
        """(True, the task of this number), or (False, None) where newer ones took its place."""
        return number in self._tasks, self._tasks.get(number)
