"""A real Slurm of one's own on this host, for tests: two nodes, pretend GPUs, no systemd, nothing outside its folder.

    eval "$(python tests/slurm/cluster.py start)"   # sbatch, squeue, ... of this shell talk to it
    python tests/slurm/cluster.py stop

Needs root and Debian's slurmctld, slurmd, slurm-client and munge. It has a key and a socket of munge and ports of its
own. The nodes' names are put into /etc/hosts, for MASTER_ADDR, and taken out again.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path


NODES = ("winnow0", "winnow1")
GPUS = 8  # of a node: empty files, which are counted and never opened
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_HOSTS = Path("/etc/hosts")

# Latencies are those of tests: Slurm's own are seconds to minutes. Memory and CPUs are claimed, not there.
_CONF = """\
ClusterName=winnow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
SlurmdParameters=config_overrides
MaxJobCount=100000
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=5
KillWait=2
Waittime=0
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; "" if there can."""
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no Slurm here ({', '.join(absent)}): apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "a Slurm of one's own needs root"


class Cluster:
    """One cluster, in a folder.

    Args:
        folder: all its files; short, for the name of a socket is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._mark = f"# {folder}"

    def start(self) -> None:
        """Start it, and wait until its nodes are idle. Raises RuntimeError: it cannot, and why."""
        if why := missing():
            raise RuntimeError(why)
        self._write()
        os.environ["SLURM_CONF"] = str(self.conf)
        munge = [f"--{name}={self.folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "log-file")]
        munge += [f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munge.seed"]
        _run("munged", "--force", "--num-threads=2", *munge)
        with _HOSTS.open("a") as hosts:
            hosts.write("".join(f"127.0.0.1 {node} {self._mark}\n" for node in NODES))
        _run("slurmctld", "-f", str(self.conf))
        for node in NODES:
            self.start_node(node)
        self._wait_until_idle()

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        _run("slurmd", "-f", str(self.conf), "-N", node)

    def kill_node(self, node: str) -> None:
        """What is left when a node loses its power: nothing."""
        log = str(self.folder / f"slurmd.{node}.log")
        steps = [int(process.name) for process in Path("/proc").glob("[0-9]*") if _is_step(process, log)]
        daemon = self._pid(f"slurmd.{node}", "slurmd")
        dead = [daemon] if daemon else []
        for step in steps:
            dead += [step, *_descendants(step)]
        for pid in dead:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # As it would find out by itself, some twenty seconds later
        _run("scontrol", "update", f"nodename={node}", "state=down", "reason=dead")

    def stop(self) -> None:
        """End its jobs and what was started, by process id; remove the folder."""
        os.environ["SLURM_CONF"] = str(self.conf)
        if self._pid("slurmctld", "slurmctld"):
            subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=20)
            _wait(lambda: not subprocess.run(["squeue", "--noheader"], capture_output=True, timeout=20).stdout, 10)
        for names in (["slurmctld", *(f"slurmd.{node}" for node in NODES)], ["munged"]):
            self._end(names)
        lines = _HOSTS.read_text().splitlines(keepends=True)
        if any(self._mark in line for line in lines):  # written in place: it may be a mount, which cannot be renamed
            _HOSTS.write_text("".join(line for line in lines if self._mark not in line))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self) -> None:
        for name in ("state", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munge wants its socket to be within everybody's reach
        for number in range(GPUS):
            (self.folder / "dev" / f"gpu{number}").touch()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1024000 "
            f"Gres=gpu:{GPUS} State=UNKNOWN"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        self.conf.write_text(_CONF.format(host=host, ports=ports, folder=self.folder, nodes=nodes))
        gres = f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/dev/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gres)

    def _wait_until_idle(self) -> None:
        def idle() -> bool:
            shown = subprocess.run(
                ["sinfo", "--noheader", "-N", "-p", "main", "-o", "%t"], capture_output=True, text=True
            )
            return shown.stdout.split() == ["idle"] * len(NODES)

        if not _wait(idle, 30):
            logs = "".join(file.read_text()[-1500:] for file in sorted(self.folder.glob("slurm*.log")))
            raise RuntimeError(f"its nodes do not come up:\n{logs}")

    def _pid(self, name: str, program: str) -> int:
        """Of a daemon that lives; 0 if it does not, or its number is another's by now."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / f"{name}.pid").read_text())
            state = Path(f"/proc/{pid}/stat").read_text()
            if f"({program})" in state and state.rsplit(")", 1)[1].split()[0] != "Z":
                return pid
        return 0

    def _end(self, names: list[str]) -> None:
        def left() -> list[int]:
            return [pid for name in names if (pid := self._pid(name, name.partition(".")[0]))]

        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in left():
                os.kill(pid, number)
            if _wait(lambda: not left(), 10):
                return


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{command[0]} does not start: {done.stderr.strip()}")


def _wait(reached, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _is_step(process: Path, log: str) -> bool:
    """Whether it is a slurmstepd that writes this log."""
    with suppress(OSError):
        if process.joinpath("comm").read_text().strip() == "slurmstepd":
            return any(os.readlink(handle) == log for handle in process.joinpath("fd").iterdir())
    return False


def _descendants(pid: int) -> list[int]:
    with suppress(OSError):
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [one for child in children for one in (child, *_descendants(child))]
    return []


def main() -> None:
    """Run the command line."""
    folder = Path(tempfile.gettempdir()) / "winnow-slurm"
    cluster = Cluster(folder)
    match sys.argv[1:]:
        case ["start"]:
            try:
                cluster.start()
            except RuntimeError as error:
                sys.exit(str(error))
            print(f"export SLURM_CONF={cluster.conf}")
        case ["stop"]:
            cluster.stop()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
