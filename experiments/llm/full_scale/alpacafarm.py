"""AlpacaFarm with Pythia-1.4B: what fresh samples and a negative gradient do to a real reward.

Question: which of Pref-FT, DPO, online DPO, best-of-N, RWR, REINFORCE and PPO gains most over the
SFT model, and what do larger batches and reused samples cost? Command: ``python -m
experiments.llm.full_scale.alpacafarm``; ``--dry-run`` prints the plan, ``--rehearse`` walks through
all stages in small, ``--stage 'alpaca/batch/*'`` and ``'alpaca/reuse/*'`` are the ablations.
Hardware and time: as the plan says; one H200 or an 80 GB device. Numbers to expect, read off the
paper's plots: in mean gold reward over SFT, Pref-FT about -0.01 and DPO about +0.135; on-policy RWR
ends at about 0.71, 0.67 and 0.56 for B = 64, 128 and 256, REINFORCE at 0.73, 0.66 and 0.62, from
0.11.

The paper's gold reward is AlpacaFarm's human-preference reward model, published as a difference to
LLaMA's weights, which nobody can load without those. Give one that you have with ``--gold
model:FOLDER``; without it, what is recorded is the reward model that is trained here.
"""

from collections.abc import Callable

from experiments.llm.full_scale.authors import measure, write_farm, write_pairs
from experiments.llm.full_scale.command import main
from experiments.llm.full_scale.methods import sft, task_stages
from experiments.llm.full_scale.stages import Facts, Place, Stage, Study

TASK = "alpaca"

PYTHIA = {
    "model_type": "gpt_neox",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "max_position_embeddings": 2048,
    "vocab_size": 50304,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}

# AlpacaFarm's splits have 10 000 demonstrations and 20 000 prompts; 19 000 of 20 000 pairs are to
# train on. Lengths are guesses about what the data stage measures, except that the paper's plots
# put the SFT model's responses between 185 and 220 tokens.
ASSUMED = Facts(
    demonstrations=10_000,
    pairs=19_000,
    prompts=20_000,
    prompt_tokens=40.0,
    response_tokens=190.0,
    longest=640,
)


def write_data(place: Place, say: Callable[[str], None]) -> Facts:
    """Fetch AlpacaFarm and the authors' labels, write them out, and measure them."""
    farm = write_farm(place, say)
    pairs, _ = write_pairs(place, TASK, say)
    facts = Facts(
        demonstrations=farm["sft"],
        pairs=len(pairs),
        prompts=farm["prompts"],
        prompt_tokens=0.0,
        response_tokens=0.0,
        longest=0,
    )
    return measure(place, facts, pairs)


def stages(place: Place, facts: Facts) -> list[Stage]:
    """The reference, then everything that begins from it."""
    return [sft(place, facts), *task_stages(place, facts, TASK, gold=None)]


STUDY = Study(
    name="alpacafarm",
    title="AlpacaFarm with Pythia-1.4B: offline and online, batch size and reuse.",
    model="EleutherAI/pythia-1.4b",
    config=PYTHIA,
    assumed=ASSUMED,
    write_data=write_data,
    stages=stages,
)

if __name__ == "__main__":
    main(STUDY)
