"""``modeseek launch``: the same training command on every host, by whatever starts processes there.

A run finds its other hosts by itself, so a launcher has little to do: it starts one process on each
and, where one dies, all of them again. What would be given to it is printed with ``--dry-run``.
"""

import shlex
import shutil
import subprocess
from dataclasses import dataclass

import tyro
from rich.console import Console

from experiments.catalogue import check_known
from modeseek.processes import supervise

PORT = 8475
"""Where the processes of a JobSet meet."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a launcher is given.

    Attributes:
        command: the program and its arguments.
        text: what it reads; nothing if empty.
    """

    command: tuple[str, ...]
    text: str = ""

    def shown(self) -> str:
        """As one would type it, and what one would save first."""
        line = shlex.join(self.command)
        return line if not self.text else f"{line} <<'END'\n{self.text}END"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is started."""

    dry_run: bool = False
    """Print what would be started, and start nothing."""


@dataclass(frozen=True, kw_only=True)
class TpuPod(Place):
    """On every worker of a TPU slice, by gcloud."""

    name: str
    """Of the slice."""
    zone: str
    """Where it is."""
    project: str | None = None
    """Of the slice; gcloud's own when not given."""
    folder: str = "modeseek"
    """Of the clone on the workers, with its .venv."""

    def given(self, line: list[str]) -> Given:
        """One ssh to all workers at once."""
        there = f"cd {shlex.quote(self.folder)} && exec .venv/bin/modeseek {shlex.join(line)}"
        project = [] if self.project is None else [f"--project={self.project}"]
        ssh = ("gcloud", "compute", "tpus", "tpu-vm", "ssh", self.name, *project)
        every = (f"--zone={self.zone}", "--worker=all", "--batch-size=all")
        return Given(command=(*ssh, *every, f"--command={there}"))


@dataclass(frozen=True, kw_only=True)
class Slurm(Place):
    """On some nodes of a Slurm cluster, one process with all GPUs of its node on each."""

    nodes: int = 1
    """How many."""
    gpus: int = 8
    """Of each node."""
    time: str = "24:00:00"
    """After which the job is stopped; it goes on by itself as a new one."""
    partition: str | None = None
    """Where; the usual one when not given."""
    restarts: int = 20
    """How often the job may go on after it was stopped, or after a process has died."""

    def given(self, line: list[str]) -> Given:
        """A batch script."""
        partition = "" if self.partition is None else f"#SBATCH --partition={self.partition}\n"
        return Given(
            command=("sbatch",),
            text=(
                "#!/bin/bash\n"
                f"#SBATCH --job-name=modeseek-{line[1] if len(line) > 1 else line[0]}\n"
                f"#SBATCH --nodes={self.nodes}\n"
                "#SBATCH --ntasks-per-node=1\n"
                f"#SBATCH --gpus-per-node={self.gpus}\n"
                f"#SBATCH --time={self.time}\n"
                f"{partition}"
                "#SBATCH --requeue\n"
                "#SBATCH --open-mode=append\n"
                "# Two minutes before the end, to save the step at hand.\n"
                "#SBATCH --signal=TERM@120\n"
                "\n"
                "# Who dies takes the others along by itself, and says so first.\n"
                f"srun --kill-on-bad-exit=0 --wait=120 .venv/bin/modeseek {shlex.join(line)}\n"
                "status=$?\n"
                "# 0 is done and 2 cannot be done; anything else goes on where it was saved.\n"
                "if [ $status -ne 0 ] && [ $status -ne 2 ] && "
                f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.restarts} ]; then\n'
                '  scontrol requeue "$SLURM_JOB_ID"\n'
                "fi\n"
                "exit $status\n"
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Gke(Place):
    """In a Kubernetes cluster with JobSet, a pod on each host of a TPU slice or each GPU node."""

    image: str
    """With this clone and its .venv as working directory."""
    hosts: int
    """How many; a slice has the number that belongs to its topology."""
    name: str = "modeseek"
    """Of the job."""
    accelerator: str = "tpu-v5-lite-podslice"
    """As the nodes are labelled."""
    topology: str | None = None
    """Of the slice, such as 4x4; GPUs have none."""
    chips: int = 4
    """Of each host."""
    claim: str = "shared"
    """Volume claim of a disk that all pods share, mounted at /shared: give an --out there."""
    restarts: int = 20
    """How often all may be started again."""

    def given(self, line: list[str]) -> Given:
        """A JobSet."""
        kind = "gke-accelerator" if self.topology is None else "gke-tpu-accelerator"
        resource = "nvidia.com/gpu" if self.topology is None else "google.com/tpu"
        topology = (
            ""
            if self.topology is None
            else f"\n              cloud.google.com/gke-tpu-topology: {self.topology}"
        )
        words = ", ".join(quoted(word) for word in (".venv/bin/modeseek", *line))
        return Given(
            command=("kubectl", "apply", "-f", "-"),
            text=f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {self.name}
spec:
  failurePolicy:
    maxRestarts: {self.restarts}
  replicatedJobs:
  - name: hosts
    replicas: 1
    template:
      spec:
        parallelism: {self.hosts}
        completions: {self.hosts}
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120
            nodeSelector:
              cloud.google.com/{kind}: {self.accelerator}{topology}
            containers:
            - name: modeseek
              image: {self.image}
              command: [{words}]
              env:
              - name: MODESEEK_COORDINATOR
                value: {self.name}-hosts-0-0.{self.name}:{PORT}
              - name: MODESEEK_COUNT
                value: "{self.hosts}"
              - name: MODESEEK_INDEX
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
              resources:
                limits:
                  {resource}: {self.chips}
              volumeMounts:
              - name: shared
                mountPath: /shared
            volumes:
            - name: shared
              persistentVolumeClaim:
                claimName: {self.claim}
""",
        )


@dataclass(frozen=True, kw_only=True)
class Local(Place):
    """As several processes of this machine's CPU, to see what many hosts would do."""

    processes: int = 2
    """How many."""
    devices: int = 1
    """Simulated ones of each."""
    restarts: int = 0
    """How often all are started again when one has died."""

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("devices", 1), ("restarts", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"Local.{name} is {value}; it must be at least {least}.")


PLACES: dict[str, type[TpuPod | Slurm | Gke | Local]] = {
    "tpu-pod": TpuPod,
    "slurm": Slurm,
    "gke": Gke,
    "local": Local,
}

HELP = """Start a training command on every host.

PLACE is the first word of the line: {places}. The command follows behind two dashes:

modeseek launch slurm --nodes 4 -- train dpo --model DIR --data FILE --out DIR"""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    ours, line = parted(arguments)
    name = ours[0] if ours and not ours[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(ours):
        raise ValueError(f"name a place: {', '.join(PLACES)}.")
    if name is not None:
        check_known("place", name, PLACES)
    place = tyro.cli(
        PLACES[name or "local"],
        args=ours[1:] if name else ours,
        prog=f"modeseek launch {name or 'PLACE'}",
        description=None if name else HELP.format(places=", ".join(PLACES)),
    )
    check_line(line)
    if isinstance(place, Local):
        if place.dry_run:
            for command in local_lines(place, line):
                print(command)
            return
        say = Console(highlight=False).print
        raise SystemExit(supervise(line, place.processes, place.devices, place.restarts, say))
    given = place.given(line)
    if place.dry_run:
        print(given.shown())
        return
    program = given.command[0]
    if shutil.which(program) is None:
        raise ValueError(
            f"{program} is not installed here: see with --dry-run what it would be given, and give "
            "it where it is."
        )
    raise SystemExit(
        subprocess.run(given.command, input=given.text or None, text=True, check=False).returncode
    )


def parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is said to launch, and the line behind the dashes."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def check_line(line: list[str]) -> None:
    """Raise ValueError unless a line is one that several hosts can be given."""
    if not line or line[0] not in ("train", "evaluate"):
        said = shlex.join(line) or "nothing"
        raise ValueError(
            f"behind the two dashes stands {said}: give the line of a run there, such as "
            "`-- train dpo --model DIR --data FILE --out DIR`."
        )
    if any(word.split("=")[0].startswith("--hosts.") for word in line):
        raise ValueError("--hosts is what launch gives to every process: leave it out.")


def quoted(word: str) -> str:
    """A word of a list in YAML."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def local_lines(place: Local, line: list[str]) -> list[str]:
    """What each process would be started with by hand."""
    return [
        f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={place.devices} modeseek {shlex.join(line)} "
        f"--hosts.coordinator 127.0.0.1:{PORT} --hosts.count {place.processes} "
        f"--hosts.index {index}{' &' if index + 1 < place.processes else ''}"
        for index in range(place.processes)
    ]
