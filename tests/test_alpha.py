"""The author's table of alphas, as printed in his follow-up post on gradient descent."""

import dataclasses

import pytest
import torch

from compare.cases.cases import CASES, Network
from compare.training.harness import run
from compare.training.sampling import draw
from manual import three_layer

SWEEP = CASES["alpha"].sweep
# Mean absolute error at steps 0, 10,000 ... 50,000. Two rows are left out, hidden 4 with alpha 100
# and hidden 32 with alpha 10: there the order of summation alone changes printed digits.
PRINTED = {
    (4, 0.001): "0.496410031903 0.495164025493 0.493596043188 0.491606358559 0.489100166544 0.485977857846",
    (4, 0.01): "0.496410031903 0.457431074442 0.359097202563 0.239358137159 0.143070659013 0.0985964298089",
    (4, 0.1): "0.496410031903 0.0428880170001 0.0240989942285 0.0181106521468 0.0149876162722 0.0130144905381",
    (4, 1.0): "0.496410031903 0.00858452565325 0.00578945986251 0.00462917677677 0.00395876528027 0.00351012256786",
    (4, 10.0): "0.496410031903 0.00312938876301 0.00214459557985 0.00172397549956 0.00147821451229 0.00131274062834",
    (4, 1000.0): "0.496410031903 0.5 0.5 0.5 0.5 0.5",
    (32, 0.001): "0.496439922501 0.491049468129 0.484976307027 0.477830678793 0.46903846539 0.458029258565",
    (32, 0.01): "0.496439922501 0.356379061648 0.146939845465 0.0880156127416 0.065147819275 0.0529658087026",
    (32, 0.1): "0.496439922501 0.0305404908386 0.0190638725334 0.0147643907296 0.0123892429905 0.0108421669738",
    (32, 1.0): "0.496439922501 0.00736052234249 0.00497251705039 0.00396863978159 0.00338641021983 0.00299625684932",
    (32, 100.0): "0.496439922501 0.5 0.5 0.5 0.5 0.5",
    (32, 1000.0): "0.496439922501 0.5 0.5 0.5 0.5 0.5",
}  # fmt: skip


def test_the_sweep_is_the_authors_table() -> None:
    assert {(n.sizes[1], n.alpha) for n in SWEEP} == PRINTED.keys() | {(4, 100.0), (32, 10.0)}


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "alpha"), PRINTED)
def test_errors_by_hand_equal_the_printed_ones(hidden: int, alpha: float) -> None:
    network = Network((3, hidden, 1), alpha=alpha)
    case = dataclasses.replace(CASES["alpha"], network=network)
    sample = draw(case, seed=1, population=1, dtype=torch.float64, device=torch.device("cpu"))
    state = {name: w[0] for name, w in sample.state.items()}
    printed = []
    for step in range(50_001):
        values = three_layer.step(
            X=sample.X[0], y=sample.y[0], **state, sizes=network.sizes, alpha=alpha,
            grouping="left_to_right",
        )  # fmt: skip
        state = {name: values[name] for name in state}
        if step % 10_000 == 0:
            printed.append(f"{float(values['l2_error'].abs().mean()):.12g}")
    assert " ".join(printed) == PRINTED[hidden, alpha]


@pytest.mark.parametrize("network", SWEEP, ids=str)
def test_every_network_of_the_table_has_autograds_bits(network: Network) -> None:
    """The first steps are checked; `python -m compare run alpha` trains to the end."""
    report = run(dataclasses.replace(CASES["alpha"], network=network), steps=1500)
    assert report.verdict == "EXACT", str(report)
