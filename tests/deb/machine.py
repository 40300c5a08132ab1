"""A fresh Debian that boots its own systemd: debootstrap's folder, in namespaces of its own.

It shares the network with us (the clusters listen on 127.0.0.1) and nothing else; it ends with this process.
"""
import os
import shutil
import subprocess
import time

# Within new namespaces, in a cgroup of its own: what a container has before its init begins.
BOOT = r"""
set -e
at=$1 group=/sys/fs/cgroup/systemd/rolag-test-$$
[ -d /sys/fs/cgroup/systemd ] || group=/sys/fs/cgroup/rolag-test-$$
mkdir "$group"
echo $$ > "$group/cgroup.procs"
exec unshare --fork --pid --mount --uts --ipc --cgroup --kill-child bash -s "$at" <<'END'
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
if [ -d /sys/fs/cgroup/systemd ]; then
    mount -t tmpfs tmpfs "$1/sys/fs/cgroup"
    mkdir "$1/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd,xattr cgroup "$1/sys/fs/cgroup/systemd"
else
    mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
fi
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for n in null zero full random urandom tty; do touch "$1/dev/$n"; mount --bind "/dev/$n" "$1/dev/$n"; done
mkdir "$1/dev/pts" "$1/dev/shm"
ln -s /proc/self/fd "$1/dev/fd"
ln -s pts/ptmx "$1/dev/ptmx"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
# Not a chroot: in one, no user namespace can be made, and the units want some.
cd "$1"
pivot_root . mnt
umount -l /mnt
exec env -i container=rolag-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
END
"""


def mirror():
    """The Debian mirror that this machine's apt uses for bookworm."""
    told = subprocess.run(["apt-get", "indextargets", "--format", "$(CODENAME) $(ORIGIN) $(REPO_URI)",
                           "Created-By: Packages"], capture_output=True, text=True, check=True).stdout
    return next((line.split(" ")[2] for line in told.splitlines() if line.startswith("bookworm Debian ")), None)


class Machine:
    def __init__(self, folder):
        self.root, self.init = os.path.join(folder, "root"), None

    def install(self):
        """A minimal Debian with systemd; None, or why it cannot be."""
        uri = mirror()
        if uri is None:
            return "apt knows no mirror of Debian 12"
        done = subprocess.run(["debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", "bookworm",
                               self.root, uri], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"debootstrap failed: {done.stdout[-300:]}{done.stderr[-300:]}"
        return None

    def boot(self):
        """None, or why systemd does not come up."""
        self.starter = subprocess.Popen(["bash", "-c", BOOT, "boot", self.root], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.starter.poll() is not None:
                return f"no systemd in namespaces here: {self.starter.stdout.read()[-500:]}"
            children = subprocess.run(["pgrep", "-P", str(self.starter.pid)], capture_output=True, text=True,
                                      check=False).stdout.split()
            if children:
                self.init = children[0]
                state = self.run("systemctl is-system-running", check=False)[1].strip()
                if state in ("running", "degraded"):
                    return None
            time.sleep(0.5)
        return "systemd did not come up in a minute"

    def run(self, script, check=True, **env):
        """(code, all output) of bash, as root there."""
        words = [f"{k}={v}" for k, v in env.items()]
        done = subprocess.run(["nsenter", "-t", self.init, "-m", "-u", "-i", "-p", "-C", "-r", "-w", "env", "-i",
                               "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", *words,
                               "bash", "-c", script],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=300, check=False)
        if check and done.returncode != 0:
            log = self.run("journalctl --no-pager -n 60 -o cat", check=False)[1]
            raise AssertionError(f"{script}\n{done.stdout}\n--- the journal ---\n{log}")
        return done.returncode, done.stdout

    def path(self, *parts):
        return os.path.join(self.root, *(p.lstrip("/") for p in parts))

    def close(self):
        if self.init is None and getattr(self, "starter", None) is None:
            shutil.rmtree(self.root, ignore_errors=True)
            return
        pid = self.starter.pid
        self.starter.kill()     # its child, the init, goes with it, and with that all there
        self.starter.wait()
        for hierarchy in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup"):
            group = f"{hierarchy}/rolag-test-{pid}"
            for at, folders, _ in sorted(os.walk(group), reverse=True):
                for _ in range(50):
                    try:
                        os.rmdir(at)
                        break
                    except OSError:
                        time.sleep(0.1)
        shutil.rmtree(self.root, ignore_errors=True)
