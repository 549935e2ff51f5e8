"""`bench`: it times the right things and computes ratios correctly; speed itself is not tested."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from compare.bench import bench, claims, growth, results, subprocesses, torch_steps, workloads
from compare.bench import other_libraries as others
from compare.bench.claims import CHOICES, GROUPS, Claim, Group
from compare.bench.timing import NotAvailable, Times, Work, side_by_side, spread, timed
from compare.bench.torch_steps import Problem, draw_problem, random_case
from compare.cases.cases import CASES, Case
from compare.cli.main import main
from compare.console import PlainConsole

THREE = CASES["three_layer"]
Maker = Callable[[Problem], Any]


def same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "peer", [torch_steps.Fused, torch_steps.Autograd, others.Numpy, others.Func]
)
@pytest.mark.parametrize("case", [THREE, random_case((8, 6, 4), 5)], ids=["listing", "network"])
def test_each_peer_learns_what_the_by_hand_step_learns(peer: Maker, case: Case) -> None:
    """Thirty steps, some at a time, lead every peer to the by-hand weights, to rounding."""
    if peer is others.Numpy and case is not THREE:
        pytest.skip("the listing is the blog's network alone: its alpha is 1")
    drawn = draw_problem(case, torch.float64)
    manual, other = torch_steps.ByHand(drawn), peer(drawn)
    manual.take(30)
    other.take(10)
    other.take(20)
    same_weights(manual.weights(), other.weights())
    assert not torch.equal(manual.weights()["syn0"], drawn.state["syn0"]), "it has learned"


def test_by_hand_weights_stay_in_their_memory() -> None:
    """As those of torch.optim do; the problem's own are left to the other peers."""
    drawn = draw_problem(random_case((8, 6, 4), 5), torch.float32)
    peer = torch_steps.ByHand(drawn)
    before = {name: value.data_ptr() for name, value in peer.weights().items()}
    first = {name: value.clone() for name, value in drawn.state.items()}
    peer.take(3)
    assert {name: value.data_ptr() for name, value in peer.weights().items()} == before
    for name, value in drawn.state.items():
        assert torch.equal(value, first[name])
        assert not torch.equal(value, peer.weights()[name])


def test_digits_by_hand_and_by_autograd_learn_the_same() -> None:
    """Mini-batches, biases, momentum and cross-entropy; the batches come round again."""
    pytest.importorskip("sklearn")
    drawn = draw_problem(CASES["digits"], torch.float64)
    manual, other = torch_steps.ByHand(drawn), torch_steps.Autograd(drawn)
    manual.take(20)
    other.take(20)
    same_weights(manual.weights(), other.weights())


@pytest.mark.parametrize("whole", [False, True], ids=["step", "loop"])
@pytest.mark.parametrize("population", [None, 3])
def test_jax_learns_the_same(whole: bool, population: int | None) -> None:
    pytest.importorskip("jax")
    drawn = draw_problem(THREE, torch.float64, population=population)
    manual, other = torch_steps.ByHand(drawn), others.Jax(drawn, whole=whole)
    manual.take(30)
    other.take(30)
    same_weights(manual.weights(), other.weights())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own use of torch.jit
def test_the_compiled_peer_learns_the_same_or_says_why_not() -> None:
    """Its warm-up does not change its weights."""
    drawn = draw_problem(THREE, torch.float64)
    try:
        other = others.Compiled(drawn)
    except NotAvailable as error:
        pytest.skip(f"not available: {error}")
    manual = torch_steps.ByHand(drawn)
    manual.take(30)
    other.take(30)
    same_weights(manual.weights(), other.weights())


def test_a_failing_compiler_gets_a_short_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler result\nand so on")

    monkeypatch.setattr(torch, "compile", lambda _: fails)
    with pytest.raises(NotAvailable, match=r"^no C\+\+ compiler$"):
        others.Compiled(draw_problem(THREE, torch.float64))


def test_missing_jax_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(NotAvailable, match="JAX is not installed"):
        others.Jax(draw_problem(THREE, torch.float64), whole=True)


@pytest.mark.parametrize("peer", [torch_steps.Fused, others.Func])
def test_a_population_learns_what_each_network_learns(peer: Maker) -> None:
    drawn = draw_problem(THREE, torch.float64, population=4)
    manual, other = torch_steps.ByHand(drawn), peer(drawn)
    manual.take(20)
    other.take(20)
    same_weights(manual.weights(), other.weights())


def test_the_products_alone_are_those_of_a_fused_step() -> None:
    """They multiply the tensors in memory and do not change the weights."""
    drawn = draw_problem(random_case((8, 6, 4), 5), torch.float32)
    products = torch_steps.Products(drawn)
    before = {name: value.clone() for name, value in products.weights().items()}
    products.take(3)
    f = products.fused
    torch.testing.assert_close(f.l2, f.l0 @ f.syn0 @ f.syn1)
    torch.testing.assert_close(f.l1_error, f.l2_delta @ f.syn1.mT)
    for name, value in products.weights().items():
        assert torch.equal(value, before[name])


def planted_take(figures: list[float]) -> Callable[[int], float]:
    """Return a `take` that returns planted seconds, one for each call."""
    left = iter(figures)
    return lambda _: next(left)


def test_ratios_are_of_the_same_round() -> None:
    """Noise that slows a whole round leaves its ratio as it is."""
    times = Times()
    planted = [
        Work("base", lambda: planted_take([9.0, 2.0, 20.0, 4.0]), 2),
        Work("ours", lambda: planted_take([9.0, 1.0, 10.0, 6.0]), 2),
        Work("both", lambda: planted_take([9.0, 9.0, 15.0, 30.0]), 1, each=3),
    ]
    side_by_side(planted, times, seconds=0, rounds=3)
    assert times.figures["ours"] == [0.5, 5.0, 3.0]
    assert times.ratios("ours", ("base",)) == [0.5, 0.5, 1.5]
    assert times.ratios("both", ("base", "ours")) == [2.0, 1 / 3, 2.0]
    assert times.ratios("ours", ()) == [0.5, 5.0, 3.0]
    assert times.ratios("ours", ("missing",)) == []
    result = spread(times.ratios("ours", ("base",)))
    assert result == {"median": 0.5, "least": 0.5, "most": 1.5}


def test_unavailable_workloads_are_left_out_with_a_reason() -> None:
    def missing() -> Callable[[int], None]:
        raise NotAvailable("no such thing")

    times = Times()
    side_by_side([Work("a", lambda: planted_take([1.0] * 3), 1), Work("b", missing)], times,
                 seconds=0, rounds=2)  # fmt: skip
    assert times.figures == {"a": [1.0, 1.0]}
    assert times.not_here == {"b": "no such thing"}


def test_steps_fill_a_slice_and_rounds_fill_the_seconds() -> None:
    """A quick workload gets more steps per round; rounds continue until the time is over."""
    seen: list[int] = []

    def take(steps: int) -> float:
        seen.append(steps)
        return steps * 1e-3

    times = Times()
    side_by_side([Work("a", lambda: take)], times, seconds=0.02, rounds=2)
    assert seen[0] == 1
    assert seen[-1] * 1e-3 >= 0.05
    assert len(times.figures["a"]) > 2
    assert times.figures["a"] == pytest.approx([1e-3] * len(times.figures["a"]))


def test_what_compiles_at_its_first_call_is_timed_warm() -> None:
    """The compilation, 200 slices long, counts nowhere, also not in the choice of the steps."""
    seen: list[int] = []

    def take(steps: int) -> float:
        seen.append(steps)
        return steps * 1e-4 + (10.0 if len(seen) == 1 else 0.0)

    times = Times()
    side_by_side([Work("a", lambda: take)], times, seconds=0, rounds=3)
    assert seen[-1] * 1e-4 >= 0.05
    assert times.figures["a"] == pytest.approx([1e-4] * 3)


def test_gc_is_off_during_timing() -> None:
    import gc

    states: list[bool] = []
    timed(lambda _: states.append(gc.isenabled()), 1)
    assert states == [False]
    assert gc.isenabled()


def test_ctrl_c_keeps_the_whole_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, times = threading.Event(), Times()
    monkeypatch.setattr("compare.bench.timing.stop", stop)
    calls: list[int] = []

    def take(_: int) -> float:
        calls.append(1)
        if len(calls) == 6:  # two warm-ups, one round and half another
            stop.set()
        return 1.0

    planted = [Work("a", lambda: take, 1), Work("b", lambda: take, 1)]
    with pytest.raises(KeyboardInterrupt):
        side_by_side(planted, times, seconds=9, rounds=9)
    assert times.figures == {"a": [1.0], "b": [1.0]}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_slopes_of_planted_power_laws(power: float) -> None:
    sizes = (3, 10, 40, 100)
    planted = {str(size): [7e-6 * size**power] * 3 for size in sizes}
    result = growth.measured("width", Times(planted))
    assert result.slope == pytest.approx(power, abs=1e-9)
    assert result.last == pytest.approx(power, abs=1e-9)
    assert result.sizes == sizes


def test_every_growth_has_at_least_four_sizes() -> None:
    assert growth.SIZES.keys() == growth.SMALL.keys() == claims.GROWTHS.keys()
    assert min(map(len, [*growth.SIZES.values(), *growth.SMALL.values()])) >= 4


@pytest.mark.parametrize(("figure", "holds"), [(0.5, True), (0.51, False), (math.nan, False)])
def test_a_claim_holds_up_to_its_limit(figure: float, holds: bool) -> None:
    assert Claim("a", 0.5).holds(figure) is holds


def test_a_summary_of_planted_times() -> None:
    """Ratio, spread, claims and the peers that are faster, from figures by hand."""
    group = Group("g", "one step", "ms", 1e3, "base",
                  claims=(Claim("ours", 0.5, over=("base",), aim=0.2, held=("X", "Y")),
                          Claim("ours", 0.9, over=("peer",), held=("Y",)),
                          Claim("absent", 1.0, over=("base",))),
                  project=("ours",))  # fmt: skip
    times = Times({"base": [10.0, 10.0, 10.0], "ours": [4.0, 5.0, 3.0], "peer": [1.0, 6.0, 1.0]},
                  {"other": "not installed"})  # fmt: skip
    result = results.summary(group, times)
    rows = {row["label"]: row for row in result["rows"]}
    assert rows["ours"]["ratio"] == {"median": 0.4, "least": 0.3, "most": 0.5}
    assert rows["ours"]["faster_than"] == []
    assert rows["peer"]["faster_than"] == ["ours"]
    assert rows["base"]["faster_than"] == []
    assert [claim["holds"] for claim in result["claims"]] == [True, False, None]
    assert result["rounds"] == 3

    console = PlainConsole()
    with console.capture() as capture:
        console.print(results.table(result), width=200)
    text = capture.get()
    assert "< faster than: ours" in text
    assert "holds: at most 0.5, aim 0.2; held on X, Y" in text
    assert "DOES NOT HOLD HERE: at most 0.9; held on" in text
    assert "not available: not installed" in text
    assert "not measured: at most 1; not seen to hold" in text


def test_our_own_measurements_are_no_peers() -> None:
    """The check of one program is not faster than the check of another."""
    group = GROUPS["verdict"]
    times = Times(
        {label: [1.0] for label in (group.base, *claims.NO_PEERS)} | {claims.CHECK: [2.0]}
    )
    rows = {row["label"]: row["faster_than"] for row in results.summary(group, times)["rows"]}
    assert [label for label, slower in rows.items() if slower] == [group.base]


def test_claims_name_existing_workloads() -> None:
    """Every label in the table of claims is one that its group measures."""
    for group in GROUPS.values():
        labels = {work.label for work in workloads.works(group.name)}
        named = {group.base, *group.project}
        for claim in group.claims:
            named |= {claim.what, *claim.over}
            assert {*claim.held} <= {claims.AVX2, claims.AVX512}
        assert named <= labels, group.name


OFTEN = [n for n in CHOICES if n not in ("start", "three_layer", "wide", "huge_memory")]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.long if n in ("large_memory", "growth") else ())
        for n in OFTEN
    ],
)
def test_a_tiny_run_of_each_group(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the speed is as in a whole run; only the compiler is left out."""
    tiny_run(name, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("start", marks=pytest.mark.long), "three_layer", "wide"]
)
def test_a_tiny_run_of_the_slower_groups(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run(name, tmp_path, monkeypatch)


def tiny_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda _: compile_nothing)
    file = tmp_path / "bench.json"
    console = PlainConsole()
    with console.capture() as capture:
        assert bench.bench(console, only=[name], json_to=str(file), small=True) == 0
    result = json.loads(file.read_text())
    assert result.keys() == {"machine", "groups", "growth", "interrupted", "seconds"}
    assert {"torch", "numpy", "python", "threads", "cpu", "cores", "load"} <= set(result["machine"])
    assert result["machine"]["cpu"] in capture.get().replace("\n", " ")
    assert result["interrupted"] is False
    if name == "growth":
        assert [each["name"] for each in result["growth"]] == list(claims.GROWTHS)
        for each in result["growth"]:
            assert len(each["sizes"]) == len(each["seconds"]) >= 4
            assert math.isfinite(each["slope"] + each["last"])
        return
    (group,) = result["groups"]
    assert group.keys() == {
        "name", "title", "unit", "scale", "base", "rounds", "rows", "not_here", "claims"
    }  # fmt: skip
    labels = [work.label for work in workloads.works(name, small=True)]
    assert {row["label"] for row in group["rows"]} | set(group["not_here"]) == set(labels)
    for row in group["rows"]:
        assert row["median"] >= 0 or name == "start", "a difference of times"
        assert row["least"] <= row["median"] <= row["most"]
    for claim in group["claims"]:
        assert claim.keys() == {"what", "over", "limit", "aim", "held", "measured", "holds"}


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    grown = [growth.Growth(name, (1, 2, 4, 8), (1.0, 2.0, 3.0, 9.0)) for name in claims.GROWTHS]
    growth.plot(grown, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--only", "three_layr"],
            "unknown group 'three_layr': did you mean three_layer or start or large?",
        ),
        (["--json", "/nowhere/b.json"], "--json /nowhere/b.json: no file can be written there"),
        (["--json", ""], "--json : no file can be written there"),
        (["--plot", "/nowhere/b.png"], "--plot /nowhere/b.png: no file can be written there"),
        (["--plot", "b.pdf"], "--plot b.pdf: name a file that ends in .png"),
        (["--threads", "0"], "--threads 0: give 1 to 1024"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_input_is_refused_in_a_line_before_timing(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(bench, "bench", lambda *_a, **_k: pytest.fail("it was timed"))
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"compare: {message}")
    assert err.count("\n") == 1
    assert out == ""


def test_a_plot_without_matplotlib_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--only", "growth", "--plot", str(tmp_path / "g.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_ctrl_c_prints_and_writes_the_measurements_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_works: list[Work], times: Times, **_: object) -> None:
        times.figures = {claims.AUTOGRAD: [2.0], claims.HAND: [1.0]}
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "side_by_side", interrupted)
    file, console = tmp_path / "bench.json", PlainConsole()
    with console.capture() as capture:
        assert bench.bench(console, only=["digits", "wide"], json_to=str(file)) == 130
    assert "one step of digits" in capture.get()
    result = json.loads(file.read_text())
    assert result["interrupted"] is True
    assert [group["name"] for group in result["groups"]] == ["digits"]
    assert result["groups"][0]["rows"][1]["ratio"]["median"] == 0.5


def test_help_names_every_group_and_leaves_torch_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from compare.cli.main import main\n"
        "try: main(['bench', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in CHOICES)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_the_peak_sees_what_a_step_holds() -> None:
    """Of 1000-1000-1000 by hand: two updates and two new matrices of 4 MB, at least."""
    peak = partial(subprocesses.peak, sizes=(1000, 1000, 1000), rows=4)
    assert 15e6 < peak(claims.HAND) < 80e6


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="unknown case"):
        subprocesses.cpu("run", "nosuch")
