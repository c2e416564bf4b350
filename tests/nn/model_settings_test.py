"""One class of settings for the networks of every algorithm; a family says what differs."""

import dataclasses

from absl.testing import absltest, parameterized

from tfrl.algos.parts import actor_critic_replay
from tfrl.job import algorithm, algorithms
from tfrl.nn.actor_critic import ActorCriticSettings
from tfrl.nn.body import ModelSettings
from tfrl.nn.q_network import QNetworkSettings

DIFFERS = {
    QNetworkSettings: {"activation", "core"},
    ActorCriticSettings: {"activation"},
    actor_critic_replay.Settings: {"activation", "hidden_sizes"},
}
ACTIVATIONS = {
    QNetworkSettings: "relu", ActorCriticSettings: "tanh", actor_critic_replay.Settings: "relu",
}  # fmt: skip
# Algorithms without a family of networks: one with defaults of its own, and those with networks of another kind.
DEFAULTS = {"qmix": {"hidden_sizes", "core", "core_size"}}
OTHER_NETWORKS = (
    "ars",
    "es",
    "hdqn",
)  # a set of weights for each member; two networks, one of them of goals


class ModelSettingsTest(parameterized.TestCase):
    def test_every_algorithm_has_them_and_one_familys(self):
        families = []
        for algo in algorithms():
            config = algorithm(algo).Config
            found = [f for f in DIFFERS if issubclass(config, f)]
            if algo in OTHER_NETWORKS:
                self.assertFalse(found or issubclass(config, ModelSettings), algo)
                continue
            self.assertTrue(issubclass(config, ModelSettings), algo)
            self.assertLen(found, 0 if algo in DEFAULTS else 1)
            families += found
            differs = DIFFERS[found[0]] if found else DEFAULTS[algo]
            own = {f.name: f for f in dataclasses.fields(config)}
            for field in dataclasses.fields(ModelSettings):
                if field.name not in differs:
                    self.assertEqual(own[field.name].metadata, field.metadata)
                    self.assertEqual(own[field.name].default, field.default)
            self.assertEqual(own["activation"].default, ACTIVATIONS[found[0]] if found else "relu")
        self.assertSetEqual(set(families), set(DIFFERS))

    @parameterized.parameters(*DIFFERS)
    def test_a_family_repeats_nothing_else(self, family):
        shared = {f.name for f in dataclasses.fields(ModelSettings)}
        own = {f.name for f in dataclasses.fields(family)}
        self.assertSetEqual(shared & own, DIFFERS[family])


if __name__ == "__main__":
    absltest.main()
