"""A GPT of two blocks by hand: every gradient has a verdict, and each of 15 planted bugs is found.

Dimensions: B sequences, T positions, V words, C channels, H heads of D channels, F hidden channels.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from tests.tenth import unless_chosen

B, T, V, C, H, HIDDEN = 2, 5, 7, 6, 2, 10
D = C // H
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
MASK = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
Named = dict[str, Tensor]

#: Each bug, and the first quantity that it makes wrong.
BUGS = {
    "mean for sum over rows": "lnf_b",
    "probabilities for their slope": "scores1",
    "scale forgotten": "qkv1",
    "scale of all channels": "qkv0",
    "mask off by one": "scores0",
    "keys and queries exchanged": "qkv1",
    "tanh's slope without its square": "fc1",
    "0.0447 for 0.044715": "fc0",
    "the 3 forgotten": "fc1",
    "the skip left out": "mid1",
    "mean left out of the norm": "x1",
    "eps 1e-6 for 1e-5": "ln2_w0",
    "rows written for added": "wte",
    "places summed over no sequence": "wpe",
    "a transpose forgotten": "w_proj0",
}


def inputs(dtype: torch.dtype) -> Named:
    """Return weights and words; one word occurs twice, and norm weights are not their initial 1."""
    chance = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64) / 2

    given = {"wte": drawn(V, C), "wpe": drawn(T, C), "lnf_w": 1 + drawn(C), "lnf_b": drawn(C)}
    for k in range(2):
        given |= {
            f"ln1_w{k}": 1 + drawn(C), f"ln1_b{k}": drawn(C), f"w_qkv{k}": drawn(C, 3 * C),
            f"w_proj{k}": drawn(C, C), f"ln2_w{k}": 1 + drawn(C), f"ln2_b{k}": drawn(C),
            f"w_fc{k}": drawn(C, HIDDEN), f"b_fc{k}": drawn(HIDDEN), f"w_out{k}": drawn(HIDDEN, C),
            f"b_qkv{k}": drawn(3 * C), f"b_proj{k}": drawn(C), f"b_out{k}": drawn(C),
        }  # fmt: skip
    given["head"] = drawn(C, V)
    given = {name: value.to(dtype).requires_grad_() for name, value in given.items()}
    given["words"] = torch.randint(V, (B, T), generator=chance)
    return given


def heads(x: Tensor) -> Tensor:
    """Return (B, T, C) reshaped to (B, H, T, D)."""
    return x.view(B, T, H, D).transpose(1, 2)


def channels(x: Tensor) -> Tensor:
    """Return (B, H, T, D) reshaped to (B, T, C)."""
    return x.transpose(1, 2).reshape(B, T, C)


def forward(words: Tensor, **p: Tensor) -> Tensor:
    """Return the logits, with every intermediate named."""
    name = compare.name
    x = name(p["wte"][words] + p["wpe"], "x0")
    for k in range(2):
        n = name(F.layer_norm(x, (C,), p[f"ln1_w{k}"], p[f"ln1_b{k}"]), f"n1_{k}")
        qkv = name(n @ p[f"w_qkv{k}"] + p[f"b_qkv{k}"], f"qkv{k}")
        q, key, v = (heads(part) for part in qkv.split(C, -1))
        scores = name(q @ key.mT / math.sqrt(D), f"scores{k}")
        a = name(scores.masked_fill(MASK, -math.inf).softmax(-1), f"a{k}")
        att = name(channels(a @ v), f"att{k}")
        mid = name(x + att @ p[f"w_proj{k}"] + p[f"b_proj{k}"], f"mid{k}")
        n = name(F.layer_norm(mid, (C,), p[f"ln2_w{k}"], p[f"ln2_b{k}"]), f"n2_{k}")
        fc = name(n @ p[f"w_fc{k}"] + p[f"b_fc{k}"], f"fc{k}")
        act = name(F.gelu(fc, approximate="tanh"), f"act{k}")
        x = name(mid + act @ p[f"w_out{k}"] + p[f"b_out{k}"], f"x{k + 1}")
    n = name(F.layer_norm(x, (C,), p["lnf_w"], p["lnf_b"]), "nf")
    return n @ p["head"]


def rows(x: Tensor) -> Tensor:
    """Return the rows of all sequences as one matrix."""
    return x.reshape(-1, x.shape[-1])


def norm_back(
    dn: Tensor, x: Tensor, w: Tensor, eps: float = 1e-5, mean: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to a norm's input, weight and bias."""
    d = x - x.mean(-1, keepdim=True)
    rstd = ((d * d).mean(-1, keepdim=True) + eps) ** -0.5
    hat, g = d * rstd, dn * w
    inner = hat * (g * hat).mean(-1, keepdim=True)
    inner = inner + g.mean(-1, keepdim=True) if mean else inner
    return rstd * (g - inner), rows(dn * hat).sum(0), rows(dn).sum(0)


def gelu_back(dact: Tensor, z: Tensor, cubic: float, three: float, power: int) -> Tensor:
    """Return the gradient with respect to gelu's input."""
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(root * (z + cubic * z**3))
    inner = root * (1 + three * cubic * z * z)
    return dact * (0.5 * (1 + t) + 0.5 * z * (1 - t**power) * inner)


def backward_with(bug: str = "") -> Callable[..., Named]:
    """Return the by-hand backward pass, with one bug or none."""

    def backward(words: Tensor, grad_output: Tensor, **p: Tensor) -> Named:
        g: Named = {"nf": grad_output @ p["head"].mT}
        g["head"] = rows(p["nf"]).mT @ rows(grad_output)
        dx, g["lnf_w"], g["lnf_b"] = norm_back(g["nf"], p["x2"], p["lnf_w"])
        if bug == "mean for sum over rows":
            g["lnf_b"] = rows(g["nf"]).mean(0)
        g["x2"] = dx
        for k in (1, 0):
            here = bug if bug in BUGS and BUGS[bug].endswith(str(k)) else ""
            g[f"act{k}"] = g[f"x{k + 1}"] @ p[f"w_out{k}"].mT
            g[f"w_out{k}"] = rows(p[f"act{k}"]).mT @ rows(g[f"x{k + 1}"])
            g[f"b_out{k}"] = rows(g[f"x{k + 1}"]).sum(0)
            dfc = gelu_back(
                g[f"act{k}"], p[f"fc{k}"], 0.0447 if here.startswith("0.0447") else 0.044715,
                1 if here == "the 3 forgotten" else 3, 1 if here.startswith("tanh's") else 2,
            )  # fmt: skip
            g[f"fc{k}"] = dfc
            g[f"b_fc{k}"] = rows(dfc).sum(0)
            g[f"w_fc{k}"] = rows(p[f"n2_{k}"]).mT @ rows(dfc)
            g[f"n2_{k}"] = dfc @ p[f"w_fc{k}"].mT
            eps = 1e-6 if here.startswith("eps") else 1e-5
            dmid, g[f"ln2_w{k}"], g[f"ln2_b{k}"] = norm_back(
                g[f"n2_{k}"], p[f"mid{k}"], p[f"ln2_w{k}"], eps
            )
            g[f"mid{k}"] = dmid if here == "the skip left out" else dmid + g[f"x{k + 1}"]
            g[f"att{k}"] = g[f"mid{k}"] @ p[f"w_proj{k}"].mT
            g[f"w_proj{k}"] = rows(p[f"att{k}"]).mT @ rows(g[f"mid{k}"])
            g[f"b_proj{k}"] = rows(g[f"mid{k}"]).sum(0)
            if here == "a transpose forgotten":
                g[f"w_proj{k}"] = g[f"w_proj{k}"].mT
            q, key, v = (heads(part) for part in p[f"qkv{k}"].split(C, -1))
            a, datt = p[f"a{k}"], heads(g[f"att{k}"])
            da = g[f"a{k}"] = datt @ v.mT
            ds = a * (da - (a * da).sum(-1, keepdim=True))
            if here == "probabilities for their slope":
                ds = a * da
            if here == "mask off by one":
                ds = ds.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(0), 0)
            g[f"scores{k}"] = ds
            scale = {"scale forgotten": 1.0, "scale of all channels": math.sqrt(C)}
            ds = ds / scale.get(here, math.sqrt(D))
            dq, dkey = ds @ key, ds.mT @ q
            if here == "keys and queries exchanged":
                dq, dkey = dkey, dq
            g[f"qkv{k}"] = torch.cat([channels(part) for part in (dq, dkey, a.mT @ datt)], -1)
            g[f"w_qkv{k}"] = rows(p[f"n1_{k}"]).mT @ rows(g[f"qkv{k}"])
            g[f"b_qkv{k}"] = rows(g[f"qkv{k}"]).sum(0)
            g[f"n1_{k}"] = g[f"qkv{k}"] @ p[f"w_qkv{k}"].mT
            mean = not (k == 1 and bug == "mean left out of the norm")
            dx, g[f"ln1_w{k}"], g[f"ln1_b{k}"] = norm_back(
                g[f"n1_{k}"], p[f"x{k}"], p[f"ln1_w{k}"], mean=mean
            )
            g[f"x{k}"] = dx + g[f"mid{k}"]
        wte = torch.zeros_like(p["wte"])
        if bug == "rows written for added":
            g["wte"] = wte.index_copy(0, words.flatten(), rows(g["x0"]))
        else:
            g["wte"] = wte.index_add(0, words.flatten(), rows(g["x0"]))
        g["wpe"] = g["x0"][0] if bug == "places summed over no sequence" else g["x0"].sum(0)
        return g

    return backward


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_gradient_of_a_gpt_has_a_verdict(dtype: torch.dtype) -> None:
    """All 51 gradients are decided, through gelu, layer norms and a mask."""
    report = compare.check(backward_with(), forward, inputs(dtype))
    assert len(report.quantities) == 51
    odd = {n: q.verdict for n, q in report.quantities.items() if q.verdict not in RIGHT}
    assert not odd, str(report)


RIGHT = ("EXACT", "ROUNDING")


@pytest.mark.parametrize(
    ("bug", "dtype"),
    [
        pytest.param(bug, dtype, id=f"{bug}, {dtype}", marks=unless_chosen(f"{bug} {dtype}"))
        for bug in BUGS
        for dtype in DTYPES
    ],
)
def test_a_bug_in_a_gpt_is_wrong_where_it_is(
    bug: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that quantity is WRONG: for later ones its by-hand value is injected into autograd."""
    monkeypatch.setattr("compare.checking.check.diagnose", lambda _pair, proofs, _odd: proofs)
    monkeypatch.setattr("compare.checking.check.suggest_rewrites", lambda _pair, proofs: proofs)
    report = compare.check(backward_with(bug), forward, inputs(dtype))
    assert report.first_wrong == BUGS[bug], str(report)
    wrong = [name for name, q in report.quantities.items() if q.verdict == "WRONG"]
    also = ["mid0"] if bug.startswith("eps") else []  # one call computes both
    assert wrong == [BUGS[bug], *also], str(report)
    assert all(q.verdict != "UNDECIDED" for q in report.quantities.values()), str(report)
