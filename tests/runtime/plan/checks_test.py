"""What cannot work of the on-policy settings is refused in one line, before anything starts."""

import tempfile

import gymnasium as gym
from absl.testing import absltest, parameterized

import tfrl
from tfrl.api import make_job
from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.runtime.plan.run_plan import plan_run

IDENTITY = "tfrl.testing.fakes:IdentityGame"


class NoLimits(gym.Env):
    """Actions without limits."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(-1, 1, (2,))
        self.action_space = gym.spaces.Box(-float("inf"), float("inf"), (2,))


class SettingsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("ppo", dict(minibatches=9, unroll_length=8), "minibatches=9: expected at most 8, the env"),
        (
            "ppo",
            dict(minibatches=5, num_envs=4, core="lstm"),
            "minibatches=5: expected at most 4, the unrolls of a batch on each device",
        ),
        (
            "ppo",
            dict(num_learner_devices=2, num_envs=3),
            "a batch of 3 environments with 2 learner devices: expected a multiple of 2",
        ),
        ("ppo", dict(core="gtrxl", core_size=6), "core=gtrxl with 6 units and 4 heads"),
        (
            "ppo",
            dict(env=f"{__name__}:NoLimits", squash_actions=True),
            "algo=ppo on .*NoLimits.*limits",
        ),
        (
            "ppo",
            dict(env="tfrl.testing.fakes:ImageGame", normalize_observations=True),
            "normalisation of observations: expected a Box that is no image",
        ),
        ("pg", dict(), "algo=pg on .*IdentityGame: it has no time limit; give unroll_length"),
        (
            "impala",
            dict(unroll_length=50, replay_proportion=1.0, replay_unrolls=10),
            "replay_unrolls=10 with replay_proportion=1: expected more than 10",
        ),
        ("a3c", dict(env="tfrl.testing.fakes:IntegerPoint"), "algo=a3c on .*: expected "),
        ("appo", dict(network="tfrl.nope:net"), "network='tfrl.nope:net'"),
    )
    def test_what_does_not_fit_the_environment_or_the_run(self, algo, settings, message):
        with self.assertRaisesRegex(SettingError, message) as caught:
            plan_run(make_job(algo, **{"env": IDENTITY, **settings}))
        self.assertNotIn("\n", str(caught.exception))

    @parameterized.parameters(
        (["--algo=ppo", "--epoch=3"], "--epoch: unknown flag; did you mean --epochs?"),
        (["--algo=ppo", "--clip=abc"], "--clip=abc: expected float or none"),
        (["--algo=ppo", "--minibatches=0"], "minibatches=0: expected at least 1"),
        (
            ["--algo=ppo", "--passes=2"],
            "--passes: unknown flag; it is a setting of .*impala.*, not of ppo",
        ),
        (
            ["--algo=a2c", "--clip=0.1"],
            "--clip: unknown flag; it is a setting of .*ppo, not of a2c",
        ),
        (["--algo=impala", "--rho_bar=-1"], "rho_bar=-1.0: expected more than 0"),
        (["--algo=impala", "--vtrace=perhaps"], "--vtrace=perhaps: expected bool"),
        (["--algo=a3c", "--normalize_rewards"], "normalize_rewards=True with algo=a3c"),
        (["--algo=pg", "--episodes_per_item=1.5"], "--episodes_per_item=1.5: expected int"),
        (["--algo=appo", "--target_period_updates=0"], "target_period_updates=0: expected at"),
    )
    def test_flags(self, argv, message):
        with self.assertRaisesRegex(SettingError, message.replace("?", r"\?")) as caught:
            flags.parse(argv)
        self.assertNotIn("\n", str(caught.exception))

    def test_nothing_is_written_before(self):
        folder = self.enter_context(tempfile.TemporaryDirectory()) + "/run"
        with self.assertRaisesRegex(SettingError, "minibatches=9"):
            tfrl.train("ppo", env=IDENTITY, minibatches=9, unroll_length=8, run_dir=folder)
        with self.assertRaises(FileNotFoundError):
            open(folder + "/job.json")


if __name__ == "__main__":
    absltest.main()
