"""`Found`: each result is made once for its kind and key, and the number kept is limited."""

import threading

from jacobia._found import Found


def test_a_value_is_made_once_for_what_it_is_and_a_key():
    found, made = Found(), []

    def make():
        made.append(len(made))
        return None if len(made) == 1 else len(made)

    assert found.find("cost", 1, make) is None and found.find("cost", 1, make) is None  # None is a value
    assert found.find("cost", 2, make) == 2 and found.find("way", 1, make) == 3
    assert made == [0, 1, 2] and len(found) == 3
    assert found.get("cost", 1, "no") is None and found.get("cost", 3, "no") == "no" and found.get("cost", 3) is None
    assert found.put("cost", 1, 7) == 7 == found.get("cost", 1) and len(found) == 3


def test_the_oldest_go():
    found = Found(limit=3)
    for k in range(5):
        found.find("way", k, lambda k=k: k)
        found.put("cost", k, k)
    assert len(found) == 3
    assert [found.get("way", k) for k in range(5)] == [None] * 4 + [4]
    assert [found.get("cost", k) for k in range(5)] == [None] * 3 + [3, 4]


def test_where_two_make_a_value_at_once_the_first_one_stays():
    found, inside, go_on = Found(), threading.Event(), threading.Event()

    def slow():
        inside.set()
        assert go_on.wait(60)
        return "slow"

    got = []
    thread = threading.Thread(target=lambda: got.append(found.find("way", 0, slow)))
    thread.start()
    assert inside.wait(60)
    assert found.find("way", 0, lambda: "fast") == "fast"
    go_on.set()
    thread.join()
    assert got == ["fast"] and found.get("way", 0) == "fast"
