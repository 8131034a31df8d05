"""The choice of a direction, of widths, chunks and byte limits, tested on counts alone."""

import itertools

import pytest

from jacobia import MaterializationError
from jacobia._plans.ways import choose
from jacobia._run import limits as _limits
from jacobia._run.directions import Ways
from jacobia._run.limits import byte_limit, check_result, chunk, padded_width

BOTH, ROWS, COLUMNS = Ways(True, True), Ways(True, False), Ways(False, True)


def never():
    raise AssertionError("asked for a comparison of costs that does not matter")


@pytest.mark.parametrize(
    ("asked", "rows", "columns", "ways", "way"),
    [
        ("all", 5, 4, BOTH, "columns"),
        ("all", 4, 5, BOTH, "rows"),
        ("all", 64, 64, BOTH, "columns"),
        ("all", 4, 5, COLUMNS, "columns"),
        ("all", 5, 4, ROWS, "rows"),
        ("all", 0, 4, BOTH, "none"),
        ("rows", 4, 0, ROWS, "none"),
        # Some rows are computed by rows, unless there are many of them and columns take at most a fourth of the passes.
        ("rows", 5, 4, BOTH, "rows"),
        ("rows", 64, 1, BOTH, "rows"),
        ("rows", 65, 260, BOTH, "rows"),
        ("rows", 68, 17, BOTH, "columns"),
        ("rows", 68, 17, ROWS, "rows"),
        ("columns", 4, 5, BOTH, "columns"),
        ("columns", 1, 64, BOTH, "columns"),
        ("columns", 17, 68, BOTH, "rows"),
        ("columns", 17, 68, COLUMNS, "columns"),
        ("block", 2, 3, BOTH, "rows"),
        ("block", 3, 2, BOTH, "columns"),
    ],
)
def test_the_way(asked, rows, columns, ways, way):
    assert choose(asked, rows, columns, ways, never).way == way


@pytest.mark.parametrize(
    ("asked", "rows", "columns", "cost", "way"),
    [
        ("block", 3, 3, 0.9, "rows"),
        ("block", 3, 3, 1.1, "columns"),
        ("block", 3, 3, None, "columns"),
        ("all", 65, 65, 0.9, "rows"),
        ("all", 65, 65, 1.1, "columns"),
        ("all", 65, 65, None, "columns"),
        ("block", 1998, 2000, 2.0, "columns"),  # fewer pullbacks, which cost twice as much
        ("all", 400, 101, 0.5, "rows"),
        ("all", 400, 101, None, "columns"),
        # Columns for requested rows must take less than half of the cost of the rows.
        ("rows", 100, 60, 1.9, "rows"),
        ("rows", 100, 60, 2.1, "columns"),
        ("rows", 65, 17, None, "rows"),
        ("rows", 100, 200, 2.1, "columns"),
        ("columns", 60, 100, 0.6, "columns"),
        ("columns", 60, 100, 0.4, "rows"),
        ("columns", 60, 100, None, "columns"),
    ],
)
def test_costs_decide_where_there_are_about_as_many_passes_both_ways(asked, rows, columns, cost, way):
    assert choose(asked, rows, columns, BOTH, lambda: cost).way == way
    assert choose(asked, rows, columns, ROWS, never).way == "rows"


@pytest.mark.parametrize(
    ("asked", "rows", "columns", "cost", "way"),
    [
        ("columns", 1, 1, None, "rows"),
        ("columns", 1, 5, 1.9, "rows"),
        ("columns", 1, 5, 2.1, "columns"),
        ("rows", 5, 1, None, "columns"),
        ("rows", 1, 1, 0.51, "columns"),
        ("rows", 1, 1, 0.49, "rows"),
    ],
)
def test_one_line_that_is_all_of_it_may_cost_twice_as_much(asked, rows, columns, cost, way):
    assert choose(asked, rows, columns, BOTH, lambda: cost, one=True).way == way
    assert choose(asked, rows, columns, BOTH, lambda: cost).way == asked


def test_every_choice_says_why_and_takes_a_way_that_is_possible():
    reasons = set()
    for asked, rows, columns, ways in itertools.product(
        ("rows", "columns", "block", "all"), (0, 1, 64, 65, 300), (0, 1, 64, 65, 300), (BOTH, ROWS, COLUMNS)
    ):
        choice = choose(asked, rows, columns, ways)
        assert choice.why
        reasons.add(choice.why)
        assert (choice.way == "none") == (rows == 0 or columns == 0)
        if choice.way != "none":
            assert getattr(ways, choice.way)
        if asked in ("block", "all") and ways == BOTH and rows and columns:
            assert {"rows": rows, "columns": columns}[choice.way] == min(rows, columns)
    assert len(reasons) > 5


def test_widths_are_few_grow_with_the_count_and_never_pass_the_most():
    for most in (1, 3, 7, 64, 70, 1000, 5000):
        widths = [padded_width(count, most) for count in range(1, most + 1)]
        assert all(count <= width <= most for count, width in enumerate(widths, 1))
        assert widths == sorted(widths)
        assert len(set(widths)) <= 11
    assert [padded_width(k, 10**6) for k in (1, 2, 3, 4, 5, 8, 9, 17, 65, 256, 257, 1025)] == [
        1, 2, 3, 4, 8, 8, 16, 64, 256, 256, 1024, 4096,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "size", "expected"),
    [(10, 8, 5), (10, 10, None), (10, 11, None), (10, 1, 1), (10, 3, 3), (7, 6, 4), (100, 33, 25), (1, 1, None)],
)
def test_chunks_that_are_asked_for_are_balanced(seeds, size, expected):
    assert chunk(seeds, 1, 0, size, 1) == expected
    assert expected is None or expected <= size


def test_a_chunk_keeps_the_working_set_under_the_limit():
    assert chunk(100, 10, 500, "auto", None) is None
    assert chunk(100, 10, 500, "auto", 1500) is None
    assert chunk(100, 10, 500, "auto", 1499) == 50  # 99 fit: 50 + 50
    assert chunk(100, 10, 500, "auto", 600) == 10
    assert chunk(100, 10, 500, "auto", 505) == 1  # one at least
    assert chunk(100, 10, 500, "auto", 100) == 1
    assert chunk(100, 0, 500, "auto", 400) == 1
    for seeds, limit in itertools.product((1, 7, 64, 100), range(10, 1500, 37)):
        size = chunk(seeds, 10, 0, "auto", limit)
        assert (seeds if size is None else size) * 10 <= limit


def test_no_limit_is_asked_for_where_little_is_needed(monkeypatch):
    monkeypatch.setattr(_limits, "free_bytes", lambda device: 1000)
    assert byte_limit(None, (1 << 26) - 1, never) is None
    assert byte_limit(None, 1 << 26, lambda: None) == 500
    assert byte_limit(7, 1, never) == 7 and byte_limit(7, 1 << 40, never) == 7


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def test_free_bytes_of_a_device_that_tells_and_of_this_machine():
    assert _limits.free_bytes(Device({"bytes_limit": 100, "bytes_in_use": 30})) == 70
    assert _limits.free_bytes(Device({"bytes_limit": 100})) == 100
    here = _limits.free_bytes(None)
    assert isinstance(here, int) and here > 1 << 24
    for stats in (None, {}, {"bytes_in_use": 3}):
        assert _limits.free_bytes(Device(stats)) == pytest.approx(here, rel=0.5)


def test_free_bytes_where_there_is_no_meminfo(monkeypatch):
    def missing(*_):
        raise OSError

    monkeypatch.setattr("builtins.open", missing)
    assert _limits.free_bytes(None) > 1 << 20
    monkeypatch.setattr(_limits.os, "sysconf_names", {})
    assert _limits.free_bytes(None) == 1 << 33


def test_a_result_beyond_the_limit_raises_with_both_sizes_and_a_way_out():
    check_result("J[...]", 10**9, None, "")
    check_result("J[...]", 100, 100, "")
    with pytest.raises(MaterializationError) as error:
        check_result("J[...]", 3 * 2**20, 2**20, "Read less.")
    assert str(error.value) == ("J[...]: expected a result under memory_limit=1.0 MB, got one of 3.1 MB. Read less.")
