"""The authors' settings of every method for Pythia-1.4B, one function each.

Where a number stands in the authors' scripts it is theirs; where it does not it is ours and the
stage says so. B is prompts per collection, M prompts per optimizer step, T passes over a
collection. The scripts give M as a minibatch times the steps of gradient accumulation.

Differs from the authors' code on purpose:
    DPO is the sequence's log-ratio, summed. Theirs pairs the two responses token by token, pads
    included, and steps the optimizer on every two pairs whatever the batch is said to be.
    Online DPO does not repeat the prompt inside the response.
    Learning rates end at 0, theirs at 1e-7; AdamW without decay is their Adam. Gradients are cut
    at a norm of 1, theirs are not.

Source: PAPERS A6.3; the authors' repository, llm_experiment/scripts.
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.llm.full_scale.stages import Facts, Place, Stage
from llm.data.examples import DataSettings, PackingSettings
from llm.settings import (
    OFFLINE_RECIPES,
    ONLINE_RECIPES,
    REWARD_MODEL,
    CriticSettings,
    KLSettings,
    OptimizerSettings,
    SamplingSettings,
    SaveSettings,
    Training,
)
from objectives import DPO, PPO, REINFORCE, RWR, BestOfN, PrefFT
from objectives.recipes import Recipe, Reuse

SFT = "sft"
PROMPT, ANSWER, WHOLE = 128, 256, 512
"""Most tokens of a prompt, of a response, and of both in a demonstration or a labelled pair."""

ONCE = Reuse()
READING = DataSettings(max_prompt_length=PROMPT, bad_rows="drop")
# 8192 positions at a time fit beside the optimizer of a 1.4B model on 80 GB.
PACKING = PackingSettings(max_tokens=8192)
SAMPLING = SamplingSettings(max_new_tokens=ANSWER, rows=256)


def training(place: Place, name: str, rate: float, batch: int, **changes: Any) -> Training:
    """What the runs share."""
    given: dict[str, Any] = {
        "model": str(place.out / SFT / "model"),
        "out": place.out / name,
        "batch": batch,
        "optimizer": OptimizerSettings(learning_rate=rate, warmup=0.0),
        "reading": READING,
        "packing": PACKING,
        "sampling": SAMPLING,
        "evaluate_every": 50,
        "seed": 24 if place.seed is None else place.seed,
    }
    return Training(**given | changes)


def sft(place: Place, facts: Facts) -> Stage:
    """The reference: demonstrations, ten times over."""
    return Stage(
        name=SFT,
        recipe_name="sft",
        recipe=OFFLINE_RECIPES["sft"],
        settings=training(
            place,
            SFT,
            8e-6,
            4,
            model=place.model,
            data=str(place.file("sft.jsonl")),
            epochs=10.0,
            optimizer=OptimizerSettings(
                name="adafactor", learning_rate=8e-6, schedule="linear", warmup=0.0
            ),
            reading=replace(READING, max_length=WHOLE, eval_source=str(place.file("val.jsonl"))),
            evaluate_every=2500,
            save=SaveSettings(every=1000),
        ),
        load=facts.load(facts.demonstrations, 1),
        says="Adafactor, 8e-6, batch 4, 10 epochs, 512 tokens, falling linearly: the authors'.",
    )


def labelled(place: Place, task: str) -> dict[str, Any]:
    """Reading of a task's pairs."""
    test = str(place.file(f"{task}/test.jsonl"))
    return {
        "data": str(place.file(f"{task}/train.jsonl")),
        "reading": replace(READING, max_length=WHOLE, eval_source=test),
    }


def reward_model(place: Place, facts: Facts, task: str) -> Stage:
    """The surrogate of the gold reward: Bradley-Terry on the task's labels."""
    name = f"{task}/{REWARD_MODEL}"
    rule = OptimizerSettings(learning_rate=1e-5, warmup=0.0, beta2=0.95)
    return Stage(
        name=name,
        recipe_name=REWARD_MODEL,
        recipe=OFFLINE_RECIPES[REWARD_MODEL],
        settings=training(place, name, 1e-5, 32, optimizer=rule, **labelled(place, task)),
        load=facts.load(facts.pairs, 2),
        needs=(SFT,),
        says="1e-5 of their {1e-5, 1e-6}, batch 32, betas 0.9 and 0.95, cosine to 0, seed 24: the "
        "authors'. One epoch is ours.",
    )


def offline(place: Place, facts: Facts, task: str) -> list[Stage]:
    """Pref-FT and DPO on the task's pairs: what a negative gradient adds where nothing is fresh."""
    found = []
    for method, objective, rate, says in (
        ("pref_ft", PrefFT(normalize="token"), 1e-6, "1e-6 of their {1e-5 ... 1e-8}"),
        ("dpo", DPO(beta=0.1), 5e-7, "5e-7 of their {1e-7, 5e-7}, beta 0.1 of their {0.05, 0.1}"),
    ):
        name = f"{task}/{method}"
        found.append(
            Stage(
                name=name,
                recipe_name=method,
                recipe=replace(OFFLINE_RECIPES[method], objective=objective),
                settings=training(place, name, rate, 16, **labelled(place, task)),
                load=facts.load(facts.pairs, 2),
                needs=(SFT,),
                says=f"{says}, batch 16: the authors'. One epoch is ours.",
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method on what the policy writes.

    Attributes:
        recipe: what is minimised, on how many responses.
        rate: peak learning rate.
        batch: M.
        reuse: B / M and T.
        epochs: passes over the prompts.
        says: where these numbers come from.
    """

    recipe: Recipe
    rate: float
    batch: int
    reuse: Reuse = ONCE
    epochs: float
    says: str = ""


def method(name: str, **changes: Any) -> Recipe:
    """A recipe of the catalogue with the authors' numbers."""
    return replace(ONLINE_RECIPES[name], **changes)


METHODS: dict[str, Method] = {
    "online_dpo": Method(
        recipe=method("online_dpo", objective=DPO(beta=0.1)),
        rate=1e-5,
        batch=64,
        reuse=Reuse(inner_steps=2),
        epochs=2.0,
        says="1e-5, B = M = 64, T = 2, 2 epochs, beta 0.1 of their {0.1, 0.5, 0.05, 0.01}, no "
        "threshold of their {0, 0.1, 0.5, 1}: the authors'.",
    ),
    "online_best_of_n": Method(
        recipe=method("online_best_of_n", objective=BestOfN(normalize="token")),
        rate=1e-6,
        batch=64,
        reuse=Reuse(minibatches=2),
        epochs=1.0,
        says="best of 4, 1e-6, B = 128, M = 64, one epoch: the authors'.",
    ),
    "online_rwr": Method(
        recipe=method("online_rwr", objective=RWR(beta=10.0, max_weight=20.0, normalize="token")),
        rate=1e-5,
        batch=64,
        epochs=2.0,
        says="temperature 10 of their {1, 10}, weights up to 20, 1e-5, B = M = 64, 2 epochs: the "
        "authors'.",
    ),
    "reinforce": Method(
        recipe=method("reinforce", objective=REINFORCE(normalize="token")),
        rate=1e-5,
        batch=64,
        epochs=2.0,
        says="1e-5, B = M = 64, 2 epochs, running mean as baseline: the authors'. Advantages are "
        "not cut at 10, as theirs are.",
    ),
    "ppo": Method(
        recipe=method("ppo", objective=PPO(), kl_in_reward=0.02),
        rate=1e-5,
        batch=128,
        epochs=4.0,
        says="1e-5, B = M = 128, 4 epochs, clip 0.2 and 0.2, GAE 0.95, critic 0.1, KL in the "
        "reward from 0.02 to a target of 6 nats, rewards as they come: the authors'.",
    ),
}
"""The main line: one setting of each method, that of the authors' scripts on reuse at their T."""

VARIED = {
    "online_best_of_n": replace(METHODS["online_best_of_n"], batch=16),
    "online_rwr": METHODS["online_rwr"],
    "reinforce": METHODS["reinforce"],
    # Rate and epochs are their trainer's defaults, which this script leaves as they are.
    "ppo": replace(
        METHODS["ppo"],
        recipe=method("ppo", objective=PPO(), kl_in_reward=0.2),
        rate=1e-6,
        batch=64,
        epochs=10.0,
    ),
}
"""What their scripts on batch size set otherwise."""


def online(
    place: Place,
    facts: Facts,
    task: str,
    gold: str | None,
    name: str,
    asked: Method,
    seed: int | None = None,
    variant: str = "",
) -> Stage:
    """A method on what the policy writes, rewarded by the task's reward model.

    Args:
        place: of the study.
        facts: of its data.
        task: whose reward model.
        gold: measured, never trained on.
        name: of the recipe.
        asked: its numbers.
        seed: of the run; the main line's when None.
        variant: ends the name of a stage that is not of the main line.
    """
    prompts = asked.batch * asked.reuse.minibatches
    collection = replace(asked.recipe.collection, prompts=prompts)
    stage = f"{task}/{variant or name}"
    surrogate = f"{task}/{REWARD_MODEL}"
    changes: dict[str, Any] = {
        "data": str(place.file("prompts.jsonl")),
        "reading": replace(READING, eval_source=str(place.file("val.jsonl"))),
        "epochs": asked.epochs,
        "reward": f"model:{place.out / surrogate}",
        "gold": place.gold or gold,
        "kl": KLSettings(target=6.0) if name == "ppo" else KLSettings(),
        "critic": CriticSettings(normalize=False),
    }
    if seed is not None:
        changes["seed"] = seed
    return Stage(
        name=stage,
        recipe_name=name,
        recipe=replace(asked.recipe, collection=collection, reuse=asked.reuse),
        settings=training(place, stage, asked.rate, asked.batch, **changes),
        load=facts.load(facts.prompts, 0),
        needs=(SFT, surrogate),
        says="" if variant else asked.says,
        main=not variant,
    )


# REINFORCE's three stand in the script, which then draws others.
SEEDS = {"online_best_of_n": (24, 42, 69), "online_rwr": (24, 42), "reinforce": (0, 1, 2)}


def batch_ablation(place: Place, facts: Facts, task: str, gold: str | None) -> list[Stage]:
    """On-policyness: B grows while M stays, so the last minibatches learn from staler samples."""
    found = []
    for name, asked in VARIED.items():
        for size in (512, 1024) if name == "ppo" else (64, 128, 256, 512):
            varied = replace(asked, reuse=Reuse(minibatches=size // asked.batch))
            found += [
                online(
                    *(place, facts, task, gold, name, varied, seed),
                    variant=f"batch/{name}/B{size}-seed{seed}",
                )
                for seed in SEEDS.get(name, (24, 42))
            ]
    return found


def reuse_ablation(place: Place, facts: Facts, task: str, gold: str | None) -> list[Stage]:
    """Sample reuse: T passes over every collection."""
    seeds = {"online_best_of_n": (24, 42, 69), "ppo": (21, 42, 69)}
    found = []
    for name in VARIED:
        for passes in (1, 2, 4, 8):
            asked = METHODS[name]
            varied = replace(asked, reuse=replace(asked.reuse, inner_steps=passes))
            found += [
                online(
                    *(place, facts, task, gold, name, varied, seed),
                    variant=f"reuse/{name}/T{passes}-seed{seed}",
                )
                for seed in seeds.get(name, (0, 1, 2))
            ]
    return found


def task_stages(place: Place, facts: Facts, task: str, gold: str | None) -> list[Stage]:
    """Everything about one task, after the reference."""
    return [
        reward_model(place, facts, task),
        *offline(place, facts, task),
        *(online(place, facts, task, gold, *each) for each in METHODS.items()),
        *batch_ablation(place, facts, task, gold),
        *reuse_ablation(place, facts, task, gold),
    ]
