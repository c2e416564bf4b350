"""Runs an exported policy with TensorFlow alone; tfrl need not be installed.

python examples/serve_savedmodel.py <run folder>/export
"""

from __future__ import annotations

import sys

import tensorflow as tf


def main() -> None:
    policy = tf.saved_model.load(sys.argv[1])

    # `act` takes the observation as the environment returns it, in the dtypes of its space, with a
    # batch axis of any size. It also takes the recurrent state, which is () for a policy without memory.
    # Its actions belong to the environment's action space. The dtypes of Discrete spaces are int64.
    serving = policy.signatures["serving_default"]
    specs = serving.structured_input_signature[1]
    for batch_size in (1, 7):
        state = policy.initial_state(batch_size)
        print(f"state of {batch_size}:", state)

        # The signature has one named tensor per leaf, which is what TensorFlow Serving shows.
        # An action mask of zeros would forbid every action, hence the ones.
        inputs = {k: tf.ones([batch_size, *s.shape[1:]], s.dtype) for k, s in specs.items()}
        inputs |= {f"state_{i}": x for i, x in enumerate(tf.nest.flatten(state))}
        outputs = serving(**inputs)
        # One action, or for a Dict or a Tuple of actions one output for each of its leaves.
        for name in sorted(outputs):
            if name.startswith("action"):
                print(f"{name}s of {batch_size}:", outputs[name].numpy().tolist())

    # Action values or probabilities, if the algorithm has them.
    for name in ("q_values", "probabilities"):
        if name in policy.signatures:
            print(f"{name}:", {k: v.shape for k, v in policy.signatures[name](**inputs).items()})

    # The same through `act`, if the observation is a single array.
    if list(specs) == ["observation"]:
        observation = tf.zeros([2, *specs["observation"].shape[1:]], specs["observation"].dtype)
        out = policy.act(observation, policy.initial_state(2))
        print("action:", out["action"].numpy().tolist(), "next state:", out["state"])


if __name__ == "__main__":
    main()
