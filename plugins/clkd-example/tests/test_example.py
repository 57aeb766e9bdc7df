"""What every plugin's tests begin with: the contract of each part, one line each."""

import clkd_example
import pytest

from clkd.testing.parts import check_part


@pytest.fixture
def clkd_plugins():
    """What is under test, and nothing else that may be installed here."""
    return [clkd_example]


@pytest.mark.parametrize(
    ("kind", "part"),
    [("losses", "focal"), ("memories", {"kind": "latest", "size": 7}), ("transfers", "moments")],
)
def test_contract(clkd_tiny, kind, part):
    check_part(clkd_tiny, kind, part)
