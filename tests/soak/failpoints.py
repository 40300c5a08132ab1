"""The faults from inside: failpoints of a program that has them (make MODE=fail), set for a while."""
import os
import signal
import subprocess
import time

from faults import kind
from program import ROLAG
from test_failpoints import errnos, read_points

POINTS = read_points()
FIRED = "failpoint fired"


def program_has_them():
    """It refuses a point that there is not; one without failpoints does not look."""
    done = subprocess.run([ROLAG, "version"], env={**os.environ, "ROLAG_FAILPOINTS": "none=kill"}, check=False,
                          capture_output=True)
    return done.returncode == 2


def with_point(w, rng, point, action):
    """rolag runs with this set, in both roles and in each new process of theirs; outside something may happen,
    too. How it ends is the point's matter (a role may be told to stop for good): what is then there is not."""
    w.run.stop()
    text = f"{point.name}={action}@{rng.choice([1, 1, 2, 3, rng.randint(4, 200)])}"
    w.start({"ROLAG_FAILPOINTS": text})
    outside = rng.choice([None, None, w.to_core.reset, w.to_warehouse.reset,
                          lambda: w.send("capture", signal.SIGKILL), lambda: w.send("apply", signal.SIGKILL)])
    time.sleep(rng.uniform(1, 4))
    if outside is not None:
        outside()
    w.hold(rng.uniform(1, 4))
    w.note_point(text, len(w.run.lines(FIRED)))
    w.run.stop()
    w.start()


def some_points(w, rng, can, actions):
    for point in rng.sample([p for p in POINTS if can(p)], 4):
        with_point(w, rng, point, rng.choice(actions(point)))


def add_kinds():
    """To the schedule, where the program has failpoints."""
    @kind
    def failpoints_kill(w, rng):        # pylint: disable=unused-variable
        some_points(w, rng, lambda p: True, lambda p: ["kill"])

    @kind
    def failpoints_fail(w, rng):        # pylint: disable=unused-variable
        some_points(w, rng, lambda p: p.can & {"FP_ERRNO", "FP_SHORT"},
                    lambda p: errnos(p.name) if "FP_ERRNO" in p.can else ["short"])

    @kind
    def failpoints_disconnect(w, rng):  # pylint: disable=unused-variable
        some_points(w, rng, lambda p: "FP_FD" in p.can, lambda p: ["disconnect", f"delay:{rng.randint(50, 2000)}"])
