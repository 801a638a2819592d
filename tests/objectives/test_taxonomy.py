"""The taxonomy table has a row for everything and says only what the classes say."""

from objectives import OBJECTIVES, RECIPES
from objectives.taxonomy import HEADINGS, taxonomy_markdown, taxonomy_rows


def test_every_objective_has_a_row_and_every_recipe_a_place():
    rows = taxonomy_rows()
    assert [row.objective for row in rows] == list(OBJECTIVES)
    placed = [name for row in rows for name in (*row.offline, *row.online)]
    assert sorted(placed) == sorted(RECIPES)


def test_a_row_says_what_its_class_and_recipes_say():
    for row in taxonomy_rows():
        cls = OBJECTIVES[row.objective]
        assert row.negative_gradient == cls.negative_gradient
        assert row.mode_seeking == cls.mode_seeking
        assert row.family in ("supervised", "contrastive", "policy_gradient")
        assert all(RECIPES[name].on_policy for name in row.online)
        assert not any(RECIPES[name].on_policy for name in row.offline)
        assert all(RECIPES[name].reuse.inner_steps > 1 for name in row.reused)


def test_the_markdown_is_one_rectangular_table():
    lines = taxonomy_markdown().splitlines()
    assert len(lines) == len(OBJECTIVES) + 2
    assert {line.count("|") for line in lines} == {len(HEADINGS) + 1}
