"""Tasks by number, for ranks that ask in their own time."""

from scen.cluster.worker_group import TaskBoard


def test_an_empty_board() -> None:
    board = TaskBoard()
    assert board.newest() == 0
    assert board.take(1) == (False, None)


def test_the_last_two_tasks_can_be_taken_as_often_as_wanted() -> None:
    board = TaskBoard()
    assert [board.post(task) for task in "abc"] == [1, 2, 3]
    assert board.newest() == 3
    assert board.take(1) == (False, None)
    assert board.take(2) == board.take(2) == (True, "b")
    assert board.take(3) == (True, "c")


def test_the_end_is_a_task_that_is_none() -> None:
    board = TaskBoard()
    board.post(None)
    assert board.take(1) == (True, None)
