"""Plans of small runs on eight simulated devices, as JSON: run in a process of its own.

``python -m tests.llm.plan.planned_on_meshes FILE CASE...``, with JAX_NUM_CPU_DEVICES=8.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm.model.architecture import architecture_from_config
from llm.plan.abstract import Question, abstract_run
from llm.plan.make import estimated, plan
from llm.plan.tables import as_json
from llm.plan.topology import read_topology
from llm.settings import (
    TRAIN_RECIPES,
    AdapterSettings,
    MeshSettings,
    SamplingSettings,
    Training,
)
from llm.workload import Workload

ARCHITECTURE = architecture_from_config(
    {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_hidden_layers": 3,
        "max_position_embeddings": 2048,
        "vocab_size": 1024,
        "rope_theta": 10000.0,
    }
)
LOAD = Workload(prompts=1000, prompt_tokens=64.0, response_tokens=32.0, responses=2, longest=128)

CASES: dict[str, tuple[str, tuple[int, int, int], int, dict[str, Any]]] = {
    "copies": ("sft", (8, 1, 1), 32, {}),
    "pieces": ("dpo", (1, 8, 1), 32, {}),
    "all": ("dpo", (2, 2, 2), 8, {"reference": "model", "remat": "full"}),
    "adapters": ("dpo", (1, 2, 4), 4, {"adapters": AdapterSettings(rank=4)}),
    "critic": ("ppo", (1, 4, 2), 16, {}),
    "kto": ("kto", (1, 8, 1), 32, {}),
    "reward": ("reward_model", (2, 4, 1), 8, {}),
}
"""Recipe, mesh, groups of a step, and what else of a run."""


def planned(case: str) -> dict[str, Any]:
    """What a plan says, what it is counted to be, and what the tables sum to."""
    name, (data, fsdp, tensor), batch, changes = CASES[case]
    settings: dict[str, Any] = {
        "model": "x",
        "batch": batch,
        "mesh": MeshSettings(data=data, fsdp=fsdp, tensor=tensor),
        "sampling": SamplingSettings(max_new_tokens=48, rows=16),
    }
    training = Training(**settings | changes)
    training = with_two_rows(training)
    topology = read_topology("cpu:8")
    question = Question(
        architecture=ARCHITECTURE,
        name=name,
        recipe=TRAIN_RECIPES[name],
        settings=training,
        load=LOAD,
        topology=topology,
    )
    found, run = plan(question), abstract_run(question)
    count = {"always": 0.0, "training": 0.0, "sampling": 0.0}
    for item in estimated(run):
        count[item.when] += item.bytes
    return as_json(found) | {
        "counted": {part.name: found.counted(part) for part in found.parts},
        "held": {part.name: found.held(part.name) for part in found.parts},
        "estimated": count,
    }


def with_two_rows(training: Training) -> Training:
    """In micro-batches of two rows on a shard."""
    return replace(training, packing=replace(training.packing, max_tokens=2 * 128))


def main() -> None:
    """Write what was found."""
    file, *cases = sys.argv[1:]
    Path(file).write_text(json.dumps({case: planned(case) for case in cases}))


if __name__ == "__main__":
    main()
