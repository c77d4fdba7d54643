"""Runs a part of the cases of bad input. `python -m tests.bad_input` runs all of them."""

from tests import bad_input


def test_bad_input_is_answered_in_a_line_and_with_a_status(trained, tmp_path):
    groups = (
        "flags",
        "fields",
        "segmentation folders",
        "pictures",
        "weights",
        "exports",
        "workdirs",
    )
    rows, wrong = bad_input.run(tmp_path, trained, groups, step=20)
    assert wrong == []
    assert len(rows) >= 10


def test_the_table_that_is_kept_has_no_stack_trace_and_every_group():
    from tests.bad_input.__main__ import README

    table = README.read_text(encoding="utf-8")
    assert "Traceback" not in table
    assert table.count("\n## ") == len(bad_input.cases.GROUPS)
    assert table.count("\n| `") >= 200
