"""Three tasks that differ in where the reward's peak is: Min, Mode and Skew Length.

The reference is a small decoder that has read the harbour. Under Min Length an answer is the better
the shorter it is: the peak lies where the reference is thin. Under Mode Length it is the better the
closer it is to the reference's most probable length, which is found from samples: the peak lies
where the reference is thick. Both learn from answers of the reference itself. Skew Length has Min's
reward, and its answers are cut after an exponentially distributed number of tokens, most of them in
the middle of a sentence: what was learned from is far from what the reference writes.

The *gold* reward counts tokens. The *proxy* is a Bradley-Terry model of the task's data, whose
pairs the gold reward has ordered; policies are trained on the proxy and judged by gold.

Key to the axes: B prompts, N responses of each.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.llm.study import Study, folder, keep, kept
from llm.data.examples import DataSettings
from llm.embedded.harbour import as_prompt, questions
from llm.settings import LogSettings, OptimizerSettings, SaveSettings, Training

MIN, MODE, SKEW = "min", "mode", "skew"
TASKS = {MIN: "Min Length", MODE: "Mode Length", SKEW: "Skew Length"}
FAR = (MIN, SKEW)
"""Tasks whose peak is far from the reference."""

SKEW_MEAN = 20.0
"""Mean of the exponentially distributed length, in tokens, after which Skew's answers are cut."""

SPARE = 2
"""Answers drawn beyond those that are used, so that those to one question can differ."""

PROXY_RATE = 1e-3
PROXY = "proxy.json"
"""In the folder of a proxy: what it makes of the reference's answers."""

REFERENCE_SEED, HELD_OUT_SEED = 90_000, 80_000
"""Seeds of samples that no seed of the study shares."""


@dataclass(frozen=True)
class Facts:
    """What the reference is like.

    Attributes:
        mode: its most probable length, in tokens: the peak of Mode Length.
        mean: its mean length, in tokens.
        gold: its mean reward by task, in tokens.
        spread: the standard deviation of that reward between answers.
        lengths: of its answers, for a histogram.
    """

    mode: int
    mean: float
    gold: dict[str, float]
    spread: dict[str, float]
    lengths: list[int]


@dataclass(frozen=True)
class Proxy:
    """A trained reward model, and what it makes of answers of the reference to held-out questions.

    Attributes:
        folder: of the model.
        mean: of its rewards.
        spread: their standard deviation.
        accuracy: share of pairs of these answers that it orders as gold does.
        lengths: of the answers, in tokens.
        rewards: of the answers.
    """

    folder: str
    mean: float
    spread: float
    accuracy: float
    lengths: list[int]
    rewards: list[float]


def gold_spec(task: str, facts: Facts) -> str:
    """The gold reward as ``modeseek train`` is told it."""
    return f"mode-length:{facts.mode}" if task == MODE else "min-length"


def worth(task: str, lengths: Any, mode: int) -> np.ndarray:
    """The gold reward of answers of these lengths, in tokens."""
    lengths = np.asarray(lengths, np.float64)
    return -np.abs(lengths - mode) if task == MODE else -lengths


def reference(study: Study) -> Path:
    """The folder of the reference, made if there is none yet."""
    from llm.cache import cache_folder
    from llm.embedded.pretrain import fingerprint, pretrain

    place = cache_folder() / "study" / "models" / fingerprint(study.model)
    if not place.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            pretrain(place, study.model, lambda sentence: None)
    return place


def facts_of(study: Study) -> Facts:
    """What the reference is like, from its own samples to the questions of training."""
    path = folder(study) / "facts.json"
    found = kept(path)
    if found is None:
        from llm.rewards.lengths import typical

        # Uncut: a cap would become a mode of its own.
        many = -(-study.samples // len(questions()))
        context = study.model.context // 2
        written = answers(study, held_out=False, many=many, seed=REFERENCE_SEED, tokens=context)
        found_typical = typical(written, tokenizer_of(study))
        lengths = [count(study, answer.response) for group in written for answer in group]
        gold = {task: worth(task, lengths, found_typical.mode) for task in TASKS}
        found = {
            "mode": found_typical.mode,
            "mean": found_typical.mean,
            "gold": {task: float(values.mean()) for task, values in gold.items()},
            "spread": {task: float(values.std()) for task, values in gold.items()},
            "lengths": lengths,
        }
        keep(path, found)
    return Facts(**found)


def data_file(study: Study, task: str, seed: int, held_out: bool = False) -> Path:
    """The task's answers with their gold rewards, one question a line; written if it is missing."""
    name = f"{task}-held-out.jsonl" if held_out else f"{task}-{seed}.jsonl"
    path = folder(study) / "data" / name
    if not path.exists():
        from experiments.results import atomically

        lines = [json.dumps(row) + "\n" for row in rows(study, task, seed, held_out)]
        atomically(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))
    return path


def rows(study: Study, task: str, seed: int, held_out: bool) -> list[dict[str, Any]]:
    """Questions with N different answers of the reference each; of one seed for Min and Mode."""
    seed = HELD_OUT_SEED if held_out else seed
    mode = facts_of(study).mode
    many, tokens = study.responses + SPARE, study.max_new_tokens
    most = study.evaluate_prompts if held_out else study.data_prompts
    written = answers(study, held_out, many, seed, tokens, most)
    generator = np.random.default_rng(seed)
    found = []
    for group in written:
        texts: dict[str, int] = {}
        for answer in group:
            text = answer.response
            if task == SKEW:
                text = cut(study, text, 1 + int(generator.exponential(SKEW_MEAN)))
            if text and len(texts) < study.responses:
                texts.setdefault(text, count(study, text))
        if len(set(texts.values())) > 1:  # answers of one length teach nothing
            rewards = worth(task, list(texts.values()), mode).tolist()
            row = {"prompt": group[0].prompt, "responses": list(texts), "rewards": rewards}
            found.append(row)
    return found


def answers(
    study: Study, held_out: bool, many: int, seed: int, tokens: int, most: int | None = None
) -> list[list[Any]]:
    """Answers of the reference, as rewards see them.

    Args:
        study: the size of everything.
        held_out: whether to the questions that training never sees.
        many: answers to each question.
        seed: decides the questions and the answers.
        tokens: an answer is cut after so many.
        most: questions, at most; all when None.
    """
    from llm.checkpoints.read import load_decoder
    from llm.embedded.pretrain import encode
    from llm.rewards import Written
    from llm.sampler import Sampling, sample

    decoder = load_decoder(str(reference(study)), unroll=study.model.layers)
    tokenizer = tokenizer_of(study)
    asked = [as_prompt(question.text) for question in questions(held_out)]
    order = np.random.default_rng(seed).permutation(len(asked))[:most]
    chosen = [asked[row] for row in order]
    demonstrations = [{"prompt": prompt, "completion": "."} for prompt in chosen]
    prompts = [g.prompt for g in encode(demonstrations, tokenizer, decoder.architecture)]
    how = Sampling(
        responses=many, max_new_tokens=tokens, seed=seed, stop=(int(tokenizer.eos_token_id),)
    )
    return [
        [Written(prompt, text(tokenizer, s.tokens), s.tokens, s.finished) for s in samples]
        for prompt, samples in zip(chosen, sample(decoder, prompts, how), strict=True)
    ]


@cache
def tokenizer_of(study: Study) -> Any:
    """The reference's tokenizer."""
    from llm.inputs import read_tokenizer

    return read_tokenizer(reference(study))


def text(tokenizer: Any, tokens: Sequence[int] | np.ndarray) -> str:
    """Tokens as a person reads them."""
    return tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True).strip()


def count(study: Study, response: str) -> int:
    """Tokens of an answer as it is trained on, without its end."""
    return len(tokens_of(study, response))


def cut(study: Study, response: str, length: int) -> str:
    """The first tokens of an answer."""
    return text(tokenizer_of(study), tokens_of(study, response)[:length])


def tokens_of(study: Study, response: str) -> list[int]:
    """An answer's tokens."""
    return tokenizer_of(study)(response, add_special_tokens=False)["input_ids"]


def proxy(study: Study, task: str, seed: int, prompts: int) -> Proxy:
    """The reward model of a task, trained if there is none yet.

    Args:
        study: the size of everything.
        task: whose data it learns from.
        seed: of the data and of the training.
        prompts: how many of the data's prompts it learns from.
    """
    place = proxy_folder(study, task, seed, prompts)
    found = kept(place / PROXY)
    if found is None:
        from rich.console import Console

        from llm.finetune import finetune
        from llm.settings import OFFLINE_RECIPES, REWARD_MODEL

        shutil.rmtree(place, ignore_errors=True)
        settings = Training(
            model=str(reference(study)),
            data=str(data_file(study, task, seed)),
            out=place,
            steps=study.proxy_steps,
            batch=min(study.proxy_batch, prompts),
            seed=seed,
            show=0,
            optimizer=OptimizerSettings(learning_rate=PROXY_RATE),
            reading=DataSettings(
                limit=prompts, eval_source=str(data_file(study, task, seed, held_out=True))
            ),
            log=LogSettings(every=study.proxy_steps),
            save=SaveSettings(every=study.proxy_steps, keep=1),
        )
        finetune(REWARD_MODEL, OFFLINE_RECIPES[REWARD_MODEL], settings, Console(quiet=True))
        found = judged_reference(study, task, place / "model")
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
        keep(place / PROXY, found)
    return Proxy(folder=str(place / "model"), **found)


def proxy_folder(study: Study, task: str, seed: int, prompts: int) -> Path:
    """Where a reward model of the study is kept."""
    return folder(study) / "proxies" / f"{task}-{seed}-{prompts}"


def judged_reference(study: Study, task: str, model: Path) -> dict[str, Any]:
    """What a reward model makes of the reference's answers to held-out questions."""
    from llm.rewards import RewardContext, RewardSettings, read_reward

    context = RewardContext(lambda: tokenizer_of(study), folder(study), lambda sentence: None)
    judge = read_reward(f"model:{model}", RewardSettings(), context)
    written = answers(
        study, True, study.responses, HELD_OUT_SEED, study.max_new_tokens, study.evaluate_prompts
    )
    rewards = np.concatenate(judge(written))
    lengths = np.array([count(study, answer.response) for group in written for answer in group])
    gold = worth(task, lengths, facts_of(study).mode)
    better = gold[:, None] > gold[None, :]
    right = rewards[:, None] > rewards[None, :]
    return {
        "mean": float(rewards.mean()),
        "spread": float(rewards.std()),
        "accuracy": float(right[better].mean()),
        "lengths": lengths.tolist(),
        "rewards": rewards.tolist(),
    }
