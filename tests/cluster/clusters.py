"""A real SLURM, a real Ray and a real SSH server, all on this machine, for as long as a block lasts."""

import getpass
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "sshd": "openssh-server",
}

SLURM_CONF = """\
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/ctld.pid
SlurmdPidFile={at}/d-%n.pid
SlurmctldLogFile={at}/ctld.log
SlurmdLogFile={at}/d-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=30
SlurmdTimeout=20
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

SSHD_CONF = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {at}/host_key
AuthorizedKeysFile {at}/key.pub
PidFile {at}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
MaxStartups 100
"""


def lacking():
    """What to install, "" if all is there."""
    path = os.environ["PATH"] + ":/usr/sbin"
    absent = [package for program, package in NEEDS.items() if not shutil.which(program, path=path)]
    absent_here = [name for name in ("ray", "submitit", "dvc_ssh") if importlib.util.find_spec(name) is None]
    return "; ".join(
        f"{how} {' '.join(names)}"
        for how, names in (("apt-get install", absent), ("pip install", [n.replace("_", "-") for n in absent_here]))
        if names
    )


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "a service did not come up"
        time.sleep(0.2)


def end(processes):
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Slurm:
    """Two nodes of one CPU; `environment` is what clients need."""

    def __init__(self, at):
        self.at, self.nodes = at, {}
        self.environment = {"SLURM_CONF": str(at / "slurm.conf")}
        self.munge = self.control = None

    def start(self):
        (self.at / "state").mkdir(parents=True)
        self.at.chmod(0o755)
        ports = free_ports(3)
        text = SLURM_CONF.format(host=socket.gethostname(), at=self.at, ports=ports)
        (self.at / "slurm.conf").write_text(text)
        key = self.at / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": self.at / "munge.socket", "pid-file": self.at / "munge.pid"}
        files |= {"log-file": self.at / "munge.log", "seed-file": self.at / "munge.seed"}
        command = ["/usr/sbin/munged", "--force", "--foreground", *(f"--{k}={v}" for k, v in files.items())]
        self.munge = self._start("munged", command)
        until((self.at / "munge.socket").exists)
        self.control = self._start("slurmctld", ["/usr/sbin/slurmctld", "-D"])
        for name in ("n1", "n2"):
            self.start_node(name)
        until(lambda: self.idle() == 2)

    def _start(self, name, command):
        log = (self.at / f"{name}.out").open("ab")
        return subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)

    def start_node(self, name):
        self.nodes[name] = self._start(name, ["/usr/sbin/slurmd", "-D", "-N", name])

    def idle(self):
        asked = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.split().count("idle")

    def stop(self):
        subprocess.run(
            ["scancel", "--user", getpass.getuser()],
            env=os.environ | self.environment,
            capture_output=True,
            check=False,
        )
        with suppress(AssertionError):
            until(lambda: self.idle() == 2, 40)
        end([*self.nodes.values(), *filter(None, [self.control, self.munge])])


class Ray:
    """A head without CPUs to give, and two nodes of one CPU."""

    def __init__(self, at):
        self.at, self.processes = at, {}
        self.environment = {"RAY_TMPDIR": str(at), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        # A head asks for a token if this account has one, and nodes bring it only if told to.
        self.environment |= {"RAY_AUTH_MODE": "disabled"}
        # Two cores that others share start three nodes slowly.
        slow = {"raylet_start_wait_time_s": 60, "health_check_timeout_ms": 60_000, "health_check_period_ms": 5_000}
        self.environment |= {f"RAY_{name}": str(value) for name, value in slow.items()}

    def start(self):
        self.at.mkdir(parents=True)
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.insist_on("head", "--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false")
        for name in ("n1", "n2"):
            self.insist_on(name, f"--address={self.address}", "--num-cpus=1")

    def insist_on(self, name, *options):
        """Start a node again while it ends at once, as one does whose agent is not up within 15 s."""

        def is_up():
            if self.processes[name].poll() is not None:
                self.end_node(name)
                self.start_node(name, *options)
            return "Ray runtime started" in (self.at / f"{name}.out").read_text()

        self.start_node(name, *options)
        until(is_up, 900)

    def start_node(self, name, *options):
        ray = Path(sys.executable).parent / "ray"
        log = (self.at / f"{name}.out").open("ab")
        command = [ray, "start", "--block", "--node-ip-address=127.0.0.1", "--memory=4000000000"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats", f"--node-name={name}", *options]
        env = os.environ | self.environment
        self.processes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def end_node(self, name):
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def stop(self):
        # A node's processes are its session's; `ray stop` would end those of others too.
        for process in reversed(self.processes.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for name, process in self.processes.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            self.end_node(name)


class Ssh:
    """A server on loopback that knows one key."""

    def __init__(self, at):
        self.at, self.process = at, None

    def start(self):
        self.at.mkdir(parents=True)
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.at / name], check=True)
        (self.port,) = free_ports(1)
        (self.at / "sshd_config").write_text(SSHD_CONF.format(port=self.port, at=self.at))
        Path("/run/sshd").mkdir(exist_ok=True)
        self.serve()
        options = f"-i {self.at / 'key'} -p {self.port} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        self.environment = {"GIT_SSH_COMMAND": f"ssh {options} -o LogLevel=ERROR -o ConnectTimeout=5"}

    def serve(self):
        log = (self.at / "sshd.out").open("ab")
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", self.at / "sshd_config"], stdout=log, stderr=log)
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", self.port)))

    def stop(self):
        end([self.process])


@contextmanager
def running(*services):
    started = []
    try:
        for service in services:
            started.append(service)
            service.start()
        yield
    finally:
        for service in reversed(started):
            service.stop()
