"""Slow NumPy twins of what the library computes fast: plain loops, written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tree

from tfrl.types import PolicyStep, Trajectory, VectorStep


def huber(x: float, delta: float) -> float:
    """x^2 / 2 near zero, linear beyond `delta`."""
    return 0.5 * x * x if abs(x) <= delta else delta * (abs(x) - 0.5 * delta)


def q_learning(
    q_tm1: np.ndarray,
    a_tm1: np.ndarray,
    r_t: np.ndarray,
    discount_t: np.ndarray,
    q_t: np.ndarray,
    selector_t: np.ndarray,
    delta: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(loss, td_error, target), each [B], of (double) Q-learning; see `tfrl.losses.value`."""
    loss, errors, targets = [], [], []
    for b in range(len(a_tm1)):
        best = max(range(q_t.shape[1]), key=lambda a: selector_t[b, a])
        target = r_t[b] + discount_t[b] * q_t[b, best]
        error = q_tm1[b, a_tm1[b]] - target
        loss.append(0.5 * error * error if delta is None else huber(error, delta))
        errors.append(error)
        targets.append(target)
    return np.array(loss), np.array(errors), np.array(targets)


def rescale(x: float, epsilon: float) -> float:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x."""
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + epsilon * x


def unrescale(y: float, epsilon: float) -> float:
    """The x with `rescale(x) = y`, by bisection: h grows everywhere."""
    low, high = -1.0, 1.0
    while rescale(low, epsilon) > y:
        low *= 2
    while rescale(high, epsilon) < y:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rescale(middle, epsilon) < y else (low, middle)
    return (low + high) / 2


def sequence_priorities(magnitude: np.ndarray, valid: np.ndarray, eta: float) -> np.ndarray:
    """[B] float64 of errors [T, B], column by column; see `tfrl.losses.value`."""
    out = []
    for errors, counts in zip(magnitude.T, valid.T, strict=True):
        mine = [float(e) for e, counted in zip(errors, counts, strict=True) if counted]
        out.append(eta * max(mine) + (1 - eta) * sum(mine) / len(mine) if mine else 0.0)
    return np.array(out)


def dueling(value: np.ndarray, advantage: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """V + A - mean of A over valid actions; [B, A], NaN where an action is invalid."""
    out = np.full(advantage.shape, np.nan)
    for b in range(len(advantage)):
        valid = [a for a in range(advantage.shape[1]) if mask[b, a]]
        mean = sum(advantage[b, a] for a in valid) / len(valid)
        for a in valid:
            out[b, a] = value[b, 0] + advantage[b, a] - mean
    return out


def categorical_projection(
    probabilities: np.ndarray, r_t: np.ndarray, discount_t: np.ndarray, atoms: np.ndarray
) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017, atom by atom in float64; [B, K]."""
    out = np.zeros(probabilities.shape)
    low, high = float(atoms[0]), float(atoms[-1])
    gap = (high - low) / (len(atoms) - 1)
    for b, p in enumerate(probabilities):
        for j, z in enumerate(atoms):
            place = (
                min(max(float(r_t[b]) + float(discount_t[b]) * float(z), low), high) - low
            ) / gap
            left = min(int(place), len(atoms) - 1)
            right = min(left + 1, len(atoms) - 1)
            out[b, right] += p[j] * (place - left)
            out[b, left] += p[j] * (1 - (place - left))
    return out


def quantile_huber(
    quantiles: np.ndarray, tau: np.ndarray, target: np.ndarray, delta: float
) -> np.ndarray:
    """[B] float64, pair by pair; tau [B, K]; see `tfrl.losses.distributional`."""
    out = np.zeros(len(quantiles))
    for b in range(len(quantiles)):
        for theta, t in zip(quantiles[b], tau[b], strict=True):
            total = 0.0
            for y in target[b]:
                error = float(y) - float(theta)
                total += abs(float(t) - (error < 0)) * huber(error, delta) / delta
            out[b] += total / len(target[b])
    return out


def noisy_dense(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    kernel_sigma: np.ndarray,
    bias_sigma: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    factorised: bool,
) -> np.ndarray:
    """[B, q] of a noisy layer, weight by weight; `first` is [B, p] or [B, p, q], `second` [B, q]."""
    root = lambda v: math.copysign(math.sqrt(abs(v)), v)
    out = np.zeros((len(x), kernel.shape[1]))
    for b, j in np.ndindex(out.shape):
        e_b = root(second[b, j]) if factorised else float(second[b, j])
        out[b, j] = bias[j] + bias_sigma[j] * e_b
        for i in range(kernel.shape[0]):
            e = root(first[b, i]) * e_b if factorised else float(first[b, i, j])
            out[b, j] += (kernel[i, j] + kernel_sigma[i, j] * e) * x[b, i]
    return out


class Item(NamedTuple):
    """An n-step transition: observation and action of its first step, return, discount, last observation, parts."""

    obs_tm1: Any
    action: Any
    reward: float
    discount: float
    obs_t: Any
    rewards: Any = ()


class Step(NamedTuple):
    """One real step of one environment; `discount` is the environment's own."""

    obs: Any
    action: Any
    reward: float
    next_obs: Any
    terminated: bool
    truncated: bool
    discount: float = 1.0
    rewards: Any = ()


def n_step_items(steps: Sequence[Step], n: int, discount: float) -> list[Item]:
    """Items of one environment's steps in order of their first step.

    k = min(n, steps to the end of the episode); steps whose k is not known yet give none.
    """
    items = []
    for t, first in enumerate(steps):
        total, power = 0.0, 1.0
        parts = np.zeros(len(first.rewards))
        for k in range(n):
            if t + k == len(steps):
                break  # still open
            step = steps[t + k]
            total += power * step.reward
            parts += power * np.asarray(step.rewards, float)
            power *= discount * step.discount
            if step.terminated or step.truncated or k == n - 1:
                end = 0.0 if step.terminated else power
                rewards = np.float32(parts) if len(parts) else ()
                items.append(Item(first.obs, first.action, total, end, step.next_obs, rewards))
                break
    return items


def relabelled(
    steps: Sequence[Step],
    first: int,
    goal: np.ndarray,
    n: int,
    discount: float,
    reward: Callable[[np.ndarray, np.ndarray], float],
    terminated: Callable[[np.ndarray, np.ndarray], bool] | None,
) -> Item:
    """The item that begins with step number `first` of an episode, as if `goal` had been desired.

    Args:
      steps: the whole episode; observations are Dicts with 'achieved_goal' and 'desired_goal'.
      reward, terminated: (achieved, desired) -> of a step; None: the steps' own terminations.
    """
    changed = []
    for step in steps[first:]:
        ends, achieved = step.terminated, step.next_obs["achieved_goal"]
        if terminated is not None:
            explained = terminated(achieved, step.next_obs["desired_goal"])
            ends = terminated(achieved, goal) or (step.terminated and not explained)
        obs, next_obs = ({**x, "desired_goal": goal} for x in (step.obs, step.next_obs))
        paid = reward(achieved, goal)
        changed.append(
            Step(obs, step.action, paid, next_obs, ends, step.truncated or step.terminated)
        )
    return n_step_items(changed, n, discount)[0]


class Recorded(NamedTuple):
    """One vector step as an actor hands it to a writer, leaves [B, ...], and the version of the weights that acted."""

    obs: Any
    state: Any
    choice: PolicyStep
    step: VectorStep
    version: int


def unrolls(
    records: Sequence[Recorded], length: int, discount: float, period: int = 0
) -> list[Trajectory]:
    """The unrolls [length, B, ...] of vector steps, without stacked frames; those not whole are left out.

    One begins every `period` vector steps, or where the one before ended.
    """
    rows = range(len(records[0].step.reward))
    is_first, running = [[True for _ in rows]], []
    for t, (_, _, _, step, _) in enumerate(records):
        is_first.append([bool(step.terminated[b] or not step.valid[b]) for b in rows])
        sums = []
        for b in rows:
            before = 0.0
            if t and not _is_cut(records[t - 1].step, b):
                before = _discount(records[t - 1].step, b, discount) * running[t - 1][b]
            sums.append(before + float(step.reward[b]))
        running.append(sums)
    out = []
    for start in range(0, len(records) - length + 1, period or length):
        part = records[start : start + length]
        steps = [r.step for r in part]
        seen = [r.obs for r in part] + [steps[-1].obs]
        parts = () if steps[0].rewards is None else np.stack([s.rewards for s in steps])
        out.append(
            Trajectory(
                obs=_stack(seen),
                action=_stack([r.choice.action for r in part]),
                reward=np.stack([s.reward for s in steps]),
                discount=np.float32([[_discount(s, b, discount) for b in rows] for s in steps]),
                is_last=np.array([[_is_cut(s, b) for b in rows] for s in steps]),
                valid=np.stack([s.valid for s in steps]),
                is_first=np.array(is_first[start : start + length + 1]),
                discounted_return=np.float32(running[start : start + length]),
                state=part[0].state,
                extras=_stack([dict(r.choice.extras) for r in part]),
                version=np.full(len(rows), part[0].version, np.int64),
                is_new=np.ones(len(rows), bool),
                probability=np.ones(len(rows), np.float32),
                rewards=parts,
            )
        )
    return out


def whole_episodes(
    records: Sequence[Recorded], length: int, discount: float
) -> list[list[dict[str, Any]]]:
    """The steps of each episode, in the order in which they end (of the same vector step: by row).

    A step is a dict with 'obs', 'action', 'extras', 'state' (before it), 'reward', 'rewards', 'discount',
    'discounted_return', 'is_first', 'is_last', 'next_obs' and the 'version' of the weights that acted. An episode
    longer than `length` is cut there, where no step is the last one, and what follows is an episode of its own.
    """
    rows = range(len(records[0].step.reward))
    episodes: list[list[dict[str, Any]]] = []
    open_: list[list[dict[str, Any]]] = [[] for _ in rows]
    is_first = [True for _ in rows]
    for obs, state, choice, step, version in records:
        for b in rows:
            restarts = step.truncated[b] and step.next_obs is not step.obs  # within the step
            begins, is_first[b] = (
                is_first[b],
                bool(step.terminated[b] or restarts or not step.valid[b]),
            )
            if not step.valid[b]:
                continue
            last = open_[b][-1] if open_[b] else {"discounted_return": 0.0, "discount": 0.0}
            nests = {"obs": obs, "action": choice.action, "extras": dict(choice.extras)}
            nests |= {"state": state, "next_obs": step.next_obs}
            open_[b].append(
                {
                    **{k: tree.map_structure(lambda x, b=b: x[b], v) for k, v in nests.items()},
                    "reward": float(step.reward[b]),
                    "rewards": () if step.rewards is None else step.rewards[b],
                    "discount": _discount(step, b, discount),
                    "discounted_return": last["discount"] * last["discounted_return"]
                    + float(step.reward[b]),
                    "is_first": begins,
                    "is_last": bool(step.terminated[b] or step.truncated[b]),
                    "version": version,
                }
            )
            if open_[b][-1]["is_last"] or len(open_[b]) == length:
                episodes.append(open_[b])
                open_[b] = []
    return episodes


def _discount(step: VectorStep, row: int, gamma: float) -> float:
    """The discount of a row's step."""
    if step.terminated[row]:
        return 0.0
    return gamma if step.discount is None else np.float32(gamma) * np.float32(step.discount[row])


def _is_cut(step: VectorStep, row: int) -> bool:
    return bool(step.terminated[row] or step.truncated[row] or not step.valid[row])


def _stack(nests: Sequence[Any]) -> Any:
    return tree.map_structure(lambda *x: np.stack(x), *nests)


def prioritized_probabilities(priorities: Sequence[float], exponent: float) -> np.ndarray:
    """P(i) = p_i^alpha / sum_j p_j^alpha (Schaul et al. 2016, eq. 1)."""
    powers = [p**exponent for p in priorities]
    return np.array([p / sum(powers) for p in powers])


def piecewise_linear(points: Sequence[tuple[float, float]], now: float) -> float:
    """Value at `now` of straight lines between points (time, value), constant outside."""
    if now <= points[0][0]:
        return points[0][1]
    for (t0, v0), (t1, v1) in zip(points, points[1:], strict=False):
        if now < t1:
            return v0 + (v1 - v0) * (now - t0) / (t1 - t0)
    return points[-1][1]


def discounted_returns(
    reward: np.ndarray,
    discount: np.ndarray,
    is_last: np.ndarray,
    bootstrap_next: np.ndarray,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """[T, B] float64; sums forward from every step on its own; see `tfrl.losses.returns`."""
    length, batch = reward.shape
    out = np.zeros((length, batch))
    for t0, b in np.ndindex(length, batch):
        if valid is not None and not valid[t0, b]:
            continue
        power = 1.0
        for t in range(t0, length):
            out[t0, b] += power * float(reward[t, b])
            power *= float(discount[t, b])
            if _ends(is_last, valid, t, b):
                out[t0, b] += power * float(bootstrap_next[t, b])
                break
    return out


def n_step(
    reward: np.ndarray, discount: np.ndarray, is_last: np.ndarray, valid: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(reward, discount, steps), each [T, B], step by step; see `tfrl.losses.returns.n_step`."""
    total, product = np.zeros(reward.shape), np.ones(reward.shape)
    steps = np.zeros(reward.shape, np.int64)
    for t, b in np.ndindex(reward.shape):
        for i in range(n):
            total[t, b] += product[t, b] * float(reward[t + i, b])
            product[t, b] *= float(discount[t + i, b])
            steps[t, b] += 1
            if _ends(is_last, valid, t + i, b):
                break
    return total, product, steps


def gae(
    reward: np.ndarray,
    discount: np.ndarray,
    is_last: np.ndarray,
    values: np.ndarray,
    values_next: np.ndarray,
    lambda_: float,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Advantages [T, B] float64, backward in time; see `tfrl.losses.returns`."""
    length, batch = reward.shape
    out = np.zeros((length, batch))
    for b in range(batch):
        later = 0.0
        for t in reversed(range(length)):
            if valid is not None and not valid[t, b]:
                continue
            if _ends(is_last, valid, t, b):
                later = 0.0
            gamma = float(discount[t, b])
            delta = float(reward[t, b]) + gamma * float(values_next[t, b]) - float(values[t, b])
            later = out[t, b] = delta + gamma * lambda_ * later
    return out


def vtrace(
    log_prob: np.ndarray,
    behaviour_log_prob: np.ndarray,
    reward: np.ndarray,
    discount: np.ndarray,
    is_last: np.ndarray,
    values: np.ndarray,
    values_next: np.ndarray,
    rho_bar: float = np.inf,
    pg_rho_bar: float = np.inf,
    c_bar: float = np.inf,
    lambda_: float = 1.0,
    valid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(advantages, targets) of V-trace [T, B] float64.

    Targets are the sum of eq. 1 of Espeholt et al. 2018, forward from every step on its own.
    """
    length, batch = reward.shape
    rho = np.exp(log_prob.astype(float) - behaviour_log_prob)
    advantages, targets = np.zeros((length, batch)), values.astype(float)
    for t, b in np.ndindex(length, batch):
        if valid is not None and not valid[t, b]:
            continue
        weight = 1.0
        for k in range(t, length):
            next_value = float(values_next[k, b])
            error = float(reward[k, b]) + float(discount[k, b]) * next_value - float(values[k, b])
            targets[t, b] += weight * min(rho_bar, rho[k, b]) * error
            weight *= float(discount[k, b]) * lambda_ * min(c_bar, rho[k, b])
            if _ends(is_last, valid, k, b):
                break
    for t, b in np.ndindex(length, batch):
        if valid is not None and not valid[t, b]:
            continue
        later = values_next[t, b] if _ends(is_last, valid, t, b) else targets[t + 1, b]
        error = float(reward[t, b]) + float(discount[t, b]) * float(later) - float(values[t, b])
        advantages[t, b] = min(pg_rho_bar, rho[t, b]) * error
    return advantages, targets


def ppo(
    log_prob: np.ndarray,
    old_log_prob: np.ndarray,
    advantages: np.ndarray,
    values: np.ndarray,
    old_values: np.ndarray,
    targets: np.ndarray,
    clip: float,
    value_clip: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(policy loss [N], value loss [N]) of PPO, case by case; see `tfrl.losses.policy`."""
    policy_loss, value_loss = [], []
    for i in range(len(log_prob)):
        r = float(np.exp(float(log_prob[i]) - float(old_log_prob[i])))
        if advantages[i] >= 0:  # nothing is gained by making a good action more likely than this
            policy_loss.append(-min(r, 1 + clip) * advantages[i])
        else:
            policy_loss.append(-max(r, 1 - clip) * advantages[i])
        error = (values[i] - targets[i]) ** 2
        if value_clip is not None:
            near = min(max(values[i], old_values[i] - value_clip), old_values[i] + value_clip)
            error = max(error, (near - targets[i]) ** 2)
        value_loss.append(error)
    return np.array(policy_loss), np.array(value_loss)


def _ends(is_last: np.ndarray, valid: np.ndarray | None, t: int, b: int) -> bool:
    """No trace goes from step t to the next one."""
    return bool(
        t + 1 == len(is_last) or is_last[t, b] or (valid is not None and not valid[t + 1, b])
    )


def optimise(
    kind: str,
    start: float,
    gradients: Sequence[float],
    rate: Callable[[int], float],
    decay: float = 0.99,
    epsilon: float | None = None,
    momentum: float = 0.0,
    epsilon_inside_root: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> list[float]:
    """Values of one parameter after each gradient, in float64; kinds and options of `optim.optimizers`.

    `rate` takes the number of updates made before.
    """
    x, out, velocity, first, second = float(start), [], 0.0, 0.0, 0.0
    square = 1.0 if kind == "rmsprop_tf1" else 0.0
    for t, g in enumerate(map(float, gradients)):
        if kind in ("adam", "adamw"):
            b1, b2 = betas
            first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g
            root = math.sqrt(second) + (1e-7 if epsilon is None else epsilon)
            corrected = math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1)) * first / root
            x -= rate(t) * (corrected + weight_decay * x)
        elif kind == "sgd":
            velocity = momentum * velocity - rate(t) * g
            x += momentum * velocity - rate(t) * g if nesterov else velocity
        else:
            square = decay * square + (1 - decay) * g * g
            small = 1e-5 if epsilon is None else epsilon
            if epsilon_inside_root or kind in ("rmsprop_keras", "rmsprop_tf1"):
                velocity = momentum * velocity + rate(t) * g / math.sqrt(square + small)
                x -= velocity
            else:  # PyTorch's: the rate is not part of the velocity
                velocity = momentum * velocity + g / (math.sqrt(square) + small)
                x -= rate(t) * velocity
        out.append(x)
    return out


def layer_wise(
    kind: str,
    start: Sequence[np.ndarray],
    gradients: Sequence[Sequence[np.ndarray]],
    rate: Callable[[int], float],
    excluded: Sequence[bool],
    weight_decay: float = 0.0,
    trust_clip: tuple[float, float] = (0.0, math.inf),
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-6,
    bias_correction: bool = True,
    momentum: float = 0.9,
    coefficient: float = 1e-3,
    nesterov: bool = False,
) -> list[list[np.ndarray]]:
    """Values of some layers after each gradient of LAMB or LARS, in float64.

    You et al. 2020, algorithms 1 and 2; You et al. 2017 for the heavy ball.

    Args:
      kind: 'lamb', 'heavy_ball' or 'paper'.
      start: of each layer.
      gradients: of each step and layer.
      rate: takes the number of updates made before.
      excluded: layers without decay and with ratio 1.
    """

    def ratio(x: np.ndarray, length: float, factor: float = 1.0) -> float:
        size = np.sqrt(np.sum(x * x))
        return factor * np.clip(size, *trust_clip) / length if size > 0 and length > 0 else 1.0

    layers, out = [np.array(x, np.float64) for x in start], []
    first, second = ([np.zeros_like(x) for x in layers] for _ in range(2))
    for t, step in enumerate(gradients):
        for i, (x, given) in enumerate(zip(layers, step, strict=True)):
            g, decay = np.array(given, np.float64), 0.0 if excluded[i] else weight_decay
            if kind == "lamb":
                first[i] = betas[0] * first[i] + (1 - betas[0]) * g
                second[i] = betas[1] * second[i] + (1 - betas[1]) * g * g
                c1, c2 = ((1 - b ** (t + 1)) if bias_correction else 1.0 for b in betas)
                u = first[i] / c1 / (np.sqrt(second[i] / c2) + epsilon) + decay * x
                trust = 1.0 if excluded[i] else ratio(x, np.linalg.norm(u))
                layers[i] = x - rate(t) * trust * u
            elif kind == "heavy_ball":
                length = np.linalg.norm(g) + decay * np.linalg.norm(x)
                trust = 1.0 if excluded[i] else ratio(x, length, coefficient)
                added = rate(t) * trust * (g + decay * x)
                first[i] = momentum * first[i] + added
                layers[i] = x - (momentum * first[i] + added if nesterov else first[i])
            else:
                added = (1 - momentum) * (g + decay * x)
                first[i] = momentum * first[i] + added
                u = momentum * first[i] + added if nesterov else first[i]
                trust = 1.0 if excluded[i] else ratio(x, np.linalg.norm(u))
                layers[i] = x - rate(t) * trust * u
        out.append(list(layers))
    return out


def gated_transformer(
    variables: Mapping[str, np.ndarray],
    x: np.ndarray,
    num_layers: int,
    num_heads: int,
    memory_length: int,
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Outputs [T, D] of a GTrXL over one episode x [T, F], and the inputs of each layer, step by step.

    Parisotto et al. 2019, section 3.2: per layer, step and head one loop over the steps that may be seen.
    `variables` are named as in `tfrl.nn.recurrent.GatedTransformerXL`.
    """

    def normalise(x: np.ndarray, name: str) -> np.ndarray:
        scaled = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return scaled * variables[f"{name}/scale"] + variables[f"{name}/shift"]

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def gate(x: np.ndarray, y: np.ndarray, name: str) -> np.ndarray:
        w_r, w_z, w_g = np.split(variables[f"{name}/y_kernel"], 3, axis=1)
        u_r, u_z = np.split(variables[f"{name}/x_kernel"], 2, axis=1)
        r = sigmoid(y @ w_r + x @ u_r)
        z = sigmoid(y @ w_z + x @ u_z - variables[f"{name}/update_bias"])
        h = np.tanh(y @ w_g + (r * x) @ variables[f"{name}/candidate_kernel"])
        return (1 - z) * x + z * h

    current = [row @ variables["kernel"] + variables["bias"] for row in x]
    layers = []
    for i in range(num_layers):
        name, following = f"layer_{i}", []
        layers.append(current)
        normal = [normalise(e, f"{name}/attention_norm") for e in current]
        w_k, w_v = np.split(variables[f"{name}/key_value"], 2, axis=1)
        size = w_k.shape[1] // num_heads
        for t in range(len(current)):
            query = normal[t] @ variables[f"{name}/query"]
            read = []
            for h in range(num_heads):
                part = slice(h * size, (h + 1) * size)
                seen = range(max(0, t - memory_length), t + 1)
                scores = []
                for s in seen:
                    distance = variables[f"{name}/position"][memory_length - (t - s)]
                    score = (query + variables[f"{name}/content_bias"])[part] @ (normal[s] @ w_k)[
                        part
                    ]
                    score += (query + variables[f"{name}/position_bias"])[part] @ distance[part]
                    scores.append(score / np.sqrt(size))
                weights = np.exp(np.array(scores) - max(scores))
                weights /= weights.sum()
                read.append(
                    sum(w * (normal[s] @ w_v)[part] for w, s in zip(weights, seen, strict=True))
                )
            attended = np.concatenate(read) @ variables[f"{name}/output"]
            e = gate(current[t], np.maximum(attended, 0), f"{name}/attention_gate")
            y = normalise(e, f"{name}/mlp_norm")
            for j in range(2):
                y = y @ variables[f"{name}/mlp_kernel_{j}"] + variables[f"{name}/mlp_bias_{j}"]
                y = np.maximum(y, 0)
            following.append(gate(e, y, f"{name}/mlp_gate"))
        current = following
    return np.array(current), layers
