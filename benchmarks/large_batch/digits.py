"""LAMB against AdamW, momentum and LARS where a batch is the whole training set: scikit-learn's digits, 20 epochs.

    pip install -e '.[sklearn]'
    python benchmarks/large_batch/digits.py    # trains what digits.json does not have yet, and prints the table

1,437 images of 8x8 train, 360 test. The network has four layers of 128 units with layer normalisation. All rates warm
up in the first tenth of the updates and then fall linearly to 0; kernels have a weight decay of 0.01. `digits.json` has
one entry a run: the test accuracy after the last epoch.
"""

from __future__ import annotations

import os
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from tfrl.benchmark import study
from tfrl.benchmark.study import of

RESULTS = pathlib.Path(__file__).resolve().parent / "digits.json"
TRAINED, EPOCHS, DECAY = 1437, 20, 0.01
SEEDS = (0, 1, 2)
SMALL = 32  # batch of the comparison: 880 updates in place of 20
GRIDS = {
    "lamb": (3e-3, 1e-2, 3e-2, 6e-2, 1e-1),
    "adamw": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "momentum": (1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "lars": (3e-3, 1e-2, 3e-2, 6e-2),
}
SMALL_RATES = {"lamb": 1e-2, "adamw": 1e-3, "momentum": 1e-1}


def make(kind: str, rate: Any) -> Any:
    """The optimiser; none of them has decay on biases and scales."""
    import tensorflow as tf

    from tfrl.optim.lamb import LAMB, LARS

    if kind == "lamb":
        return LAMB(rate, weight_decay=DECAY)
    if kind == "lars":
        return LARS(rate, weight_decay=DECAY, variant="paper")
    if kind == "adamw":
        optimizer = tf.keras.optimizers.AdamW(rate, weight_decay=DECAY)
    else:
        optimizer = tf.keras.optimizers.SGD(rate, momentum=0.9, weight_decay=DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def accuracy(kind: str, batch: int, rate: float, seed: int) -> float:
    """Test accuracy after one training."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_digits

    from tfrl.optim.schedules import WarmupPolynomialDecay

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16.0).astype(np.float32), labels[order]
    tf.keras.utils.set_random_seed(seed)
    layers = []
    for _ in range(4):
        layers += [tf.keras.layers.Dense(128), tf.keras.layers.LayerNormalization()]
        layers.append(tf.keras.layers.ReLU())
    model = tf.keras.Sequential([tf.keras.Input(64), *layers, tf.keras.layers.Dense(10)])
    updates = EPOCHS * (TRAINED // batch)
    schedule = WarmupPolynomialDecay(rate, updates // 10, updates)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make(kind, schedule), loss, metrics=["accuracy"])
    whole = tf.data.Dataset.from_tensor_slices((images[:TRAINED], labels[:TRAINED]))
    batches = whole.shuffle(TRAINED, seed=seed).batch(batch, drop_remainder=True)
    model.fit(batches, epochs=EPOCHS, verbose=0)
    return float(model.evaluate(images[TRAINED:], labels[TRAINED:], verbose=0)[1])


def grids() -> Iterator[tuple[str, int, tuple[float, ...]]]:
    """Optimiser, batch and rates of each row of the table."""
    for kind, rate in SMALL_RATES.items():
        yield kind, SMALL, (rate,)
    for kind, rates in GRIDS.items():
        yield kind, TRAINED, rates


def table() -> str:
    """Mean accuracy over seeds of each rate, as a Markdown table."""
    entries = study.load(RESULTS)
    lines = ["| optimiser | batch | rate: test accuracy |", "| --- | --- | --- |"]
    for kind, batch, rates in grids():
        cells = []
        for rate in rates:
            found = of(entries, optimizer=kind, batch=batch, rate=rate)
            if len(found) == len(SEEDS):
                mean = statistics.fmean(e["accuracy"] for e in found)
                cells.append(f"{rate:g}: {mean:.3f}")
        lines.append(f"| {kind} | {batch:,} | {'; '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains what is missing, keeps each run at once, and prints the table."""
    for kind, batch, rates in grids():
        for rate in rates:
            for seed in SEEDS:
                key = dict(optimizer=kind, batch=batch, rate=rate, seed=seed)
                if not of(study.load(RESULTS), **key):
                    found = round(accuracy(kind, batch, rate, seed), 4)
                    study.append(RESULTS, {**key, "accuracy": found})
    print(table())


if __name__ == "__main__":
    main()
