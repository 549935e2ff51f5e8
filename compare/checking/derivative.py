"""Which side is right where autograd is not the derivative of forward, and what follows for it.

Autograd may be cut on purpose: the target of Q-learning is detached, a straight-through gradient is
a custom Function. Then only the user knows which gradient is meant. Where nothing was cut on
purpose, a NaN from an unused branch say, the derivative decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compare.errors import unknown
from compare.passes.cuts import NOT_ON_PURPOSE, cuts
from compare.passes.forward import ForwardPass
from compare.proof.explanations import agree_nearby
from compare.proof.kinks import other_subgradients
from compare.proof.lifted_pair import LiftedPair
from compare.proof.literals import AS_WRITTEN
from compare.proof.pair import Pair
from compare.proof.program import base_name
from compare.proof.rounding import largest_share
from compare.proof.verdict import BY_HAND, NEITHER, ROUNDING, UNDECIDED, WRONG, Proof
from compare.proof.witness import Witness, autograd_at_fault, remark, witnesses

#: What a check may judge by; None: autograd, and the user is asked where that is cut.
REFERENCES = AUTOGRAD, DERIVATIVE = "autograd", "derivative"


@dataclass(frozen=True)
class Derivative:
    """What the derivative of forward says of each gradient.

    Attributes:
        found: Name -> what it says.
        cuts: What may keep autograd from it, in words; only looked for where something does.
        surrogates: The surrogate gradients that forward has, in words; likewise.
        decided: The names whose verdict is that of the derivative, or waits for the user's word.
    """

    found: Mapping[str, Witness]
    cuts: Sequence[str] = ()
    surrogates: Sequence[str] = ()
    decided: frozenset[str] = frozenset()

    @property
    def fault(self) -> str:
        """In words, where autograd is not the derivative; "" if it is, or need not be."""
        return "" if self.surrogates else remark(self.found, self.cuts)


def with_derivative(
    pair: Pair, forward: ForwardPass, proofs: Mapping[str, Proof], reference: str | None
) -> tuple[dict[str, Proof], Derivative]:
    """Return the proofs, changed where the derivative of forward has a say, and what it says.

    Args:
        pair: Both sides' values.
        forward: The forward pass.
        proofs: The proofs beside autograd.
        reference: One of REFERENCES, or None.
    """
    found = witnesses(pair)
    at_fault = autograd_at_fault(found)
    named, surrogates = cuts(forward) if at_fault else ([], [])
    on_purpose = [cut for cut in named if not cut.startswith(NOT_ON_PURPOSE)]
    reference = AUTOGRAD if surrogates else reference  # their author says what is meant
    changed = {}
    for name, witness in found.items():
        if name in proofs and reference != AUTOGRAD:
            proof = _judged(pair, name, proofs[name], witness, on_purpose, reference)
            if proof is not proofs[name]:
                changed[name] = proof
    return {**proofs, **changed}, Derivative(found, named, surrogates, frozenset(changed))


def undecided_without(derivative: Derivative, proofs: Mapping[str, Proof]) -> dict[str, Proof]:
    """Return the proofs, UNDECIDED for gradients of which the derivative was not asked.

    It is not asked of large passes, and not if the time is up.
    """
    why = "the derivative of forward, which is the reference, was not asked"
    return {
        name: Proof(UNDECIDED, why)
        if proof.verdict.passes and name not in derivative.found and base_name(name) != "output"
        else proof
        for name, proof in proofs.items()
    }


def check_reference(reference: str | None) -> None:
    """Raise BadInput unless a reference is None or one of REFERENCES."""
    if reference is not None and reference not in REFERENCES:
        raise unknown("reference", reference, REFERENCES)


def _judged(
    pair: Pair, name: str, proof: Proof, witness: Witness, on_purpose: Sequence[str],
    reference: str | None,
) -> Proof:  # fmt: skip
    """Return a proof, changed if the derivative of forward decides."""
    unknown_here = witness.derivative is None and witness.movable
    if proof.verdict == WRONG and unknown_here and proof.at is not None:
        return _at_kinks(pair, name, proof)
    if witness.derivative == BY_HAND and not proof.verdict.passes:
        if reference is None and on_purpose:
            text = (
                "the derivative of forward, and not what autograd gives, which is cut by "
                f'{", ".join(on_purpose)}: say which is meant, reference="derivative" or "autograd"'
            )
            return Proof(UNDECIDED, text)
        return _of_derivative(pair, name, witness)
    if reference != DERIVATIVE:
        return proof
    if witness.derivative is None:
        return Proof(UNDECIDED, f"the derivative of forward is not known: {witness.why}")
    if witness.derivative == NEITHER and proof.verdict.passes:
        return replace(proof, verdict=WRONG, text="autograd's gradient, not forward's derivative")
    return proof


def _at_kinks(pair: Pair, name: str, proof: Proof) -> Proof:
    """Return the proof, ROUNDING if all that differs are other subgradients at kinks."""
    kinks = other_subgradients(pair, name)
    if kinks is None or not agree_nearby(pair, name):
        return proof
    count = f"{kinks:,} element{'s' * (kinks != 1)}"
    text = (
        f"{count} at a kink: another subgradient than autograd's; the same formula elsewhere and "
        "at nearby inputs"
    )
    found = _within_bound(pair, name, text)
    return replace(found, kinks=kinks) if found.verdict == ROUNDING else proof


def _of_derivative(pair: Pair, name: str, witness: Witness) -> Proof:
    """Judge the numbers of a formula that is the derivative."""
    text = f"the derivative of forward, to {witness.digits} digits; autograd's value is not"
    return _within_bound(pair, name, text)


def _within_bound(pair: Pair, name: str, text: str) -> Proof:
    """Judge the numbers of a right formula by the rounding bound of their own operations."""
    quantity = LiftedPair(pair).quantity(pair.manual_program, AS_WRITTEN, name)
    if quantity is None or not quantity.known:
        return Proof(UNDECIDED, f"{text}; no rounding bound could be computed")
    shares = quantity.shares_of_bound(pair.manual[name])
    share = largest_share(shares)
    if not share <= 1:
        text += f"; the error by hand is {share:.3g} times the rounding bound of its own operations"
        return Proof(WRONG, text, share=share)
    if bool(shares.isnan().any()):
        return Proof(UNDECIDED, f"{text}; its rounding bound is not finite")
    return Proof(ROUNDING, text, lifted=True, share=share)
