"""Every cell written a second time, in NumPy, from the papers' equations and the authors' released code alone.

Row vectors; products are x @ W. Each function runs a whole sequence, one time step after the other, takes
its parameters as a dict of float64 arrays under the names of the cells, and returns the outputs (T, B, .)
and the state after the last step. Dropout masks come scaled: kept entries hold 1 / (1 - rate).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Parameters = dict[str, Array]


def sigmoid(a: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-a))


def rru(
    w: Parameters,
    x: Array,
    h: Array,
    *,
    relu_layers: int = 1,
    normalize: bool = True,
    output_relu: bool = False,
    residual: bool = True,
    masks: Array | None = None,
) -> tuple[Array, Array]:
    """Zakovskis et al. 2021, equations 1-6; RMS normalisation and sigmoid(10 S) as in RRUCell.py.

    `residual=False` is the ablation without S. A scalar ReZero is a Z of one entry. masks (T, B, g).
    """
    outputs = []
    for t in range(len(x)):
        a = x[t] @ w["W_x"] + h @ w["W_h"] + w["b_j"]
        if normalize:
            mean_square = np.mean(a**2, axis=1, keepdims=True)
            a = a / np.sqrt(mean_square + 1e-6)
        j = np.where(a > 0, a, 0.0)
        for k in range(relu_layers - 1):
            j = np.maximum(j @ w[f"W_k.{k}"] + w[f"b_k.{k}"], 0.0)
        d = j if masks is None else j * masks[t]
        c = d @ w["W_c"] + w["b_c"]
        o = d @ w["W_o"] + w["b_o"]
        if output_relu:
            c, o = np.maximum(c, 0.0), np.maximum(o, 0.0)
        kept = sigmoid(10.0 * w["S"]) * h if residual else h
        h = kept + w["Z"] * c
        outputs.append(o)
    return np.stack(outputs), h


def gru_reset_before(w: Parameters, x: Array, h: Array, masks: Array | None = None) -> tuple[Array, Array]:
    """GRU of the RRU comparison (GRUCell.py): the reset gate acts on the state before the product."""
    n = h.shape[1]
    outputs = []
    for t in range(len(x)):
        gates = sigmoid(np.hstack([x[t], h]) @ np.vstack([w["W_xg"], w["W_hg"]]) + w["b_g"])
        r, u = gates[:, :n], gates[:, n:]
        c = np.tanh(np.hstack([x[t], r * h]) @ np.vstack([w["W_xc"], w["W_hc"]]) + w["b_c"])
        if masks is not None:
            c = c * masks[t]
        h = u * h + (1.0 - u) * c
        outputs.append(h)
    return np.stack(outputs), h


def gru_reset_after(w: Parameters, x: Array, h: Array, masks: Array | None = None) -> tuple[Array, Array]:
    """GRU of torch.nn and cuDNN: the reset gate acts on the product, which has a bias of its own."""
    n = h.shape[1]
    outputs = []
    for t in range(len(x)):
        r = sigmoid(x[t] @ w["W_xg"][:, :n] + h @ w["W_hg"][:, :n] + w["b_g"][:n])
        u = sigmoid(x[t] @ w["W_xg"][:, n:] + h @ w["W_hg"][:, n:] + w["b_g"][n:])
        c = np.tanh(x[t] @ w["W_xc"] + w["b_c"] + r * (h @ w["W_hc"] + w["b_hc"]))
        if masks is not None:
            c = c * masks[t]
        h = u * h + (1.0 - u) * c
        outputs.append(h)
    return np.stack(outputs), h


def lstm(
    w: Parameters, x: Array, h: Array, c: Array, *, forget_bias: float = 1.0, masks: Array | None = None
) -> tuple[Array, Array, Array]:
    """LSTM of the RRU comparison (BasicLSTMCell.py): columns i, j, f, o; a constant added to f."""
    outputs = []
    for t in range(len(x)):
        i, j, f, o = np.split(x[t] @ w["W_x"] + h @ w["W_h"] + w["b"], 4, axis=1)
        j = np.tanh(j)
        if masks is not None:
            j = j * masks[t]
        c = c * sigmoid(f + forget_bias) + sigmoid(i) * j
        h = np.tanh(c) * sigmoid(o)
        outputs.append(h)
    return np.stack(outputs), h, c


def mogrifier(
    w: Parameters, x: Array, h: Array, c: Array, *, rounds: int = 5, masks: Array | None = None
) -> tuple[Array, Array, Array]:
    """Melis et al. 2020 as run by Zakovskis et al. 2021 (MogrifierLSTMCell.py): capped input gate.

    Even rounds gate x by h, odd rounds h by x, each with the partner as already gated; columns j, o, f, i.
    """
    outputs = []
    for t in range(len(x)):
        x_t = x[t]
        for k in range(rounds):
            A, B, beta = w[f"A.{k}"], w[f"B.{k}"], w[f"beta.{k}"]
            if k % 2 == 0:
                x_t = x_t * 2.0 * sigmoid(h @ A @ B + beta)
            else:
                h = h * 2.0 * sigmoid(x_t @ A @ B + beta)
        j, o, f, i = np.split(x_t @ w["W_x"] + h @ w["W_h"], 4, axis=1)
        j = np.tanh(j + w["b_j"])
        forget = sigmoid(f + w["b_f"])
        entry = np.minimum(1.0 - forget, sigmoid(i + w["b_i"]))
        if masks is not None:
            j = j * masks[t]
        c = forget * c + entry * j
        h = sigmoid(o + w["b_o"]) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), h, c


def rhn(
    w: Parameters,
    x: Array,
    s: Array,
    *,
    depth: int,
    input_masks: tuple[Array, Array] | None = None,
    state_masks: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Zilly et al. 2017, equations 6-9 with c = 1 - t; rhn.py of the authors.

    The masks (for H, for T) are (B, m) and (B, n): one for all time steps and all micro-steps. They touch
    what enters a product, never the state that is carried.
    """
    outputs = []
    for t in range(len(x)):
        for l in range(depth):
            s_H = s if state_masks is None else s * state_masks[0]
            s_T = s if state_masks is None else s * state_masks[1]
            a_H = s_H @ w[f"R_H.{l}"] + w[f"b_H.{l}"]
            a_T = s_T @ w[f"R_T.{l}"] + w[f"b_T.{l}"]
            if l == 0:
                a_H = a_H + (x[t] if input_masks is None else x[t] * input_masks[0]) @ w["W_H"]
                a_T = a_T + (x[t] if input_masks is None else x[t] * input_masks[1]) @ w["W_T"]
            gate = sigmoid(a_T)
            s = np.tanh(a_H) * gate + s * (1.0 - gate)
        outputs.append(s)
    return np.stack(outputs), s
