"""Records read ahead come in order."""

from __future__ import annotations

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.read_ahead import read_ahead


def test_records_are_read_ahead_in_order_and_errors_come_through() -> None:
    class Source(list):
        def __getitem__(self, i: int) -> int:
            if i == 7:
                raise UserError("seven")
            return 10 * i

    groups = [range(3), range(3, 6), range(6, 7)]
    assert list(read_ahead(Source(), groups)) == [[0, 10, 20], [30, 40, 50], [60]]
    with pytest.raises(UserError, match="seven"):
        list(read_ahead(Source(), [*groups, range(7, 9)]))
