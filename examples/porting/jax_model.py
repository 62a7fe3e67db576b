"""The click model of tensorflow_model.py in JAX: the port, line by line.

Only names change: ``tf.keras.optimizers.Adagrad`` becomes ``aj.keras.Adagrad``,
``tf.Variable`` becomes ``aj.keras.Variable``, ``tf.gather(table, ids)`` becomes
``table[ids]``, and other functions become those of ``jax.numpy`` and Optax. As there,
only the rows of the table that a batch reads have a gradient.

``python -m examples.porting.jax_model`` trains it and prints how far its losses are
from those that TensorFlow 2.0.0 gave; ``--plot PATH`` draws both.
"""

import argparse
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import adagrad_jax as aj
from examples.porting.data import checksum, initial_values, make_data

RECORDED = pathlib.Path(__file__).parent / "tensorflow_losses.json"


def train():
    """The loss before each step."""
    table, w, b = initial_values()
    table = aj.keras.Variable(table, name="table")
    w = aj.keras.Variable(w, name="w")
    b = aj.keras.Variable(b, name="b")
    opt = aj.keras.Adagrad(learning_rate=0.5, decay=0.01, clipnorm=1.0)

    def predict(ids, features):
        rows = jnp.reshape(table[ids], (len(ids), -1))
        inputs = jnp.concatenate([rows, features], axis=1)
        return jnp.matmul(inputs, w) + b

    def mean_loss(ids, features, labels):
        logits = predict(ids, features)
        losses = optax.sigmoid_binary_cross_entropy(logits=logits, labels=labels)
        return jnp.mean(losses)

    losses = []
    for batch in make_data():
        losses.append(float(mean_loss(*batch)))
        opt.minimize(lambda batch=batch: mean_loss(*batch), [table, w, b])
    return losses


def tensorflow_losses():
    """What TensorFlow gave; raises ValueError if that was for other data."""
    recorded = json.loads(RECORDED.read_text())
    if recorded["data"] != checksum():
        raise ValueError(f"other data than in {RECORDED.name}: record it anew.")
    return recorded["losses"]


def relative_differences(losses, expected):
    """Of each loss, with its sign."""
    return np.array(losses) / np.array(expected) - 1


def plot(losses, expected, path):
    """Both curves, TensorFlow's broad under ours, and below how far they are apart."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.set_title("A click model ported from TensorFlow 2.0: loss", loc="left")
    upper.plot(expected, color="#56B4E9", linewidth=5, label="TensorFlow 2.0.0")
    upper.plot(losses, color="black", linewidth=1, label="adagrad_jax")
    upper.set_ylim(bottom=0)
    upper.legend(loc="upper right", frameon=False)
    lower.set_title("Relative difference, in epsilons of float32", loc="left")
    differences = relative_differences(losses, expected) / np.finfo(np.float32).eps
    lower.plot(differences, ".", color="#D55E00", markersize=3)
    limit = 1.2 * max(abs(differences))
    lower.set(xlabel="step", xlim=(0, len(losses)), ylim=(-limit, limit))
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--plot", metavar="PATH", help="draw both curves into this file"
    )
    args = parser.parse_args()
    losses, expected = train(), tensorflow_losses()
    largest = max(abs(relative_differences(losses, expected)))
    print(f"{len(losses)} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"largest relative difference to TensorFlow's losses: {largest:.1e}")
    if args.plot:
        plot(losses, expected, args.plot)


if __name__ == "__main__":
    main()
