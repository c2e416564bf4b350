"""Environments that need a memory: what scripted players with and without one reach."""

import numpy as np
from absl.testing import absltest, parameterized

from tfrl.envs import make
from tfrl.envs.check import check_env
from tfrl.envs.memory import RepeatFirst, RepeatNumber, RepeatPrevious
from tfrl.errors import SettingError
from tfrl.job import EnvPlan


def play(env, player, episodes, seed=0):
    """Returns and lengths of games; player: list of this episode's observations -> action."""
    returns, lengths = [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        history, total, ended = [obs], 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(player(history))
            history.append(obs)
            total, ended = total + reward, terminated or truncated
        returns.append(total)
        lengths.append(len(history) - 1)
    return np.array(returns), np.array(lengths)


class RepeatFirstTest(parameterized.TestCase):
    @parameterized.parameters((4, 10), (2, 0), (6, 3))
    def test_a_memory_solves_it(self, num_cues, delay):
        env = RepeatFirst(num_cues, delay)
        returns, lengths = play(env, lambda seen: int(seen[0][:num_cues].argmax()), 50)
        self.assertEqual(set(returns), {env.best_return})
        self.assertEqual(set(lengths), {delay + 2})

    @parameterized.parameters(
        lambda seen: 2,
        lambda seen: int(seen[-1][:4].argmax()),
        lambda seen: int(seen[-2][:4].argmax()) if len(seen) > 1 else 0,  # the last distractor
        lambda seen: len(seen) % 4,
    )
    def test_chance_is_all_that_other_players_reach(self, player):
        env = RepeatFirst()
        returns, _ = play(env, player, 3_000)
        self.assertEqual(env.chance_return, 0.25)
        self.assertAlmostEqual(returns.mean(), 0.25, delta=4 * np.sqrt(0.25 * 0.75 / 3_000))

    def test_what_is_shown(self):
        env, symbols = RepeatFirst(3, 4), []
        for seed in range(60):
            obs, _ = env.reset(seed=seed)
            np.testing.assert_array_equal(obs[3:], [1, 0])
            self.assertEqual(obs[:3].sum(), 1)
            for _ in range(4):
                obs, reward, terminated, _, _ = env.step(0)
                np.testing.assert_array_equal(obs[3:], [0, 0])
                self.assertEqual((obs.sum(), reward, terminated), (1, 0.0, False))
                symbols.append(int(obs.argmax()))
            obs = env.step(0)[0]
            np.testing.assert_array_equal(obs, [0, 0, 0, 0, 1])
            self.assertTrue(env.step(0)[2])
        self.assertGreater(np.bincount(symbols, minlength=3).min(), 50)

    def test_the_cue_counts_at_the_question_only(self):
        env = RepeatFirst(2, 1)
        obs, _ = env.reset(seed=3)
        cue = int(obs[:2].argmax())
        rewards = [env.step(action)[1] for action in (cue, cue, 1 - cue)]
        self.assertEqual(rewards, [0.0, 0.0, 0.0])


class RepeatPreviousTest(parameterized.TestCase):
    @parameterized.parameters((4, 4, 40), (3, 1, 10), (2, 9, 10), (5, 0, 7))
    def test_a_memory_solves_it(self, num_symbols, lag, length):
        env = RepeatPrevious(num_symbols, lag, length)
        recall = lambda seen: int(seen[-1 - lag].argmax()) if len(seen) > lag else 0
        returns, lengths = play(env, recall, 20)
        self.assertEqual(set(returns), {env.best_return})
        self.assertEqual(env.best_return, length - lag)
        self.assertEqual(set(lengths), {length})

    @parameterized.parameters(
        lambda seen: 1,
        lambda seen: int(seen[-1].argmax()),
        lambda seen: int(seen[max(0, len(seen) - 4)].argmax()),  # one step too few
        lambda seen: int(seen[-6].argmax()) if len(seen) > 5 else 0,  # one step too many
    )
    def test_chance_is_all_that_other_players_reach(self, player):
        env = RepeatPrevious()
        returns, _ = play(env, player, 300)
        self.assertEqual(env.chance_return, 9.0)
        deviation = np.sqrt(36 * 0.25 * 0.75 / 300)
        self.assertAlmostEqual(returns.mean(), 9.0, delta=4 * deviation)

    def test_without_a_lag_no_memory_is_needed(self):
        env = RepeatPrevious(lag=0)
        self.assertEqual(env.chance_return, env.best_return)


class RepeatNumberTest(parameterized.TestCase):
    @parameterized.parameters((2, 20), (1, 5), (0, 7))
    def test_a_memory_solves_it(self, lag, length):
        env = RepeatNumber(lag, length)
        recall = lambda seen: seen[-1 - lag] if len(seen) > lag else np.zeros(1)
        returns, lengths = play(env, recall, 20)
        self.assertEqual(set(returns), {env.best_return})
        self.assertEqual(env.best_return, length - lag)
        self.assertEqual(env.chance_return, 0.0 if lag else env.best_return)
        self.assertEqual(set(lengths), {length})

    @parameterized.parameters(
        (lambda seen: np.zeros(1), 0.0),
        (lambda seen: seen[-1], -1.0),  # 1 - 3 E[(x - y)^2], two numbers of variance 1/3
        (lambda seen: seen[max(0, len(seen) - 2)], -1.0),  # one step too few
        (lambda seen: np.ones(1), -3.0),
    )
    def test_chance_is_all_that_other_players_reach(self, player, reward):
        returns, _ = play(RepeatNumber(), player, 400)
        error = returns.std() / np.sqrt(400)
        self.assertAlmostEqual(returns.mean(), 18 * reward, delta=4 * error)


class AllTest(parameterized.TestCase):
    @parameterized.parameters("RepeatFirst", "RepeatPrevious", "RepeatNumber")
    def test_they_keep_the_contract(self, name):
        self.assertEqual(check_env(f"tfrl.envs.memory:{name}"), [])

    @parameterized.parameters("RepeatFirst", "RepeatPrevious", "RepeatNumber")
    def test_a_seed_is_a_game(self, name):
        def game(seed):
            vector = make.make_vector(EnvPlan(env=f"tfrl.envs.memory:{name}"), 3, seed)
            steps = [vector.reset()]
            action = np.zeros((3, *vector.spec.action_space.shape), vector.spec.action_space.dtype)
            steps += [vector.step(action).obs for _ in range(60)]
            return np.stack(steps)

        np.testing.assert_array_equal(game(5), game(5))
        self.assertFalse(np.array_equal(game(5), game(6)))

    @parameterized.parameters(
        ("RepeatFirst", dict(num_cues=1), "2 cues or more"),
        ("RepeatFirst", dict(delay=-1), "no negative delay"),
        ("RepeatPrevious", dict(lag=40), "0 <= lag < length"),
        ("RepeatPrevious", dict(num_symbols=1), "2 symbols or more"),
        ("RepeatNumber", dict(lag=20), "0 <= lag < length"),
    )
    def test_refusals(self, name, kwargs, message):
        plan = EnvPlan(env=f"tfrl.envs.memory:{name}", env_kwargs=kwargs)
        with self.assertRaisesRegex(SettingError, message):
            make.make_spec(plan)


if __name__ == "__main__":
    absltest.main()
