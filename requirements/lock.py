"""Writes and checks the hashed locks of this folder.

    python3.11 requirements/lock.py           # writes py311.txt, py311-all.txt, py311-gpu.txt
    python3.11 requirements/lock.py --keep    # adds what setup.py asks for, with all other versions as they are
    python3.11 requirements/lock.py --check   # resolves the three as they stand, installs nothing

Run it once with each supported Python; it needs nothing but the standard library and pip 23 or
newer (a recent pip reads metadata instead of downloading every wheel). The widest set is resolved
first and its versions bind the narrower ones, so a package has one version in all files of one
Python.

A lock is complete, so install it with

    pip install --no-deps --require-hashes -r requirements/py311.txt

(without --no-deps an old pip, 23.0 for one, trips over requirements with extras: etils[epath]).

Only the public index counts: extra indexes and local wheel folders set up on the machine are left
out. A lock holds names, versions and hashes, and no address.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SETUP = HERE.parent / "setup.py"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
SUPPORTED = ("3.10", "3.11")

# What `make` installs; the rest is asked for by name (`make install EXTRAS=all`).
DEFAULT_EXTRAS = ("atari", "box2d", "dev", "mujoco", "video")
# Clients of services that a user runs, what needs an older mujoco than the lock's, and the data of one script of the
# benchmarks; whoever wants one installs it beside the lock.
UNLOCKED = {"dm_control", "mlflow", "robotics", "sklearn", "wandb"}
# Never a dependency of tfrl: it is what the benchmarks compare with.
FORBIDDEN = ("torch",)

LEGACY_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


def read_setup():
    """The literals INSTALL_REQUIRES and EXTRAS of setup.py, read without running it."""
    values = {}
    for node in ast.parse(SETUP.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in ("INSTALL_REQUIRES", "EXTRAS"):
                values[node.targets[0].id] = ast.literal_eval(node.value)
    return values["INSTALL_REQUIRES"], values["EXTRAS"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def run_pip(*arguments):
    env = {
        k: v for k, v in os.environ.items() if k not in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
    }
    env["PIP_CONFIG_FILE"] = os.devnull
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run"]
    command += ["--quiet", "--ignore-installed", "--only-binary=:all:", *arguments]
    subprocess.run(command, env=env, check=True)


def resolve(requirements, constraints):
    """Name -> (version, hashes, wheel file name) of everything that `requirements` pulls in."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        bounds = pathlib.Path(folder, "constraints.txt")
        bounds.write_text("".join(f"{n}=={v}\n" for n, (v, _, _) in constraints.items()))
        run_pip("--report", str(report), "-c", str(bounds), *requirements)
        items = json.loads(report.read_text())["install"]
    found = {}
    for item in items:
        name = canonical(item["metadata"]["name"])
        if name in FORBIDDEN:
            raise SystemExit(f"{name} must not be in a lock, but something now depends on it")
        info = item["download_info"]
        sha256 = info["archive_info"]["hashes"]["sha256"]
        found[name] = (item["metadata"]["version"], sha256, info["url"].rsplit("/", 1)[-1])
    return found


def pins(path):
    """Name -> (version, '', '') of the packages in a lock."""
    found = re.findall(r"^([\w.-]+)==(\S+) ", path.read_text(), re.MULTILINE)
    return {name: (version, "", "") for name, version in found}


def glibc_of(wheel):
    """The oldest glibc that a wheel accepts, (0, 0) for one without compiled code."""
    tags = wheel.removesuffix(".whl").rsplit("-", 1)[-1].split(".")
    versions = [LEGACY_GLIBC[t.split("_")[0]] for t in tags if t.split("_")[0] in LEGACY_GLIBC]
    for tag in tags:
        match = re.match(r"manylinux_(\d+)_(\d+)_", tag)
        if match:
            versions.append((int(match[1]), int(match[2])))
    return min(versions, default=(0, 0))


def write(path, extras, found):
    major, minor = max(glibc_of(wheel) for _, _, wheel in found.values())
    lines = [
        f"# Written by `python{PYTHON} requirements/lock.py` from setup.py; do not edit.",
        f"# tfrl with the extras {', '.join(extras)}.",
        f"# Holds for Python {PYTHON} on Linux x86_64 with glibc {major}.{minor} or newer: of each",
        "# release, only the hash of the wheel that is used there is recorded.",
    ]
    for name, (version, sha256, _) in sorted(found.items()):
        lines += [f"{name}=={version} \\", f"    --hash=sha256:{sha256}"]
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(found)} packages")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="resolve the files as they stand")
    parser.add_argument("--keep", action="store_true", help="keep the versions in the files")
    options = parser.parse_args()
    check = options.check
    if PYTHON not in SUPPORTED:
        raise SystemExit(
            f"locks are written for Python {' and '.join(SUPPORTED)}, this is {PYTHON}"
        )

    base, extras = read_setup()
    sets = {  # widest first
        "-gpu": sorted(set(extras) - UNLOCKED),
        "-all": sorted(set(extras) - UNLOCKED - {"gpu"}),
        "": sorted(DEFAULT_EXTRAS),
    }
    widest = {}
    if options.keep:
        widest = pins(HERE / f"py{PYTHON.replace('.', '')}-gpu.txt")
    for suffix, names in sets.items():
        path = HERE / f"py{PYTHON.replace('.', '')}{suffix}.txt"
        if check:
            run_pip("--require-hashes", "-r", str(path))
            print(f"{path.name}: resolves")
            continue
        found = resolve(base + [r for name in names for r in extras[name]], widest)
        widest = {**widest, **found}
        write(path, names, found)


if __name__ == "__main__":
    main()
