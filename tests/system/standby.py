"""A physical standby of a cluster under test."""
import os

from cluster import Cluster


def make_standby(primary, port=5432):
    """Of it as it is now, with its settings; not started."""
    standby = Cluster("standby", port, settings=dict(primary.settings))
    standby._run("pg_basebackup", "-h", primary.socket, "-p", str(primary.port), "-U", "postgres", "-D", standby.data,
                 "-c", "fast", "-R")
    os.chmod(standby.data, 0o700)
    standby._run_command(["mkdir", "-m", "755", standby.socket])
    standby.configure({**standby.settings,
                       "primary_conninfo": f"host={primary.socket} port={primary.port} user=postgres"})
    return standby
