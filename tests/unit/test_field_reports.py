"""docs/testing.md names the public reports behind each field test, or says that none is known."""

import re

import pytest

from tests.support.checkout import CHECKOUT

_FIELD = CHECKOUT / "tests/field"
_ROW = re.compile(r"^\| `field/(test_\w+\.py)` \| (.*?) \| .+ \|$", re.MULTILINE)
_REPORT = re.compile(r"[\w.-]+/[\w.-]+ #\d+")
_NONE = "no public report known"
_ROWS = _ROW.findall((CHECKOUT / "docs/testing.md").read_text())


def test_each_field_test_has_one_row() -> None:
    assert [name for name, _ in _ROWS] == sorted(path.name for path in _FIELD.glob("test_*.py"))


@pytest.mark.parametrize(("name", "cell"), _ROWS)
def test_a_row_names_reports_that_the_test_names_or_none(name: str, cell: str) -> None:
    code = (_FIELD / name).read_text()
    if cell == _NONE:
        assert _NONE in code.lower()
        assert not _REPORT.search(code)
    else:
        reports = cell.split(", ")
        assert all(_REPORT.fullmatch(report) for report in reports)
        assert set(reports) <= set(_REPORT.findall(code))
