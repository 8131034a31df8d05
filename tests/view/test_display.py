"""What a view shows of itself."""

import numpy as np
import pytest

from jacobia._words import counted, describe, known_lines


@pytest.mark.parametrize(
    ("rows", "columns", "whole", "text"),
    [
        ((0, 5), (0, 4), False, "nothing known"),
        ((2, 5), (0, 4), False, "2 of 5 rows known"),
        ((0, 5), (4, 4), False, "4 of 4 columns known"),
        ((2, 5), (1, 4), False, "2 of 5 rows and 1 of 4 columns known"),
        ((2, 5), (1, 4), True, "all known"),
    ],
)
def test_what_is_known(rows, columns, whole, text):
    assert known_lines(rows, columns, whole) == text


def test_a_view_on_one_line():
    text = describe("Jacobian", (5, 4), np.dtype("float32"), "nothing known")
    assert text == "Jacobian(shape=(5, 4), dtype=float32, nothing known)"


def test_counts_in_words():
    assert counted(1, "pushforwards") == "1 pushforward" and counted(2, "rows") == "2 rows"
    assert counted(1, "passes") == "1 pass" and counted(0, "passes") == "0 passes"
