"""Writes the policy of a run as a SavedModel: `tfrl export`, and `launchers/export.py` of a checkout."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from tfrl.config import flags, trust
from tfrl.errors import SettingError
from tfrl.runtime.storage import folders
from tfrl.settings import setting, validate

_USAGE = """Writes the exported policy of a run as a SavedModel: tfrl export --run_dir=FOLDER [...]

The SavedModel needs only TensorFlow. It has `act(observation, state)`, `initial_state(batch_size)` and
the signature serving_default, for any batch size, and q_values or probabilities if the algorithm has
them. Observations and actions are those of the environment."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of this launcher."""

    run_dir: str = setting("", "folder of a finished run")
    trust_modules: tuple[str, ...] = setting(
        (), "your modules whose code the run folder may execute; by default it executes none"
    )
    out: str = setting(
        "", "folder to write; default: <run_dir>/export. An export in it is replaced"
    )
    lite: bool = setting(
        False, "also write policy.tflite for LiteRT, with batch size 1, to that folder"
    )

    def __post_init__(self) -> None:
        validate(self)


def main(argv: list[str]) -> int:
    """Exit code: 0, 2 for arguments that cannot be used, 130 when interrupted."""
    try:
        options, _ = flags.parse_options(Options, argv, _USAGE)
        run_dir = folders.finished_run(options.run_dir)
        out = pathlib.Path(options.out) if options.out else run_dir / "export"
        _check_out(out)
        trust.name(options.trust_modules)
        from tfrl.cli.quiet import quiet
        from tfrl.runtime import finish  # after the checks: TensorFlow

        with quiet(f"the export of {run_dir}"):
            finish.export_run(run_dir, out, options.lite)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    _describe(out)
    if options.lite:
        print(out / "policy.tflite")
    return 0


def _check_out(out: pathlib.Path) -> None:
    """Raises SettingError where nothing can be written, or other files would be replaced."""
    if out.is_dir() and any(out.iterdir()) and not (out / "saved_model.pb").exists():
        raise SettingError(
            f"out={str(out)!r}: a folder with other contents, which an export would replace"
        )
    if out.exists() and not out.is_dir():
        raise SettingError(f"out={str(out)!r}: a file, expected a folder")
    folders.check_writable(out)


def _describe(out: pathlib.Path) -> None:
    """Prints the signature as the written file has it."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(out)).signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    for title, specs in (("inputs", inputs), ("outputs", signature.structured_outputs)):
        print(f"serving_default {title}:")
        for name, spec in sorted(specs.items()):
            shape = ", ".join("batch" if side is None else str(side) for side in spec.shape)
            print(f"  {name}  {spec.dtype.name} [{shape}]")
