"""Where a network lies: in the memory of its reply, which the driver reads, if nothing else ever lies in it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cases import CASES, federation

from fedrecon.sites.member.site import Site
from fedrecon.sites.training.parameters import Parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_only_what_a_reply_shares_lies_in_the_drivers_memory(name, consortium, tmp_path, monkeypatch):
    """A network in memory that the driver reads replies as one in its own; one with private parts does not move."""
    one = federation(name, consortium, tmp_path / "a")
    request, plan = one.method.request(one.begin()), one.plans()[0]
    calm, moved = Site(plan), Site(replace(plan, memory=str(tmp_path / "b")))
    rooms, moves = [], []
    monkeypatch.setattr(
        Parameters, "move", lambda self, storage, move=Parameters.move: moves.append(move(self, storage))
    )
    moved.train_in(lambda length: rooms.append(np.zeros(length, np.float32)) or rooms[-1])
    replies = [site.fit(request) for site in (calm, moved)]
    assert replies[0].shared.tobytes() == replies[1].shared.tobytes()
    assert len(rooms) == (one.method.network_kind == "reconstruction" and not len(moved.parameters.private))
    for room in rooms:
        assert np.shares_memory(room, replies[1].shared)
        assert len(room) == len(replies[1].shared)
    assert moves == []  # it would take its memory twice
    if rooms:  # the driver made a new buffer
        moved.train_in(lambda length: rooms.append(np.zeros(length, np.float32)) or rooms[-1])
        assert np.shares_memory(rooms[1], moved.parameters.flat.numpy())
        assert rooms[1].tobytes() == replies[1].shared.tobytes()
        assert len(moves) == 1
    rounds = replace(plan, personalise=SimpleNamespace(takes=lambda *_: True))
    Site(rounds).train_in(lambda _: pytest.fail("what is personal stays"))
