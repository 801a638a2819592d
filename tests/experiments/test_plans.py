"""The tables of plans: every row asked for once, layouts that fill the slice, gaps said."""

import dataclasses
import json

import pytest

from experiments.plans.__main__ import ROWS, TABLES, read_rows
from experiments.plans.rows import BATCH, SLICES, Row, layouts, wanted
from experiments.plans.tables import KINDS, markdown
from llm.model.architecture import architecture_from_config
from llm.plan.public import PUBLIC
from llm.plan.tables import as_json, from_json
from llm.plan.topology import read_topology
from tests.llm.plan.test_plan import made


def test_every_model_method_and_slice_is_asked_for_once():
    keys = [row.key for row in wanted()]
    assert len(keys) == len(set(keys)) == len(PUBLIC) * 3 * 9
    for chips, slices in SLICES.items():
        assert [read_topology(name).chips for name in slices] == [chips] * 3
        assert [name.partition(":")[0] for name in slices] == list(KINDS)


@pytest.mark.parametrize("key", ["llama-3-8b dpo v5e:8x8", "llama-3-70b grpo v6e:16x16"])
def test_layouts_use_all_chips_and_end_with_the_smallest(key):
    row = next(row for row in wanted() if row.key == key)
    topology, architecture = (
        read_topology(row.topology),
        architecture_from_config(PUBLIC[row.model]),
    )
    found = list(layouts(row, architecture, topology))
    for settings in found:
        mesh = settings.mesh
        assert (mesh.data or 1) * (mesh.fsdp or 1) * mesh.tensor == topology.chips
        assert settings.batch == BATCH and settings.packing.max_tokens % 512 == 0
    assert found[-1].remat == "full"
    assert found[-1].packing.max_tokens == found[-1].packing.row_length


def test_tables_say_what_fits_what_it_costs_and_what_is_missing():
    rows = list(wanted())
    fits = as_json(dataclasses.replace(made(), topology="v5e:2x4"))
    large = as_json(made(refused="too much", parts=(), needs=20.0 * 2**30))
    text = markdown({rows[0].key: fits, rows[1].key: large}, rows)
    assert f"2 of {len(rows)} rows" in text
    lines = [line for line in text.splitlines() if line.startswith("| v5e")]
    assert any("| yes | 0.5 s | step: arithmetic | 2,000,000 | 25% |" in line for line in lines)
    assert any("| 20.0 of 16.0 GiB | **no** |" in line for line in lines)
    assert "| pythia-1.4b | dpo | v5e |  | 0.001 (25%) |  |" in text


def test_the_tables_that_are_kept_are_those_of_the_rows_that_are_kept():
    kept = read_rows(ROWS)
    assert set(kept) == {row.key for row in wanted()}
    assert TABLES.read_text(encoding="utf-8") == markdown(kept, list(wanted()))
    for key, row in kept.items():
        # A compilation that succeeded, or the compiler's own refusal.
        assert ("step_seconds" in row) == (row["refused"] is None), key
        assert row["fits"] == (row["refused"] is None and row["peak"] <= row["usable"])
        if row["refused"] is None:
            plan = from_json(row)
            for part in plan.parts:
                assert plan.counted(part) == pytest.approx(part.total, rel=0.05), (key, part.name)


def test_rows_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert read_rows(file) == {}
    file.write_text("\n".join(json.dumps({"key": "a", "n": n}) for n in (1, 2)) + "\n")
    assert read_rows(file) == {"a": {"key": "a", "n": 2}}
    assert Row("m", "r", "t").key == "m r t"
