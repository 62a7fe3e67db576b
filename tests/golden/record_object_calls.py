"""Records what TensorFlow 2.0.0 does with the calls of object_calls.py, as JSON.

Run it in an environment of Python 3.7 with tensorflow==2.0.0, protobuf<3.21 and
numpy<1.19:

    python tests/golden/record_object_calls.py

Messages of errors are not recorded, but their types.
"""

import json
import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import object_calls
import tensorflow as tf


def show(value):
    """Values of TensorFlow's as lists, names and arrays."""
    if isinstance(value, tf.Variable) and value.name != "UnreadVariable":
        return {value.name: value.numpy()}
    if isinstance(value, tf.IndexedSlices):
        return [value.values.numpy(), value.indices.numpy()]
    if isinstance(value, tf.Tensor) or hasattr(value, "numpy"):
        return value.numpy()  # an UnreadVariable has it too
    if isinstance(value, dict):
        return {key: show(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [show(item) for item in value]
    if isinstance(value, tf.DType):
        return value.name
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    return value


VOCABULARY = {
    "Adagrad": tf.keras.optimizers.Adagrad,
    "V": lambda value, name, dtype=None: tf.Variable(value, name=name, dtype=dtype),
    "A": lambda value, dtype="float32": tf.constant(value, dtype),
    "S": tf.reduce_sum,
    "full": lambda shape, value, dtype: tf.cast(tf.fill(shape, value), dtype),
    "take": tf.gather,
    "rows": lambda ids, values, shape: tf.IndexedSlices(
        tf.constant(values), tf.constant(ids), shape
    ),
    "schedules": tf.keras.optimizers.schedules,
    "compiled": tf.function,
    # A loss is a tensor of a graph there.
    "gradients": lambda opt, loss, params: tf.function(
        lambda: opt.get_gradients(loss(), params)
    )(),
    "updates": lambda opt, loss, params: tf.function(
        lambda: [opt.get_updates(loss(), params), None][1]
    )(),
    "show": show,
}


def main():
    tf.get_logger().setLevel("FATAL")
    recorded = {}
    for code in object_calls.calls():
        tf.keras.backend.reset_uids()
        np.random.seed(0)
        outcome = object_calls.run(code, VOCABULARY)
        if outcome.pop("says", None) is not None and os.environ.get("SHOW"):
            print(code, outcome)
        recorded[code] = outcome
    file = pathlib.Path(__file__).with_name("object_calls.json")
    lines = [json.dumps(code) + ": " + json.dumps(o) for code, o in recorded.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(len(recorded), "calls")


if __name__ == "__main__":
    main()
