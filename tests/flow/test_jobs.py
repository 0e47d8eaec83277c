"""Jobs: states, rates and runs by a fake clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafermon.flow import JobTracker, Presence
from wafermon.flow.job_run import BY_RATE, progress_of
from wafermon.flow.job_state import STATES
from wafermon.testing import batch, frame


class World:
    """Scripts with jobs, and a clock."""

    def __init__(self, missing_after=1000.0, **settings):
        self.now = 5000.0
        self.sent = 0
        self.presence = Presence(missing_after=missing_after, now=self.now)
        self.jobs = JobTracker(self.presence, **settings)

    def after(self, seconds):
        self.now += seconds
        return self

    def tell(self, percent, job_id="load", src="etl", **data):
        self._send(src, "progress", {"job_id": job_id, "percent": percent, **data})

    def goodbye(self, src="etl"):
        self._send(src, "goodbye", {})

    def _send(self, src, type, data, **fields):
        self.sent += 1
        message = batch([frame(self.sent, src=src, type=type, data=data, **fields)])
        for observer in (self.presence, self.jobs):
            observer.observe(message, self.now)

    def join(self, src="etl"):
        self.joined = self.now
        self.presence.joined(src, self.now)

    def leave(self, src="etl", abrupt=False):
        self.presence.left(src, self.now - self.joined, self.now, abrupt)

    def once(self, percent, **data):
        """A script that connects for a single message."""
        self.join()
        self.tell(percent, **data)
        self.after(0.01).leave()

    def see(self, job_id="load"):
        return next(one for one in self.jobs.view(self.now) if one.job_id == job_id)

    def state(self):
        return self.see().state

    def run(self, seconds, *percents):
        """A run, one update in so many seconds."""
        for percent in percents:
            self.tell(percent)
            self.after(seconds)


def test_a_run_to_its_end():
    world = World()
    world.join()
    world.run(10, 0, 25, 50, 75)
    seen = world.see()
    assert (seen.state, seen.percent, seen.runs, seen.ended) == ("running", 75.0, 1, None)
    assert seen.percent_per_s == 2.5
    world.tell(100, status="done")
    seen = world.after(500).see()
    assert (seen.state, seen.ended, seen.eta_s, seen.percent_per_s) == ("done", 5040.0, None, None)
    assert [(run.duration_s, run.state) for run in seen.history] == [(40.0, "done")]


def test_the_eta_is_by_the_rate():
    world = World()
    world.run(10, 0, 20, 40)
    world.tell(60)
    seen = world.after(6).see()
    assert (seen.eta_s, seen.eta_method) == (14.0, BY_RATE)


def test_the_eta_follows_a_new_pace():
    world = World()
    world.run(1, *range(40))
    for tenth in range(400, 450):
        world.tell(tenth / 10)
        world.after(1)
    assert world.see().percent_per_s == pytest.approx(0.1, abs=0.15)


def test_the_eta_is_hidden_until_it_means_something():
    world = World()
    world.tell(10)
    assert world.after(20).see().eta_s is None, "one update"
    world = World()
    world.run(1, 10, 11, 12, 13, 14)
    assert world.see().eta_s is None, "too early"
    world = World()
    world.run(10, 0, 10, 20)
    assert world.see().eta_s is None, "too few steps"
    world = World()
    world.run(5, *[30] * 9)
    assert world.see().eta_s is None, "no progress"
    world = World()
    world.run(10, 0, 1, 40, 41, 42)
    assert world.see().eta_s is None, "no pace"


def test_the_eta_is_hidden_while_the_next_step_is_overdue():
    world = World()
    world.run(10, 0, 10, 20, 30)
    world.tell(40)
    assert world.after(19).see().eta_s == 41.0
    world.tell(40)
    assert world.after(2).see().eta_s is None, "two of its usual gaps have passed"
    world.tell(50)
    assert world.see().eta_s > 50.0, "it goes on, more slowly"


def test_steps_at_the_pace_of_a_clock_are_one_pace():
    """What is told each second, and changes each tenth one, goes steadily."""
    world = World()
    world.run(1, *[10 * (second // 10) for second in range(41)])
    assert world.see().percent_per_s == pytest.approx(1.0)
    assert world.see().eta_s == pytest.approx(59.0)


def test_two_that_tell_of_one_job_have_no_eta():
    """Such as two copies of a script, each of which stands still: it goes up and down, and on the
    average nowhere."""
    world = World()
    for _ in range(9):
        world.run(0.5, 40, 60)
    world.tell(40)
    assert (world.see().percent_per_s, world.see().eta_s) == (0.0, None)


@pytest.mark.parametrize("step", [1e-320, 1e-9])
def test_an_eta_of_ages_is_none(step):
    world = World()
    world.run(2, *[n * step for n in range(9)])
    assert world.see().percent_per_s == pytest.approx(step / 2) and world.see().eta_s is None


def test_updates_of_one_moment_are_no_rate():
    world = World()
    for percent in range(10):
        world.tell(percent)
        world.after(0.001)
    assert world.see().percent_per_s is None
    world.after(9.99).tell(10)
    assert world.see().percent_per_s == pytest.approx(1.0)


def test_the_usual_duration():
    world = World()
    for seconds in (100, 120, 500):
        world.run(seconds, 0)
        world.tell(100, status="done")
        world.after(3600)
    world.run(7, 0)
    world.tell(3, status="failed", msg="disk full")
    assert world.see().reason == "disk full"
    world.after(60).tell(0)
    seen = world.after(20).see()
    assert (seen.runs, seen.usual_s, seen.eta_s) == (5, 120.0, 100.0)
    assert seen.eta_method == "usual duration (median of the last 3 done) - time elapsed"
    assert [run.state for run in seen.history] == ["done", "done", "done", "failed"]
    assert world.after(101).see().eta_s is None, "it takes longer than usual"


def test_stalled_by_its_own_pace():
    world = World()
    world.join()
    world.run(40, 0, 10, 20)
    world.tell(30)
    assert world.after(120).state() == "running"
    seen = world.after(1).see()
    assert (seen.state, seen.stalled_for_s, seen.eta_s) == ("stalled", 121.0, None)
    assert seen.reason == "no change of percent for 2 min 1 s, its usual gap is 40 s"
    world.tell(30)
    assert world.state() == "stalled", "it speaks, but does not get on"
    world.tell(31)
    assert world.state() == "running"


def test_a_quick_job_is_given_a_minute():
    world = World()
    world.join()
    world.run(0.1, *range(50))
    assert [world.after(s).state() for s in (59, 2)] == ["running", "stalled"]


def test_stalled_where_no_pace_is_known():
    world = World()
    world.join()
    world.tell(0)
    assert [world.after(s).state() for s in (300, 1)] == ["running", "stalled"]


def test_stalled_as_configured():
    world = World(stall_after=5)
    world.join()
    world.run(20, 0, 10, 20)
    assert world.state() == "stalled"
    world.jobs.configure(stall_after=30, died_after=15, max_jobs=9, max_runs=3)
    assert world.state() == "running"


def test_died_when_the_connection_ends():
    world = World()
    world.join()
    world.run(1, 0, 10, 20)
    world.leave()
    left = world.now
    assert world.after(15).state() == "running", "it may come back"
    seen = world.after(1).see()
    assert (seen.state, seen.ended) == ("died", left)
    assert seen.reason == "its connection ended at 20 %, without a goodbye"


def test_a_dead_job_that_reports_goes_on():
    world = World()
    world.join()
    world.run(1, 0, 10, 20)
    world.leave()
    assert world.after(60).state() == "died"
    world.join()
    world.tell(25)
    seen = world.see()
    assert (seen.state, seen.runs, seen.history) == ("running", 1, ())


def test_a_job_that_is_started_again():
    world = World()
    world.join()
    world.run(1, 0, 2, 4)
    world.leave()
    world.after(2).join()
    world.tell(0)
    seen = world.see()
    assert (seen.runs, [run.state for run in seen.history]) == (2, ["died"])


def test_not_died_while_another_connection_is_open():
    world = World()
    world.join()
    world.join()
    world.run(1, 0, 10, 20)
    world.leave()
    assert world.after(50).state() == "running"


def test_goodbye_before_the_end_has_failed():
    world = World()
    world.join()
    world.run(1, 0, 10, 40)
    world.goodbye()
    world.leave()
    seen = world.see()
    assert (seen.state, seen.reason) == ("failed", "its source said goodbye at 40 %")
    world.after(60).join()
    world.tell(0)
    assert [run.state for run in world.see().history] == ["failed"]


def test_goodbye_at_the_end_is_done():
    world = World()
    world.join()
    world.run(1, 0, 50, 100)
    assert world.state() == "running"
    world.goodbye()
    world.leave()
    assert world.state() == "done"


def test_done_and_goodbye():
    world = World()
    world.join()
    world.run(1, 0, 50)
    world.tell(100, status="done")
    world.goodbye()
    world.leave()
    assert world.after(10_000).see().reason is None and world.state() == "done"


def test_one_connection_an_update_is_not_dead_in_between():
    world = World()
    for percent in range(0, 60, 10):
        world.once(percent)
        assert world.after(40).state() == "running"
    assert world.after(25).state() == "running"
    assert world.after(60).state() == "stalled"


def test_one_connection_an_update_with_goodbyes():
    world = World()
    for percent in range(0, 60, 10):
        world.join()
        world.tell(percent)
        assert (world.state(), world.see().runs) == ("running", 1), "it goes on"
        world.goodbye()
        world.leave()
        assert world.after(40).state() == "failed"


@pytest.mark.parametrize(("percent", "state"), [(100, "done"), (40, "failed")])
def test_a_goodbye_ends_a_job_however_short_its_connection_was(percent, state):
    world = World()
    world.join()
    world.tell(percent)
    world.goodbye()
    world.after(0.01).leave(abrupt=True)
    assert world.state() == state
    world.after(60).join()
    world.tell(1, job_id="other")
    assert (world.state(), world.see("other").state) == (state, "running"), "it is back for another"


@pytest.mark.parametrize(
    ("lived", "abrupt", "state"),
    [(1.5, True, "died"), (0.01, True, "died"), (1.5, False, "running"), (5.1, False, "died")],
)
def test_who_owed_a_goodbye_is_dead_however_short_it_lived(lived, abrupt, state):
    world = World()
    world.join()
    world.tell(30)
    world.after(lived).leave(abrupt=abrupt)
    assert world.after(15).state() == "running" and world.after(1).state() == state


def test_several_messages_a_connection():
    """Who has come back before is given three of its usual silences."""
    world = World()
    for percent in range(0, 60, 20):
        world.join()
        world.tell(percent)
        world.tell(percent + 1)
        world.leave()
        world.after(10)
    world.after(5)
    assert world.state() == "running"


def test_died_when_its_source_is_missing():
    world = World(missing_after=300)
    world.tell(0)
    assert world.after(299).state() == "running"
    world.tell(1)
    seen = world.after(1000).see()
    assert seen.state == "died" and seen.reason == "its source is missing; no update for 16 min 40 s"


def test_died_when_a_source_of_single_messages_is_gone_for_good():
    world = World(missing_after=300)
    world.once(0)
    assert world.after(299).state() == "running"
    world.once(1)
    seen = world.after(1000).see()
    assert seen.state == "died" and seen.reason == "its source has left; no update for 16 min 40 s"
    assert world.presence.state("etl", world.now) == "finished", "its job is the alarm"


def test_slow_scripts_without_a_connection_are_waited_for():
    world = World(missing_after=60)
    for percent in (0, 10, 20, 30):
        world.once(percent)
        world.after(50)
    world.once(40)
    assert world.after(149).state() == "running"
    assert world.after(50).state() in ("stalled", "died")


def test_a_hung_source_with_a_heartbeat():
    world = World()
    world.join()
    world.run(1, 0, 10, 20)
    world._send("etl", "heartbeat", {"interval_s": 5})
    assert world.after(23).state() == "died", "it is connected, and yet missing"


def test_small_steps_back_are_shown():
    world = World()
    world.run(1, 10, 50, 45)
    assert (world.see().percent, world.see().runs) == (45.0, 1)


def test_a_new_run_when_the_percentage_falls():
    world = World()
    world.run(1, 0, 50, 100, 0)
    seen = world.see()
    assert (seen.runs, seen.percent, [run.state for run in seen.history]) == (2, 0.0, ["done"])
    world.run(1, 60, 5)
    assert [run.state for run in world.see().history] == ["done", "died"]


def test_a_new_run_after_the_end():
    world = World()
    world.tell(100, status="done")
    world.after(1).tell(100, status="done")
    assert world.see().runs == 1, "said twice"
    world.tell(100)
    assert (world.see().runs, world.state()) == (2, "running")
    world.after(1).tell(100, status="done")
    world.after(86_400).tell(100, status="done")
    assert world.see().runs == 3, "a job that says nothing else"


def test_an_end_is_put_right():
    world = World()
    world.tell(90)
    world.after(9).tell(99, status="failed")
    world.after(1).tell(100, status="done")
    seen = world.see()
    assert (seen.state, [run.state for run in seen.history]) == ("done", ["done"])


def test_what_was_sent_before_the_end_is_late():
    world = World()
    world.sent = 10
    world.tell(100, status="done")
    world.sent = 5
    world.tell(70)
    assert (world.state(), world.see().percent) == ("done", 100.0)


def test_runs_of_a_time_before():
    world = World()
    world.run(10, 0)
    world.tell(100, status="done")
    [before] = world.jobs.view(world.now)
    after = World(max_jobs=1)
    after.jobs.recall([before, before._replace(src="more")], after.now)
    assert len(after.jobs) == 1 and after.jobs.done() == [("load", 5010.0)]
    assert (after.see().state, after.see().percent, after.see().runs) == ("done", 100.0, 1)
    after.after(60).tell(20)
    assert (after.see().state, after.see().runs, after.see().usual_s) == ("running", 2, 10.0)


def recalled(world, seconds=100, **settings):
    """The world after a restart, so many seconds later."""
    after = World(**settings)
    after.now = world.now + seconds
    after.jobs.recall(reversed(world.jobs.view(world.now)), after.now)
    return after


def running(*percents):
    world = World()
    world.join()
    world.run(10, *percents)
    return world


def test_a_job_that_ran_before_a_restart_runs_after_it():
    world = running(0, 10, 20)
    after = recalled(world)
    seen = after.see()
    assert (seen.state, seen.percent, seen.started, seen.runs) == ("running", 20.0, 5000.0, 1)
    assert after.after(60).state() == "running", "its source may come back"
    after.join()
    after.tell(25)
    seen = after.see()
    assert (seen.state, seen.percent, seen.started, seen.runs) == ("running", 25.0, 5000.0, 1)
    after.after(10).run(10, 30, 35, 40, 45)
    assert after.see().percent_per_s == pytest.approx(0.5), "nobody knows of the time in between"


def test_a_job_whose_source_never_returns_has_died():
    after = recalled(running(0, 10, 20))
    seen = after.after(60.1).see()
    assert (seen.state, seen.ended) == ("died", 5020.0)
    assert seen.reason == "its source has not come back since the sidecar began anew, at 20 %"
    again = recalled(after)
    assert (again.state(), again.see().reason) == ("died", seen.reason), "it still is"
    again.join()
    again.tell(30)
    assert (again.state(), again.see().runs) == ("running", 1), "it is back after all"


def test_a_slow_job_is_waited_for_after_a_restart():
    world = World()
    world.join()
    world.run(100, 0, 10, 20)
    after = recalled(world)
    assert [after.after(s).state() for s in (299, 2)] == ["running", "died"]


def test_a_source_that_returns_and_leaves_takes_its_job_along():
    after = recalled(running(0, 10, 20))
    after.join()
    after._send("etl", "event", {})
    assert after.after(30).state() == "running"
    after.leave(abrupt=True)
    assert after.after(16).state() == "died"


def test_a_job_that_begins_again_after_a_restart_is_another_run():
    after = recalled(running(0, 10, 20))
    after.join()
    after.tell(15)
    seen = after.see()
    assert (seen.runs, [run.state for run in seen.history]) == (2, ["died"])


def test_how_a_job_ended_before_a_restart():
    world = running(0, 40)
    world.goodbye()
    world.leave(abrupt=True)
    world.tell(50, job_id="other", src="b", status="failed", msg="no disk")
    after = recalled(world)
    assert (after.state(), after.see().reason) == ("failed", "its source said goodbye at 40 %")
    assert (after.see("other").state, after.see("other").reason) == ("failed", "no disk")
    assert after.jobs.names(after.now - 1) == [], "both have ended long ago"
    assert len(after.jobs.names(world.now - 20)) == 2


def test_history_is_bounded():
    world = World(max_runs=2)
    for _ in range(5):
        world.run(10, 0)
        world.tell(100, status="done")
    assert (world.see().runs, len(world.see().history)) == (5, 2)


@pytest.mark.parametrize(
    "data",
    [
        {}, {"job_id": "j"}, {"percent": 5}, {"job_id": 7, "percent": 5}, {"job_id": "", "percent": 5},
        {"job_id": "j" * 257, "percent": 5}, {"job_id": "j", "percent": "5"},
        {"job_id": "j", "percent": True}, {"job_id": "j", "percent": -0.1},
        {"job_id": "j", "percent": 100.1}, {"job_id": "j", "percent": float("nan")},
        {"job_id": "j", "percent": 10**400}, {"job_id": "j", "percent": None},
        {"job_id": "j", "percent": 5, "status": "RUNNING"},
        {"job_id": "j", "percent": 5, "status": ["done"]},
    ],
)  # fmt: skip
def test_what_is_no_progress_is_counted(data):
    assert progress_of({"data": data}) is None
    world = World()
    world._send("etl", "progress", data)
    assert (len(world.jobs), world.jobs.bad_payload) == (0, 1)


@pytest.mark.parametrize("msg", [5, True, ["x"], {}])
def test_words_that_are_no_text_cost_no_progress(msg):
    world = World()
    world.tell(40, msg="step 4")
    world.tell(50, msg=msg)
    assert (world.see().percent, world.see().msg, world.jobs.bad_payload) == (50.0, "step 4", 1)
    world.tell(60, msg=None)
    assert world.jobs.bad_payload == 1


def test_long_words_are_cut():
    assert len(progress_of({"data": {"job_id": "j", "percent": 1, "msg": "x" * 9999}}).msg) == 500


def test_too_many_jobs():
    world = World(max_jobs=2)
    world.tell(1, job_id="a")
    world.tell(1, job_id="b", status="done")
    world.tell(1, job_id="c")
    assert {one.job_id for one in world.jobs.view(world.now)} == {"a", "c"}
    assert world.jobs.evicted == 1
    world.tell(100, job_id="c", status="done")
    world.tell(1, job_id="c")
    world.tell(1, job_id="d")
    assert {one.job_id for one in world.jobs.view(world.now)} == {"c", "d"}, "c runs again"


def test_equal_names_of_two_sources_are_two_jobs():
    world = World()
    world.tell(1, src="a")
    world.tell(2, src="b")
    assert [one.src for one in world.jobs.view(world.now)] == ["a", "b"]
    assert world.jobs.state("a", "load", world.now) == "running"
    assert world.jobs.state("c", "load", world.now) is None


def test_families():
    world = World()
    world.tell(100, status="done")
    found = {one.name: one for one in world.jobs.collect(world.now + 5, unix=100.0)}
    success = found["sidecar_job_last_success_timestamp_seconds"].samples
    assert [(one.labels, one.value) for one in success] == [
        ((("source", "etl"), ("job_id", "load")), 95.0)
    ]
    assert {s.labels[0][1]: s.value for s in found["sidecar_jobs"].samples}["done"] == 1


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["running", "running", "done", "failed", "goodbye", "join", "leave"]),
        st.floats(0, 100),
        st.floats(0, 500),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(_STEPS)
def test_whatever_happens_the_books_are_in_order(steps):
    world = World(missing_after=200, max_runs=5)
    open_now = 0
    for what, percent, seconds in steps:
        world.after(seconds)
        if what == "join":
            open_now += 1
            world.join()
        elif what == "leave":
            if open_now:
                open_now -= 1
                world.leave()
        elif what == "goodbye":
            world.goodbye()
        else:
            world.tell(percent, status=what)
            said = {what, "stalled"} if what == "running" else {what}
            assert world.state() in said, "it has just said so"
        for seen in world.jobs.view(world.now):
            ended = seen.state in ("died", "failed", "done")
            assert seen.state in STATES and (seen.ended is not None) == ended
            assert (seen.reason is not None) == (seen.state in ("died", "failed", "stalled"))
            assert (seen.eta_s is None) == (seen.eta_method is None)
            assert seen.eta_s is None or (seen.eta_s > 0 and seen.state == "running")
            assert seen.started <= seen.updated <= world.now
            assert len(seen.history) <= min(seen.runs, 5)
            assert all(run.duration_s >= 0 for run in seen.history)


@pytest.mark.parametrize("ended_ts, seconds, state", [
    (1_000_500, 1, "done"),       # what was sent before the end, and comes after it
    (2**53 - 1, 1, "running"),    # an end whose clock ran ahead hides no later run
    (1_000_000 + 3_600_000, 1, "running"),
    (1_000_500, 120, "running"),  # too late to have been overtaken
])
def test_an_end_hides_what_it_has_overtaken_and_no_more(ended_ts, seconds, state):
    world = World()

    def tell(ts, **data):
        line = frame(1, src="etl", type="progress", data={"job_id": "load", **data})
        message = batch([line.replace(b"1700000000001", b"%d" % ts)])
        world.jobs.observe(message, world.now)

    tell(ended_ts, percent=100, status="done")
    world.after(seconds)
    tell(1_000_000, percent=20)
    assert world.state() == state


def test_no_percent_is_minus_nothing():
    assert str(progress_of({"data": {"job_id": "load", "percent": -0.0}}).percent) == "0.0"
