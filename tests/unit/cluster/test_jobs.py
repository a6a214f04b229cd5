"""A job's id says what it does, to whoever submits it."""

import re
from dataclasses import replace

import pytest

from scen.cluster.jobs import Submission

JOB = Submission('{"kind": "stream"}', "zsre-2026", mark="a1")


def test_the_same_work_has_the_same_id() -> None:
    assert JOB.submission_id == replace(JOB).submission_id
    assert re.fullmatch(r"scen-zsre-2026-[0-9a-f]{12}", JOB.submission_id)


def test_code_and_environment_do_not_make_another_job() -> None:
    sent = replace(
        JOB, store="s3://b/s", packages=("/code/scen",), environment={"A": "1"}, python="python3"
    )
    assert sent.submission_id == JOB.submission_id


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, spec='{"kind": "drain"}'),
        replace(JOB, mark="a2"),
        replace(JOB, label="zsre-2027"),
    ],
)
def test_other_work_has_another_id(other: Submission) -> None:
    assert other.submission_id != JOB.submission_id


def test_names_are_made_fit_for_an_id() -> None:
    name = replace(JOB, label="a.b_c" + "d" * 59).submission_id
    assert re.fullmatch(r"scen-a-b-c(d{35})-[0-9a-f]{12}", name)
