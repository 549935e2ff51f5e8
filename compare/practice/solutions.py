"""The complete text of a practice file, one for each level.

A line below a `#?` is one to fill in: a practice file has `...` in its place. The first `#?` line
is the hint that a learner gets, the following ones are shown with --hint. Imports nothing.
"""

_DATA = """\
import numpy as np
import torch


def sigmoid(x):
    return torch.sigmoid(x)


X = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)
"""


def _xor(hidden: int) -> str:
    """Return the data, and the lines that draw weights: 3 inputs, `hidden` values, 1 output."""
    return f"""\
{_DATA}y = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)

np.random.seed(1)
syn0 = torch.from_numpy(2 * np.random.random((3, {hidden})) - 1)
syn1 = torch.from_numpy(2 * np.random.random(({hidden}, 1)) - 1)
"""


def _l2(hidden: int, *, plus: str = "") -> str:
    """Return the lines from l2 to l1_error, which every network of three layers shares."""
    more = f", plus {plus}" if plus else ""
    return f"""\
    #? The last layer does with l1 what the first did with l0: multiply, sum, squash.
    #? l2 is the sigmoid of l1 (4, {hidden}) times syn1 ({hidden}, 1){more}.
    l2 = sigmoid(l1 @ syn1{f" + {plus}" if plus else ""})  # (4, 1)

    # how far is it off, and how sure was it?
    #? The miss is a difference; with the right sign, adding it helps.
    #? The target y minus the output l2.
    l2_error = y - l2  # (4, 1)
    #? Where l2 is near 0 or 1 the sigmoid is flat, and there the miss should count for little.
    #? l2_error times the slope of the sigmoid, which can be written with l2 alone.
    l2_delta = l2_error * (1 - l2) * l2  # (4, 1)

    # whose fault was it?
    #? The delta goes back the way that l1 came: through the same weights.
    #? A matrix product, l2_delta (4, 1) times syn1 transposed (1, {hidden}).
    l1_error = l2_delta @ syn1.T  # (4, {hidden})
"""


_L1 = """\
    #? Multiply each row of inputs by the weights, sum, and squash the sum to between 0 and 1.
    #? l1 is the sigmoid of a matrix product: l0 (4, 3) times syn0 (3, 4).
    l1 = sigmoid(l0 @ syn0)  # (4, 4)
"""
_L1_DELTA = """\
    #? As with l2_delta: a hidden value that was sure of itself should change little.
    #? l1_error times the slope of the sigmoid at l1.
    l1_delta = l1_error * (1 - l1) * l1  # (4, 4)
"""
_MOVE_SYN1 = """\
    #? A weight moves by the value that came in through it times its delta, summed over the rows.
    #? The sum over rows is a matrix product: l1 transposed times l2_delta.
"""
_MOVE_SYN0 = """\
    #? As with syn1, one layer further down.
    #? l0 transposed (3, 4) times l1_delta.
"""

TEXTS = {
    "two_layer": f"""{_DATA}y = torch.tensor([[0], [0], [1], [1]], dtype=torch.float64)

np.random.seed(1)
syn0 = torch.from_numpy(2 * np.random.random((3, 1)) - 1)

for j in range(10_000):
    # forward: what does the network say now?
    l0 = X  # (4, 3)
    #? Multiply each row of inputs by the weights, sum, and squash the sum to between 0 and 1.
    #? l1 is the sigmoid of a matrix product: l0 (4, 3) times syn0 (3, 1).
    l1 = sigmoid(l0 @ syn0)  # (4, 1)

    # how far is it off, and how sure was it?
    #? The miss is a difference; with the right sign, adding it helps.
    #? The target y minus the output l1.
    l1_error = y - l1  # (4, 1)
    #? Where l1 is near 0 or 1 the sigmoid is flat, and there the miss should count for little.
    #? l1_error times the slope of the sigmoid, which can be written with l1 alone.
    l1_delta = l1_error * (1 - l1) * l1  # (4, 1)

    # move the weights
    #? A weight moves by the value that came in through it times its delta, summed over the rows.
    #? The sum over rows is a matrix product: l0 transposed (3, 4) times l1_delta.
    syn0 += l0.T @ l1_delta  # (3, 1)
""",
    "three_layer": f"""{_xor(4)}
for j in range(60_000):
    # forward: what does the network say now?
    l0 = X  # (4, 3)
{_L1}{_l2(4)}{_L1_DELTA}
    # every delta is known: now the weights move
{_MOVE_SYN1}    syn1 += l1.T @ l2_delta  # (4, 1)
{_MOVE_SYN0}    syn0 += l0.T @ l1_delta  # (3, 4)
""",
    "bias": f"""{_xor(4)}bias0 = torch.zeros(1, 4, dtype=torch.float64)
bias1 = torch.zeros(1, 1, dtype=torch.float64)

for j in range(10_000):
    # forward: a bias is a weight from an input that is always 1
    l0 = X  # (4, 3)
    #? Multiply and sum as before; then each hidden value adds its own bias, before the squashing.
    #? l1 is the sigmoid of l0 (4, 3) times syn0 (3, 4), plus bias0 (1, 4).
    l1 = sigmoid(l0 @ syn0 + bias0)  # (4, 4)
{_l2(4, plus="bias1")}{_L1_DELTA}
    # every delta is known: now the weights move, and the biases
{_MOVE_SYN1}    syn1 += l1.T @ l2_delta  # (4, 1)
    #? A 1 comes in through a bias in every row. What is left of the rule for a weight?
    #? The sum of l2_delta over the rows, kept as a row: .sum(0, keepdim=True).
    bias1 += l2_delta.sum(0, keepdim=True)  # (1, 1)
{_MOVE_SYN0}    syn0 += l0.T @ l1_delta  # (3, 4)
    #? As with bias1, one layer further down.
    #? The sum of l1_delta over the rows, kept as a row.
    bias0 += l1_delta.sum(0, keepdim=True)  # (1, 4)
""",
    "momentum": f"""{_xor(4)}v0 = torch.zeros_like(syn0)  # the speed of each weight
v1 = torch.zeros_like(syn1)
alpha, momentum = 0.1, 0.9

for j in range(10_000):
    # forward: what does the network say now?
    l0 = X  # (4, 3)
{_L1}{_l2(4)}{_L1_DELTA}
    # in which direction should the weights move?
{_MOVE_SYN1}    syn1_update = l1.T @ l2_delta  # (4, 1)
{_MOVE_SYN0}    syn0_update = l0.T @ l1_delta  # (3, 4)

    # the weights keep some of their speed, like a rolling ball
    #? A share of the speed so far is kept, and the update is the push.
    #? momentum times v1 as it was, plus syn1_update.
    v1 = momentum * v1 + syn1_update  # (4, 1)
    #? As with v1.
    #? momentum times v0 as it was, plus syn0_update.
    v0 = momentum * v0 + syn0_update  # (3, 4)
    #? The speed moves the weight, not the push.
    #? Add alpha times v1.
    syn1 += alpha * v1  # (4, 1)
    #? As with syn1.
    #? Add alpha times v0.
    syn0 += alpha * v0  # (3, 4)
""",
    "dropout": f"""{_xor(8)}p = 0.2  # the share of hidden values that is dropped

for j in range(10_000):
    # forward: some hidden values are dropped, and the others are scaled up
    l0 = X  # (4, 3)
    mask1 = torch.from_numpy(np.random.binomial(1, 1 - p, (4, 8))).to(X)  # 0 or 1: drop or keep
    #? First compute the hidden values as if nothing were dropped.
    #? a1 is the sigmoid of l0 (4, 3) times syn0 (3, 8).
    a1 = sigmoid(l0 @ syn0)  # (4, 8)
    #? Dropped values become 0; kept values grow, so that the sum stays about the same.
    #? a1 times mask1, divided by the share that is kept, 1 - p.
    l1 = a1 * (mask1 / (1 - p))  # (4, 8)
{_l2(8)}    #? Backward is the same as forward: a dropped value had no part in the miss.
    #? l1_error times mask1, divided by 1 - p.
    a1_error = l1_error * (mask1 / (1 - p))  # (4, 8)
    #? Take the slope of the sigmoid at the sigmoid's own output: the value before the mask.
    #? a1_error times the slope of the sigmoid at a1.
    l1_delta = a1_error * (1 - a1) * a1  # (4, 8)

    # every delta is known: now the weights move
{_MOVE_SYN1}    syn1 += l1.T @ l2_delta  # (8, 1)
{_MOVE_SYN0}    syn0 += l0.T @ l1_delta  # (3, 8)
""",
    "batch_norm": f"""{_xor(8)}gamma1 = torch.ones(1, 8, dtype=torch.float64)  # a scale
beta1 = torch.zeros(1, 8, dtype=torch.float64)  # and a shift, both learned
alpha, eps = 0.1, 1e-5

for j in range(10_000):
    # forward: each hidden sum is normalised to mean 0 and deviation 1 over the rows
    l0 = X  # (4, 3)
    #? Only the sums, not squashed yet.
    #? A matrix product: l0 (4, 3) times syn0 (3, 8).
    z1 = l0 @ syn0  # (4, 8)
    mean1 = z1.mean(0, keepdim=True)  # (1, 8)
    rstd1 = 1 / torch.sqrt(z1.var(0, correction=0, keepdim=True) + eps)  # (1, 8)
    zhat1 = (z1 - mean1) * rstd1  # (4, 8)
    #? Apply the learned scale and shift to the normalised values.
    #? gamma1 times zhat1, plus beta1.
    norm1 = gamma1 * zhat1 + beta1  # (4, 8)
    #? Now squash.
    #? The sigmoid of norm1.
    l1 = sigmoid(norm1)  # (4, 8)
{_l2(8)}    #? As with l2_delta: a hidden value that was sure of itself should change little.
    #? l1_error times the slope of the sigmoid at l1.
    l1_delta = l1_error * (1 - l1) * l1  # (4, 8)

    # back through the normalisation
    #? gamma1 multiplied zhat1 in every row. By how much does each row want to change it?
    #? l1_delta times zhat1, summed over the rows: .sum(0, keepdim=True).
    gamma1_update = (l1_delta * zhat1).sum(0, keepdim=True)  # (1, 8)
    #? beta1 was added in every row, like a bias.
    #? The sum of l1_delta over the rows, kept as a row.
    beta1_update = l1_delta.sum(0, keepdim=True)  # (1, 8)
    #? The mean and the deviation depend on every row, so each row's delta loses two parts: its mean
    #? over the rows, beta1_update / 4, and its part along zhat1, zhat1 * gamma1_update / 4; the
    #? rest is scaled by gamma1 and rstd1.
    z1_delta = gamma1 * rstd1 * (l1_delta - (beta1_update + zhat1 * gamma1_update) / 4)  # (4, 8)

    # every delta is known: now the weights move
    #? l1 transposed times l2_delta; and how large are the steps here?
    #? Add alpha times that product.
    syn1 += alpha * (l1.T @ l2_delta)  # (8, 1)
    #? Its update is known.
    #? Add alpha times gamma1_update.
    gamma1 += alpha * gamma1_update  # (1, 8)
    #? Its update is known.
    #? Add alpha times beta1_update.
    beta1 += alpha * beta1_update  # (1, 8)
    #? Which delta belongs to the output of syn0: the one before the normalisation, or after it?
    #? Add alpha times l0 transposed (3, 4) times z1_delta (4, 8).
    syn0 += alpha * (l0.T @ z1_delta)  # (3, 8)
""",
}
