"""Settings of a replay by themselves, as an algorithm of another family has them."""

import dataclasses

import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import NStep, Replay, Windows
from tfrl.algos.parts import replay_settings
from tfrl.algos.parts.replay_settings import HindsightSettings, ReplaySettings
from tfrl.errors import SettingError
from tfrl.nn.body import ModelSettings
from tfrl.settings import validate


@dataclasses.dataclass(frozen=True)
class Config(ReplaySettings, HindsightSettings, ModelSettings):
    """Settings of an algorithm without action values."""

    def __post_init__(self):
        validate(self)
        replay_settings.check(self)


class ReplaySettingsTest(tf.test.TestCase, parameterized.TestCase):
    def test_transitions(self):
        config = Config(
            n_step=3, discount=0.9, batch_size=64, env_steps_per_update=2, updates_per_call=5,
            replay_capacity=1_000, min_replay=100,
        )  # fmt: skip
        self.assertFalse(replay_settings.has_memory(config))
        expected = Replay(NStep(3, 0.9), 1_000, 100, 32.0, batch_size=64, updates_per_call=5)
        self.assertEqual(replay_settings.replay(config), expected)
        prioritized = dataclasses.replace(config, prioritized=True, priority_exponent=0.5)
        self.assertEqual(
            replay_settings.replay(prioritized),
            dataclasses.replace(expected, priority_exponent=0.5),
        )

    def test_sequences_count_env_steps(self):
        config = Config(
            core="gru", discount=0.9, sequence_length=10, sequence_period=4, burn_in=2, batch_size=8,
            env_steps_per_update=2, replay_capacity=1_002, min_replay=101,
        )  # fmt: skip
        self.assertTrue(replay_settings.has_memory(config))
        expected = Replay(
            Windows(10, 0.9, 4), 250, 26, 16.0, batch_size=8, updates_per_call=config.updates_per_call
        )  # fmt: skip
        self.assertEqual(replay_settings.replay(config), expected)

    def test_copies_with_other_goals_come_in_addition(self):
        config = Config(
            n_step=3, discount=0.9, her_relabels=4, batch_size=64, env_steps_per_update=2,
            replay_capacity=1_000, min_replay=100,
        )  # fmt: skip
        found = replay_settings.replay(config)
        self.assertEqual(found.item, NStep(3, 0.9, 4))
        self.assertEqual((found.capacity_items, found.min_items), (5_000, 500))
        # As many samples for an env step as without them.
        self.assertAllClose(found.samples_per_insert / found.item.env_steps(8), 32.0)

    @parameterized.parameters(
        (dict(her_relabels=4, core="gru"), "her_relabels=4 with core=gru: a memory is trained"),
        (dict(min_replay=20, replay_capacity=10, batch_size=4), "min_replay=20 with"),
        (dict(replay_capacity=10, min_replay=5), "replay_capacity=10 with batch_size=32"),
        (dict(burn_in=40), "burn_in=40 with sequence_length=40: nothing would be left"),
        (dict(sequence_period=41), "sequence_period=41 with sequence_length=40"),
    )
    def test_what_contradicts_itself_is_refused(self, settings, message):
        with self.assertRaisesRegex(SettingError, message):
            Config(**settings)

    def test_the_exponent_of_importance_weights(self):
        config = Config(
            importance_beta=0.4, importance_beta_final=0.8, importance_beta_updates=10
        )  # fmt: skip
        for updates, expected in ((0, 0.4), (5, 0.6), (10, 0.8), (99, 0.8)):
            found = replay_settings.importance_beta(config, tf.constant(updates, tf.int64))
            self.assertAllClose(found, expected)


if __name__ == "__main__":
    tf.test.main()
