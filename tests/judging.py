"""What the tests of claims ask: the row of one claim on a table, and its verdict. Imported by test_claims_*.py."""

from ncbook import claims


def judged(name, table):
    """The whole row."""
    return claims.judge([name], table).iloc[0]


def verdict(name, table):
    """The verdict, of a claim that says its numbers and what would make it fail."""
    found = judged(name, table)
    assert found["fails_if"] and found["numbers"]
    return found["verdict"]
