"""The errors that a user of tfrl meets. Nothing is imported here, so that every room can raise them."""


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, the given value and what was expected."""


class EnvironmentFailed(RuntimeError):
    """An environment called `sys.exit`, or its process failed or died; the message names the row."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message ends with the first error, its role, index and log file."""
