"""The table of rows and complaints is what the tests are, and has no gap."""

from __future__ import annotations

import pytest

from tests.server import matrix


@pytest.mark.parametrize(("number", "title", "found"), matrix.rows())
def test_there_is_a_test_for_every_row(number, title, found):
    assert found, f"row {number} ({title}) has no test"


@pytest.mark.parametrize(("title", "found"), matrix.themes())
def test_there_is_a_test_for_every_complaint(title, found):
    assert found, f"{title} has no test"


def test_the_table_is_up_to_date():
    assert (matrix.HERE / "README.md").read_text() == matrix.text(), "run python tests/server/matrix.py"
