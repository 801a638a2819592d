"""The same formulas in torch, a few lines each: values and gradients by another autograd.

Each formula reads like its paper. Pairs and masks are spelled out with lists, because that is the
half of an implementation that tensors hide.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from objectives import OBJECTIVES
from tests.objectives.batches import Batch, draw, loss_and_gradient, on_device
from tests.objectives.variations import CASES

torch = pytest.importorskip("torch")
logsigmoid, sigmoid = torch.nn.functional.logsigmoid, torch.sigmoid

pytestmark = pytest.mark.usefixtures("x64")


def responses_of(batch: Batch, logp) -> list[list[SimpleNamespace]]:
    """The responses that exist, group by group, with their tokens as short torch vectors."""
    groups = []
    for b, n in np.argwhere(batch.exists):
        if not groups or groups[-1][0].b != b:
            groups.append([])
        m = torch.from_numpy(batch.mask[b, n])
        x = SimpleNamespace(b=b, n=n, r=float(batch.reward[b, n]), logp=logp[b, n][m])
        x.ref, x.old = (torch.from_numpy(f[b, n])[m] for f in (batch.ref_logp, batch.old_logp))
        x.S, x.L = x.logp.sum(), len(x.logp)
        x.D = x.S - x.ref.sum()
        x.A = None
        if batch.advantage is not None:
            wide = np.broadcast_to(batch.advantage[b, n], batch.mask[b, n].shape).copy()
            x.A = torch.from_numpy(wide)[m]
        groups[-1].append(x)
    return groups


def counted(per_token: list, normalize):
    """The mean over tokens, over responses, or over responses of means over tokens."""
    if normalize == "token":
        return torch.cat(per_token).mean()
    if isinstance(normalize, tuple):
        return torch.stack([x.sum() for x in per_token]).mean() / normalize[1]
    per_response = [x.mean() if normalize == "length" else x.sum() for x in per_token]
    return torch.stack(per_response).mean()


def best(group):
    return max(group, key=lambda x: x.r)


def worst(group):
    return min(group, key=lambda x: x.r)


def differs(group):
    return best(group).r > worst(group).r


def everyone(groups):
    return [x for group in groups for x in group]


def sft(o, groups):
    return counted([-x.logp for x in everyone(groups)], o.normalize)


def pref_ft(o, groups):
    return counted([-best(group).logp for group in groups if differs(group)], o.normalize)


def best_of_n(o, groups):
    return counted([-best(group).logp for group in groups], o.normalize)


def rwr(o, groups):
    weights = [min(np.exp(x.r / o.beta), o.max_weight) for x in everyone(groups)]
    losses = [-w * x.logp for w, x in zip(weights, everyone(groups), strict=True)]
    return counted(losses, o.normalize)


def awr(o, groups):
    losses = []
    for group in groups:
        mean = np.mean([x.r for x in group])
        for x in group:
            A = torch.full_like(x.ref, x.r - mean) if x.A is None else x.A
            losses.append(-(A / o.beta).exp().clamp(max=o.max_weight) * x.logp)
    return counted(losses, o.normalize)


def unlikelihood_best_of_n(o, groups):
    losses = []
    for group in filter(differs, groups):
        others = [x.S for x in group if x is not best(group)]
        push = {
            "mean": lambda others=others: torch.stack(others).mean(),
            "sum": lambda others=others: torch.stack(others).sum(),
            "worst": lambda group=group: worst(group).S,
            "complement": lambda others=others: (
                -sum(torch.log(-torch.expm1(S.clamp(max=-1e-6))) for S in others)
            ),
        }[o.against]()
        losses.append(-best(group).S + o.beta * push)
    return torch.stack(losses).mean()


def over_pairs(o, groups, loss):
    losses = []
    for group in groups:
        chosen = [(w, x) for w in group for x in group]
        if o.pairs == "best_vs_worst":
            chosen = [(best(group), worst(group))]
        losses += [loss(w, x) for w, x in chosen if w.r > x.r + o.threshold]
    return torch.stack(losses).mean()


def dpo(o, groups):
    e = o.label_smoothing

    def loss(w, x):
        logits = o.beta * ((w.S - w.ref.sum()) - (x.S - x.ref.sum()))
        if o.robust:
            return (-(1 - e) * logsigmoid(logits) + e * logsigmoid(-logits)) / (1 - 2 * e)
        return -(1 - e) * logsigmoid(logits) - e * logsigmoid(-logits)

    return over_pairs(o, groups, loss)


def ipo(o, groups):
    def ratio(x):
        return (x.logp - x.ref).mean() if o.normalize == "length" else (x.logp - x.ref).sum()

    return over_pairs(o, groups, lambda w, x: (ratio(w) - ratio(x) - 1 / (2 * o.tau)) ** 2)


def slic(o, groups):
    return over_pairs(o, groups, lambda w, x: (o.margin - w.S + x.S).clamp(min=0) - o.reg * w.S)


def simpo(o, groups):
    def loss(w, x):
        return -logsigmoid(o.beta * (w.logp.mean() - x.logp.mean()) - o.gamma)

    return over_pairs(o, groups, loss)


def cpo(o, groups):
    def loss(w, x):
        return -logsigmoid(o.beta * (w.S - x.S)) - o.reg * w.logp.mean()

    return over_pairs(o, groups, loss)


def orpo(o, groups):
    def logodds(x):
        a = x.logp.mean()
        return a - torch.log(-torch.expm1(a.clamp(max=-1e-6)))

    def loss(w, x):
        return -w.logp.mean() - o.lambda_ * logsigmoid(logodds(w) - logodds(x))

    return over_pairs(o, groups, loss)


def kto(o, groups):
    z = o.reference_point
    if z is None:
        z = o.beta * torch.stack([x.D for x in everyone(groups)]).mean().detach().clamp(min=0)
    losses = []
    for group in groups:
        by_group = o.threshold == "group_mean"
        if by_group and not differs(group):
            continue
        bar = np.mean([x.r for x in group]) if by_group else o.threshold
        for x in group:
            if x.r > bar:
                losses.append(o.desirable_weight * (1 - sigmoid(o.beta * x.D - z)))
            else:
                losses.append(o.undesirable_weight * (1 - sigmoid(z - o.beta * x.D)))
    return torch.stack(losses).mean()


def penalties(o, x):
    """What a policy-gradient loss adds to every token."""
    ratio = x.logp - x.ref
    kl = {"k1": ratio, "k2": ratio**2 / 2, "k3": torch.exp(-ratio) - 1 + ratio}[o.kl.estimator]
    return (o.kl.beta or 0.0) * kl + getattr(o, "entropy", 0.0) * x.logp.detach() * x.logp


def surrogate(o, A, ratio):
    clipped = ratio.clamp(1 - o.clip_low, 1 + o.clip_high)
    return torch.maximum(-A * ratio, -A * clipped)


def reinforce(o, groups):
    return counted([-x.A * x.logp + penalties(o, x) for x in everyone(groups)], o.normalize)


def ppo(o, groups):
    losses = []
    for x in everyone(groups):
        loss = surrogate(o, x.A, torch.exp(x.logp - x.old))
        if o.dual_clip is not None:
            loss = torch.where(x.A < 0, torch.minimum(loss, -o.dual_clip * x.A), loss)
        losses.append(loss + penalties(o, x))
    return counted(losses, o.normalize)


def gspo(o, groups):
    losses = [
        surrogate(o, x.A.mean(), torch.exp((x.logp - x.old).mean())) + penalties(o, x).mean()
        for x in everyone(groups)
    ]
    return torch.stack(losses).mean()


FORMULAS = {
    "SFT": sft,
    "PrefFT": pref_ft,
    "BestOfN": best_of_n,
    "RWR": rwr,
    "AWR": awr,
    "UnlikelihoodBestOfN": unlikelihood_best_of_n,
    "DPO": dpo,
    "IPO": ipo,
    "SLiC": slic,
    "SimPO": simpo,
    "CPO": cpo,
    "ORPO": orpo,
    "KTO": kto,
    "REINFORCE": reinforce,
    "PPO": ppo,
    "GSPO": gspo,
}


def test_every_objective_is_restated():
    assert set(FORMULAS) == set(OBJECTIVES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_agrees_on_value_and_gradient(case):
    batch = draw(2, case.advantage)
    logp = torch.tensor(batch.logp, requires_grad=True)
    loss = FORMULAS[type(case.objective).__name__](case.objective, responses_of(batch, logp))
    (gradient,) = torch.autograd.grad(loss, logp)
    _, ours, our_gradient = loss_and_gradient(case.objective, *on_device(batch))
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(our_gradient, gradient.numpy(), rtol=1e-10, atol=1e-13)


# The way that trainers of language models write it: a batch of chosen and rejected sequences.


def as_a_trainer_sees_it(seed: int):
    """Chosen and rejected rows of padded tokens, and the same pairs as groups of two."""
    batch = draw(seed)
    pairs = [1, 2, 5, 6]
    reward, mask = np.tile([1.0, 0.0, 0.0, 0.0], (7, 1)), batch.mask.copy()
    mask[..., 0] = True
    valid = np.zeros_like(batch.valid)
    valid[pairs, :2] = True
    batch = draw(seed, garbage=0.0)._replace(reward=reward, mask=mask, valid=valid)
    logp = torch.tensor(batch.logp, requires_grad=True)
    rows = [
        (x[pairs, side] * torch.tensor(mask[pairs, side])).sum(-1)
        for x in (logp, torch.tensor(batch.ref_logp))
        for side in (0, 1)
    ]
    lengths = [torch.tensor(mask[pairs, side]).sum(-1) for side in (0, 1)]
    return batch, logp, rows, lengths


def sigmoid_loss(chosen, rejected, ref_chosen, ref_rejected, lengths):
    logits = (chosen - rejected) - (ref_chosen - ref_rejected)
    return -logsigmoid(0.1 * logits).mean()


def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, lengths):
    averaged = chosen / lengths[0] - rejected / lengths[1]
    logits = averaged - (ref_chosen / lengths[0] - ref_rejected / lengths[1])
    return ((logits - 1 / (2 * 0.1)) ** 2).mean()


def kto_loss(chosen, rejected, ref_chosen, ref_rejected, lengths):
    good, bad = chosen - ref_chosen, rejected - ref_rejected
    kl = torch.cat([good, bad]).mean().clamp(min=0).detach()
    losses = torch.cat([1 - sigmoid(0.1 * (good - kl)), 1 - sigmoid(0.1 * (kl - bad))])
    return losses.mean()


@pytest.mark.parametrize(
    ("name", "settings", "restated"),
    [
        ("DPO", {}, sigmoid_loss),
        ("IPO", {"normalize": "length"}, ipo_loss),
        ("KTO", {}, kto_loss),
    ],
)
@pytest.mark.parametrize("seed", [3, 4])
def test_a_labelled_data_set_of_pairs_is_groups_of_two(name, settings, restated, seed):
    batch, logp, rows, lengths = as_a_trainer_sees_it(seed)
    loss = restated(*rows, lengths)
    (gradient,) = torch.autograd.grad(loss, logp)
    _, ours, our_gradient = loss_and_gradient(OBJECTIVES[name](**settings), *on_device(batch))
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(our_gradient, gradient.numpy(), rtol=1e-10, atol=1e-13)
