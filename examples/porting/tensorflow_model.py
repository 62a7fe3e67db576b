"""A click model in TensorFlow 2.0, as it was before it was ported to jax_model.py.

``python tensorflow_model.py losses.json`` trains it and writes the losses, each of them
from before its step. ``tensorflow_losses.json`` is what TensorFlow 2.0.0 gave on a CPU
(Python 3.7, ``pip install "tensorflow==2.0.0" "protobuf<3.21" "numpy<1.19"``).
"""

import json
import sys

import tensorflow as tf
from data import checksum, initial_values, make_data


def train():
    table, w, b = initial_values()
    table = tf.Variable(table, name="table")
    w = tf.Variable(w, name="w")
    b = tf.Variable(b, name="b")
    opt = tf.keras.optimizers.Adagrad(learning_rate=0.5, decay=0.01, clipnorm=1.0)

    def predict(ids, features):
        rows = tf.reshape(tf.gather(table, ids), (len(ids), -1))
        inputs = tf.concat([rows, features], axis=1)
        return tf.linalg.matvec(inputs, w) + b

    def mean_loss(ids, features, labels):
        logits = predict(ids, features)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        return tf.reduce_mean(losses)

    losses = []
    for batch in make_data():
        losses.append(float(mean_loss(*batch)))
        opt.minimize(lambda batch=batch: mean_loss(*batch), [table, w, b])
    return losses


if __name__ == "__main__":
    result = {"tensorflow": tf.__version__, "data": checksum(), "losses": train()}
    with open(sys.argv[1], "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
