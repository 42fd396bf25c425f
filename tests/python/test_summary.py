"""What a rank says at its end."""

from __future__ import annotations

from monarch_like._summary import troubles

WELL = {"dropped": {}, "last_error": None, "accepted_seq": 9, "durable_seq": 9}


def test_nothing_is_said_when_all_is_well() -> None:
    assert troubles(WELL, 0, "exp/run") == []
    assert troubles({**WELL, "dropped": {"queue full": 0}}, 0, "exp/run") == []


def test_each_trouble_is_one_line_with_its_numbers() -> None:
    stats = {**WELL, "dropped": {"queue full": 2, "bad value": 1}, "last_error": "no space"}
    assert troubles(stats, 3, "exp/run") == [
        "monarch_like: rank 3 of exp/run left out 3 records: 1 bad value, 2 queue full",
        "monarch_like: rank 3 of exp/run had trouble, all is durable now: no space",
    ]
    late = troubles({**stats, "durable_seq": 4}, 3, "exp/run")
    assert "5 records are not known to be durable" in late[1]
