"""The interface of a backend of several processes; `Supervisor` decides what is done. Needs no TensorFlow."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

from tfrl.runtime.link import Status


@dataclasses.dataclass(eq=False)
class Member:
    """A process that plays a role of a run, and its supervisor's record of it.

    Attributes:
      role: 'actor', 'learner', 'replay', 'weights' or 'evaluator'.
      index: its id within the role, never used twice in a run; seeds derive from it.
      slot: its place within the role, which a replacement takes over.
      numbers: the newest that it has reported.
      ready_at: when it had built its parts.
      heard: when its last status came, or when it was started.
      idle_s: seconds since its own loop gave a sign of life, in its last status.
      granted: env steps that an actor may make in all.
      lease: of these, how many may be open at once.
      error: (name of the exception, trace) if the role failed.
      done: the role ended well.
    """

    role: str
    index: int
    slot: int
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    ready_at: float = math.inf
    heard: float = 0.0
    idle_s: float = 0.0
    granted: int = 0
    lease: int = 0
    error: tuple[str, str] | None = None
    done: bool = False

    @property
    def name(self) -> str:
        """Role and index, as in 'actor 3'."""
        return f"{self.role} {self.index}"


class Placement(abc.ABC):
    """The place where the members of a run live: starts them, carries statuses and orders, ends them.

    It has no rule of a run. A member runs `roles.play.play` with a `Link` to this placement. A method that
    takes a member is called between its `start` and its `kill`.
    """

    @abc.abstractmethod
    def start(self, member: Member) -> None:
        """Starts a member, without waiting until it is there."""

    @abc.abstractmethod
    def poll(self, timeout_s: float) -> list[tuple[Member, Status]]:
        """The statuses that have come, at most one of each member; waits for the first, or for an end, at most so long.

        A member sends its next status when `send` has answered this one.
        """

    @abc.abstractmethod
    def send(self, member: Member, orders: dict[str, Any]) -> None:
        """Answers the status of a member; one that has ended meanwhile is no error."""

    @abc.abstractmethod
    def alive(self, member: Member) -> bool:
        """Whether a member has not ended. Statuses sent before its end come with the next `poll`."""

    @abc.abstractmethod
    def exit_text(self, member: Member) -> str:
        """How a member ended, for a message, e.g. 'was killed by SIGKILL'."""

    @abc.abstractmethod
    def kill(self, member: Member) -> None:
        """Ends a member and all that it has started, at once, and forgets it; also one that has ended by itself."""

    @abc.abstractmethod
    def where(self, member: Member) -> str:
        """The place of a member's output, for a message."""

    @abc.abstractmethod
    def close(self) -> None:
        """Kills the members that are left, and gives back what all of them shared."""
