"""One contestant runs one setting and says how long a seed takes: a process of its own, one thread.

``python -m experiments.benchmarks.contestants WHO SETTING [CHECKOUT]`` prints a line of JSON.
Imports are not counted; fitting the policy to the reference is. ``modeseek`` reports compilation
apart. The authors' code is timed for a few gradient steps and scaled to the whole run, since some
of its runs take hours; as published it measures the policy by sampling after every step, logging or
not, and that is most of its time. It needs the path of a checkout, of which nothing is kept here.
"""

import contextlib
import io
import json
import resource
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

from experiments.benchmarks.settings import ACTIONS, SETTINGS, Timed

SEEDS = 8
"""Seeds that ``modeseek`` runs in one sweep."""


def time_modeseek(setting: Timed) -> dict[str, float]:
    """Seconds per seed of a sweep, compiled beforehand, and seconds to compile it."""
    from bandit import PROBLEMS, ContextualMLP, Setting, TokenTransformer, sweep
    from objectives import IPO, PPO, REINFORCE, BestOfN, Collection, Recipe, Reuse

    offline = setting.epochs == 1
    advantage = None
    objective: Any = BestOfN()
    if setting.method == "ipo":
        objective = IPO(tau=0.05, threshold=setting.threshold or 0.0)
    elif setting.method == "reinforce":
        objective, advantage = REINFORCE(), "running_mean"
    elif setting.method == "ppo":
        objective, advantage = PPO(), "group_zscore"
    recipe = Recipe(
        objective,
        Collection("dataset" if offline else "policy", setting.contexts, ACTIONS),
        Reuse(1 if offline else setting.inner_steps),
        advantage=advantage,
    )
    policy = TokenTransformer() if setting.tokens else ContextualMLP()
    seeds = 1 if setting.tokens else SEEDS
    column = Setting(recipe, PROBLEMS[setting.problem], setting.learning_rate)

    def once() -> float:
        began = time.perf_counter()
        sweep([column], policy, seeds, setting.steps, record_every=setting.steps // 10)
        return time.perf_counter() - began

    first = once()
    again = once()
    return {"seconds": again / seeds, "compile": first - again}


def time_plain(who: str, setting: Timed) -> dict[str, float]:
    """Seconds per seed of the versions a reader would write first; offline one-token runs only."""
    import numpy as np

    from bandit import PROBLEMS

    if setting.tokens or setting.epochs > 1:
        return {}
    if who == "torch":
        import torch

        from experiments.benchmarks import plain_torch as version

        torch.set_num_threads(1)
    else:
        from experiments.benchmarks import plain_numpy as version
    problem = PROBLEMS[setting.problem]
    began = time.perf_counter()
    version.run(
        setting.method,
        np.exp(np.asarray(problem.ref_logp, np.float64)),
        np.asarray(problem.reward, np.float64),
        seed=0,
        contexts=setting.contexts,
        actions=ACTIONS,
        steps=setting.steps,
        learning_rate=setting.learning_rate,
        threshold=setting.threshold or 0.0,
    )
    return {"seconds": time.perf_counter() - began}


class Enough(Exception):
    """Raised inside the authors' loop once enough steps are timed."""


def stand_in(name: str, **contents: Any) -> types.ModuleType:
    """An empty module in the place of one the authors' code imports but these runs never use."""
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(contents)
    return module


def stand_ins() -> None:
    """Logging is off, and of gym only the names of base classes are needed."""
    stand_in("wandb")
    empty = type("Empty", (), {"__init__": lambda self, *_, **__: None})
    spaces = stand_in("gym.spaces", Discrete=empty, Box=empty)
    seeding = stand_in("gym.utils.seeding", np_random=lambda seed=None: (None, seed))
    stand_in("gym.utils", seeding=seeding)
    stand_in("gym", Env=object, spaces=spaces)


def time_authors(setting: Timed, checkout: Path) -> dict[str, float]:
    """Seconds per seed of the authors' loop as published, with printing and logging off."""
    sys.path.insert(0, str(checkout / "bandit_experiment"))
    stand_ins()
    import torch

    torch.set_num_threads(1)
    program = "transformer_hyperparam_tuning" if setting.tokens else "hyperparam_tuning"
    tuning = __import__(program)
    number = {"R1": 4, "R2": 5, "R1-tokens": 6, "R2-tokens": 7}[setting.problem]
    flags: dict[str, Any] = {
        "algorithm": setting.method,
        "reward_function": number,
        "epochs": setting.epochs,
        "N": ACTIONS,
        "num_iterations_on_same_samples": setting.inner_steps,
        "lr": setting.learning_rate,
        "num_train_states": setting.contexts,
        "seed": 1,
    }
    if setting.method == "ipo":
        flags["beta"] = 10
    if setting.threshold is not None:
        flags["reward_threshold"] = setting.threshold
    if not setting.tokens:
        flags |= {"policy": "categorical", "num_action_dim": 1, "num_actions": 100}
        flags |= {"action_type": "discrete"}
    caught: dict[str, Any] = {}
    tuning.run_algorithm = lambda **arguments: caught.update(arguments)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        if setting.method == "ppo":
            words.append("--normalize_rewards_per_state")
        sys.argv = [program, *words, "--filedir", folder]
        tuning.main()
    learner, arguments = caught["learner"], caught["default_hyperparams"]
    arguments |= {"learning_rate": setting.learning_rate, "verbose": False}
    shape = caught["default_agent_dict"]
    agent = tuning.create_gpt_model(shape) if setting.tokens else tuning.BanditAgent(**shape)
    method = setting.method if setting.method in ("best_of_n", "ipo") else "on_policy"

    marks: list[float] = []
    measure = learner.kl_divergence_and_entropy

    def watched(*positional: Any, **named: Any) -> Any:
        # The last thing their loop does in every step, and once before the first.
        result = measure(*positional, **named)
        marks.append(time.perf_counter())
        if len(marks) > setting.authors_steps:
            raise Enough
        return result

    learner.kl_divergence_and_entropy = watched
    began = time.perf_counter()
    with contextlib.suppress(Enough), contextlib.redirect_stdout(io.StringIO()):
        getattr(learner, method)(agent=agent.float(), **arguments)
    before = marks[0] - began
    per_step = (marks[-1] - marks[0]) / (len(marks) - 1)
    return {"seconds": before + per_step * setting.steps, "timed_steps": len(marks) - 1}


def main() -> None:
    """Run what the command line names."""
    who, name, *checkout = sys.argv[1:]
    setting = SETTINGS[name]
    if who == "modeseek":
        found = time_modeseek(setting)
    elif who == "authors":
        found = time_authors(setting, Path(checkout[0]))
    else:
        found = time_plain(who, setting)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found | {"peak_gib": round(peak, 3)}))


if __name__ == "__main__":
    main()
