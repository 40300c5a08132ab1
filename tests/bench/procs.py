"""What processes cost: CPU seconds and proportional memory, sampled while they live."""
import os
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process so far; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    except OSError:
        return None


def pss_bytes(pid):
    """Its share of memory: private pages, and shared ones divided by their users."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as f:
            for line in f:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Watch:
    """Samples the processes that look() names: {label: [pids]}; CPU by label, the peak of their memory's sum.

    A process counts from when it is first seen; what it had used before belongs to others.
    """

    def __init__(self, look, memory_of=()):
        self.look, self.memory_of = look, memory_of
        self.first, self.last, self.label, self.peak = {}, {}, {}, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._sample(fresh=False)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self._sample()

    def _run(self):
        while not self.done.wait(0.1):
            self._sample()

    def _sample(self, fresh=True):
        memory = 0
        for label, pids in self.look().items():
            for pid in pids:
                used = cpu_seconds(pid)
                if used is None:
                    continue
                self.first.setdefault(pid, 0.0 if fresh else used)
                self.last[pid], self.label[pid] = used, label
                if label in self.memory_of:
                    memory += pss_bytes(pid)
        self.peak = max(self.peak, memory)

    def cpu(self):
        """{label: CPU seconds}."""
        found = {}
        for pid, label in self.label.items():
            found[label] = found.get(label, 0.0) + self.last[pid] - self.first[pid]
        return found


def children(pid):
    """Direct children of a process."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
            return [int(n) for n in f.read().split()]
    except OSError:
        return []


def wait_until(condition, what, seconds=1800, pause=0.02):
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(pause)
