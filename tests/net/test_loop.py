"""The event loop: when it lets bytes gather."""

import pytest

from wafermon.net import EventLoop


class Naps:
    """The time that a loop spends; it passes by naps, and by as much as a turn is told to take."""

    def __init__(self, monkeypatch):
        self.now, self.naps = 1000.0, []
        monkeypatch.setattr("wafermon.net.loop.time.sleep", self.nap)

    def nap(self, seconds):
        self.naps.append(round(seconds, 6))
        self.now += seconds

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("turn_seconds", "hurried", "naps"),
    [(0.0, False, 0.001), (0.0004, False, 0.0006), (0.0006, False, None), (0.0, True, None)],
    ids=["at once", "soon", "after a while", "hurried"],
)
def test_bytes_gather_where_turns_follow_each_other_at_once(
    monkeypatch, turn_seconds, hurried, naps
):
    clock = Naps(monkeypatch)
    loop = EventLoop(clock=clock)
    turns = []

    def turn():
        turns.append(1)
        clock.now += turn_seconds
        loop.hurried = hurried
        if len(turns) < 4:
            loop.call_soon(turn)
        else:
            loop.stop()

    clock.now += 1
    loop.call_soon(turn)
    clock.now += 1
    loop.run()
    loop.close()
    assert len(turns) == 4
    assert set(clock.naps[1:]) == ({naps} if naps else set())
