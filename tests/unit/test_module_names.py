"""No two modules of tests have the same name, so that a failure names one file."""

from collections import Counter

from tests.support.checkout import CHECKOUT


def test_each_name_is_given_once() -> None:
    names = Counter(file.name for file in CHECKOUT.glob("tests/**/*.py"))
    assert [name for name, count in names.items() if count > 1] in ([], ["conftest.py"])
