"""The reference is asked once, its answers are kept, and the key tells when to ask again."""

import json

import numpy as np
import pytest

from llm.reference import cached_reference, data_fingerprint, model_fingerprint
from tests.llm.tiny_runs import in_pieces, make_groups

GROUPS = make_groups((3, 5, 9), (0, 4, 2), (7, 1, 20), (2, 8, 8))


class Model:
    """Scores a token by its id, counts how often it is asked, and can be killed."""

    def __init__(self, patience: int = 1000) -> None:
        self.asked, self.patience = 0, patience

    def __call__(self, batch):
        if self.asked == self.patience:
            raise KeyboardInterrupt
        self.asked += 1
        values = np.zeros(batch.mask.size, np.float32)
        seen = batch.slot < batch.mask.size
        values[batch.slot[seen]] = -batch.target[seen] / 7
        return values.reshape(batch.mask.shape)


def batches(groups=GROUPS):
    return in_pieces(groups).micro_batches(0)


def ask(folder, model, key="k", groups=GROUPS):
    return cached_reference(groups, key, batches(groups), model, folder)


def expected():
    whole = [np.concatenate(group.responses) / np.float32(-7) for group in GROUPS]
    whole[1][[0, 4]] = 0  # without a prompt nothing predicts a first token
    return whole


def test_every_response_token_gets_its_number_in_order(tmp_path):
    found = ask(tmp_path, Model())
    for got, wanted in zip(found, expected(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_second_time_nothing_is_computed(tmp_path):
    first = ask(tmp_path, Model())
    again = ask(tmp_path, Model(patience=0))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_key_is_another_question(tmp_path):
    model = Model()
    ask(tmp_path, model)
    ask(tmp_path, model, key="other")
    assert model.asked == 2 * len(batches())


def test_a_killed_pass_goes_on_where_it_was_with_the_same_batches(tmp_path):
    number = len(batches())
    assert number >= 2
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, Model(patience=1))
    rest = Model()
    found = ask(tmp_path, rest)
    assert rest.asked == number - 1
    for got, wanted in zip(found, ask(tmp_path / "elsewhere", Model()), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_two_runs_that_ask_at_once_both_get_whole_answers(tmp_path):
    class Meddled(Model):
        def __call__(self, batch):
            if self.asked == 0:
                ask(tmp_path, Model())
            return super().__call__(batch)

    for got, wanted in zip(ask(tmp_path, Meddled()), expected(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_cache_of_the_wrong_size_is_made_again(tmp_path):
    ask(tmp_path, Model())
    (file,) = (tmp_path / "reference").iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    for got, wanted in zip(ask(tmp_path, Model()), expected(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_bit_that_falls_over_in_the_cache_is_asked_again_and_no_other(tmp_path):
    ask(tmp_path, Model())
    (file,) = (tmp_path / "reference").iterdir()
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 16
        file.write_bytes(damaged)
        model = Model()
        for got, wanted in zip(ask(tmp_path, model), expected(), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-6)
        assert model.asked == 1
        assert file.read_bytes() == content


def test_the_print_of_the_data_changes_with_any_id_reward_or_order():
    same = make_groups((3, 5, 9), (0, 4, 2), (7, 1, 20), (2, 8, 8))
    assert data_fingerprint(same) == data_fingerprint(GROUPS)
    others = [GROUPS[:-1], GROUPS[::-1], make_groups((3, 5, 9), seed=1)]
    others.append(make_groups((3, 5, 9), (0, 4, 2), (7, 1, 20), (2, 8, 8), rewards=(1.0, 0.4)))
    prints = {data_fingerprint(groups) for groups in (*others, GROUPS)}
    assert len(prints) == len(others) + 1


def test_a_token_that_moves_from_prompt_to_response_changes_the_print():
    from dataclasses import replace

    one = make_groups((3, 2))[0]
    whole = np.concatenate((one.prompt, one.responses[0]))
    other = replace(one, prompt=whole[:2], responses=(whole[2:],))
    assert data_fingerprint([one]) != data_fingerprint([other])


def test_the_print_of_a_model_changes_with_its_weights_and_its_config(tmp_path):
    def folder(name, weights: bytes, **config):
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        (path / "model.safetensors").write_bytes(weights)
        return model_fingerprint(path)

    one = folder("a", b"12345678", layers=1)
    assert one == folder("b", b"12345678", layers=1), "where a model lies does not matter"
    assert one != folder("c", b"12345679", layers=1)
    assert one != folder("d", b"12345678", layers=2)
