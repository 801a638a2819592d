"""Where a process stands, as its flags, its variables or its TPU say."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llm.hosts.places import Place, check_alone, find_place, first_node
from llm.hosts.settings import HostSettings

GIVEN = HostSettings(coordinator="host:1234", count=4, index=2)
SLURM = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
PORT = 61440 + 12345 % 4096


def test_alone_where_nothing_says_otherwise():
    assert find_place(HostSettings(), {}, tpu=False) is None
    assert find_place(HostSettings(coordinator="host:1", count=1, index=0), {}, tpu=False) is None


def test_what_is_given_counts_before_what_is_found():
    assert find_place(GIVEN, SLURM, tpu=True) == Place("host", 1234, 4, 2)
    variables = {
        "MODESEEK_COORDINATOR": "[::1]:99",
        "MODESEEK_COUNT": "2",
        "MODESEEK_INDEX": "1",
    }
    assert find_place(GIVEN, variables, tpu=False) == Place("host", 1234, 4, 2)
    assert find_place(HostSettings(), variables | SLURM, tpu=False) == Place("::1", 99, 2, 1)


@pytest.mark.parametrize("change", [{"MODESEEK_INDEX": "two"}, {"MODESEEK_INDEX": "2"}, {}])
def test_variables_that_do_not_say_it(change):
    variables = {"MODESEEK_COORDINATOR": "host:99", "MODESEEK_COUNT": "2"} | change
    with pytest.raises(ValueError, match=r"MODESEEK_COORDINATOR=host:99.*set MODESEEK_COORDINATOR"):
        find_place(HostSettings(), variables, tpu=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"coordinator": "host"}, "HOST:PORT"),
        ({"count": 2}, "given together"),
        ({"coordinator": "host:1", "count": 2, "index": 2}, "from 0 to count - 1"),
        ({"join_timeout": 0}, "at least 1 second"),
    ],
)
def test_settings_that_fit_nothing_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        HostSettings(**fields)


def test_a_task_of_slurm_has_the_gpus_of_its_node_unless_it_shares_them():
    words = "found in Slurm's variables"
    assert find_place(HostSettings(), SLURM, tpu=False) == Place("gpu07", PORT, 4, 3, None, words)
    shared = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
    assert find_place(HostSettings(), shared, tpu=False) == Place("gpu07", PORT, 4, 3, (1,), words)
    assert find_place(HostSettings(), SLURM | {"SLURM_NTASKS": "1"}, tpu=False) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-015],host2", "node001"),
        ("node[001,007-015]", "node001"),
        ("rack[3-4]-node,other", "rack3-node"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first


def test_a_worker_of_a_slice_on_gke():
    names = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}
    found = "found in the variables of GKE"
    assert find_place(HostSettings(), names, tpu=True) == Place("a", 8475, 4, 2, None, found)
    assert find_place(HostSettings(), names, tpu=False) is None
    several = names | {
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "first:8080",
    }
    assert find_place(HostSettings(), several, tpu=True) == Place("first", 8475, 8, 6, None, found)
    assert find_place(HostSettings(), {"TPU_WORKER_HOSTNAMES": "localhost"}, tpu=True) is None


ATTRIBUTES = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\n"
    "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8081'\n",
}


@pytest.fixture
def server() -> Iterator[str]:
    """A metadata server."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = ATTRIBUTES.get(self.path.rsplit("/", 1)[1])
            known = found is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write((found or "").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_a_worker_of_a_slice_on_a_tpu_vm(server, monkeypatch):
    names = {"GCE_METADATA_IP": server}
    found = "found in the metadata of the TPU VM"
    assert find_place(HostSettings(), names, tpu=True) == Place("10.0.0.1", 8475, 4, 3, None, found)
    monkeypatch.setitem(ATTRIBUTES, "tpu-env", "ACCELERATOR_TYPE: 'v5litepod-8'")
    assert find_place(HostSettings(), names, tpu=True) == Place("10.0.0.2", 8475, 2, 1, None, found)
    monkeypatch.delitem(ATTRIBUTES, "worker-network-endpoints")
    assert find_place(HostSettings(), names, tpu=True) is None
    assert find_place(HostSettings(), names | {"TPU_SKIP_MDS_QUERY": "1"}, tpu=True) is None


def test_a_command_of_one_process_is_not_started_on_many(monkeypatch):
    check_alone("active")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match="active is done by one process, and this is process 3 of 4"
    ):
        check_alone("active")
